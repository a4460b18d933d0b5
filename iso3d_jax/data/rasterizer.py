"""Draws meshes with moderngl on EGL: no window, and no GPU needed (Mesa's llvmpipe is one).

Lighting is symmetric about the vertical axis (light from above plus a headlight), so that a view
depends on the azimuth relative to the object alone, mirror images are exact, and the colours stay
near the material's: a surface seen head-on has 96% of it. Light multiplies sRGB values, as in the
catalogues' own pictures; the factors of a colour are multiplied as sRGB or as linear light, as the
part says. A part's own light is added to that as linear light and needs no other.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.meshes import Part
from iso3d_jax.data.textures import srgb_to_linear

SUPERSAMPLING = 4
INVISIBLE = 0.02  # materials less opaque than this are not rendered
SOLID = 0.99  # materials more opaque than this hide what is behind them

_VERTEX = """
#version 330
uniform mat4 projection_from_world;
in vec3 in_position; in vec3 in_normal; in vec2 in_uv; in vec4 in_tint; in vec2 in_glow_uv;
out vec3 position; out vec3 normal; out vec2 uv; out vec4 tint; out vec2 glow_uv;
void main() {
  position = in_position; normal = in_normal; uv = in_uv; tint = in_tint; glow_uv = in_glow_uv;
  gl_Position = projection_from_world * vec4(in_position, 1.0);
}
"""
_FRAGMENT = """
#version 330
uniform vec3 eye; uniform vec4 colour; uniform vec3 glow;
uniform bool tinted; uniform bool linear; uniform bool unlit; uniform bool whole;
uniform float low; uniform float high;  // alphas below and from which nothing is drawn
uniform bool textured; uniform sampler2D image; uniform bvec2 mirrored;
uniform bool glow_textured; uniform sampler2D glow_image; uniform bvec2 glow_mirrored;
in vec3 position; in vec3 normal; in vec2 uv; in vec4 tint; in vec2 glow_uv;
out vec4 result;
vec3 to_srgb(vec3 x) {
  x = clamp(x, 0.0, 1.0);
  return mix(1.055 * pow(x, vec3(1.0 / 2.4)) - 0.055, 12.92 * x, lessThan(x, vec3(0.0031308)));
}
vec3 to_linear(vec3 x) {
  return mix(pow((x + 0.055) / 1.055, vec3(2.4)), x / 12.92, lessThan(x, vec3(0.04045)));
}
vec4 texel(sampler2D from, vec2 at, bvec2 mirror) {
  vec2 folded = mix(at, abs(at - 2.0 * round(at / 2.0)), mirror);
  return textureGrad(from, folded, dFdx(at), dFdy(at));
}
void main() {
  vec4 base = colour;
  if (textured) base *= texel(image, uv, mirrored);
  if (tinted) base *= tint;
  if (linear) base.rgb = to_srgb(base.rgb);
  vec3 own = glow;
  if (glow_textured) own *= texel(glow_image, glow_uv, glow_mirrored).rgb;
  if (base.a < low || base.a >= high) discard;
  if (whole) base.a = 1.0;
  vec3 to_eye = normalize(eye - position);
  vec3 n = normalize(normal);
  if (!(dot(n, n) > 0.5)) n = to_eye;
  if (dot(n, to_eye) < 0.0) n = -n;
  float light = unlit ? 1.0 : min(0.42 + 0.14 * (1.0 + n.z) + 0.40 * dot(n, to_eye), 1.0);
  vec3 seen = clamp(base.rgb * light, 0.0, 1.0);
  if (own != vec3(0.0)) seen = to_srgb(to_linear(seen) + own);
  result = vec4(seen * base.a, base.a);
}
"""
_SRGB8_ALPHA8 = 0x8C43  # texels are linear light once read
_ALL = 1e30  # an alpha that none reaches


def projection(fov_deg: float, near: float, far: float) -> Float[np.ndarray, "4 4"]:
    """OpenGL perspective matrix of a square picture."""
    f = 1 / np.tan(np.radians(fov_deg) / 2)
    return np.array(
        [
            [f, 0, 0, 0],
            [0, f, 0, 0],
            [0, 0, (far + near) / (near - far), 2 * far * near / (near - far)],
            [0, 0, -1, 0],
        ]
    )


def world_to_camera(c2w: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Inverse of a rigid camera-to-world matrix."""
    inverse = np.eye(4)
    inverse[:3, :3] = c2w[:3, :3].T
    inverse[:3, 3] = -c2w[:3, :3].T @ c2w[:3, 3]
    return inverse


def shrink(premultiplied: Float[np.ndarray, "H W 4"], factor: int) -> UInt8[np.ndarray, "h w 4"]:
    """Box-filters a premultiplied picture and returns straight alpha.

    Edge pixels keep the colour of the object: colours are averaged premultiplied and divided by
    the averaged alpha. Where alpha is 0 the colour is 0.
    """
    h, w = premultiplied.shape[0] // factor, premultiplied.shape[1] // factor
    mean = premultiplied.reshape(h, factor, w, factor, 4).mean((1, 3))
    alpha = mean[..., 3:]
    straight = np.where(alpha > 0, mean[..., :3] / np.maximum(alpha, 1e-6), 0.0)
    out = to_uint8(np.concatenate([straight, alpha], -1))
    out[out[..., 3] == 0] = 0
    return out


class Rasterizer:
    """An EGL context with one square frame buffer. Use as a context manager or call `close`."""

    def __init__(self, resolution: int, supersampling: int = SUPERSAMPLING):
        try:
            import moderngl
        except ImportError:
            raise extras.missing("moderngl") from None
        try:
            self._ctx = moderngl.create_context(
                standalone=True,
                backend="egl",  # pyright: ignore[reportArgumentType]
            )
        except Exception as e:
            raise UserError(
                f"no EGL context for rendering ({e}); on Debian or Ubuntu install it with: "
                "apt install libegl1 libgl1-mesa-dri"
            ) from None
        self._gl = moderngl
        self.resolution, self.supersampling = resolution, supersampling
        side = resolution * supersampling
        self._side = side
        self._target = self._ctx.framebuffer(
            [self._ctx.texture((side, side), 4)], self._ctx.depth_renderbuffer((side, side))
        )
        self._program = self._ctx.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._uniforms: Any = self._program  # moderngl's types leave open what a name stands for
        self._loaded: list[_Item] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Frees the context."""
        self._free()
        self._target.release()
        self._program.release()
        self._ctx.release()

    def _free(self):
        for item in self._loaded:
            for resource in (item.array, item.buffer, item.texture, item.glow):
                if resource is not None:
                    resource.release()
        self._loaded = []

    def load(self, parts: list[Part]):
        """Puts the parts of one object on the device, in place of the last one's."""
        self._free()
        for part in parts:
            passes, blended = _passes(part)
            if not passes and not blended:
                continue
            buffer, array = self._upload(part)
            glow = part.glow
            colour = np.asarray(part.colour, np.float64)
            self._loaded.append(
                _Item(
                    array=array,
                    buffer=buffer,
                    texture=self._texture(part.texture, part.wrap, part.nearest, part.linear),
                    glow=None
                    if glow is None
                    else self._texture(glow.texture, glow.wrap, glow.nearest, True),
                    uniforms={
                        "colour": (
                            *(srgb_to_linear(colour) if part.linear else colour),
                            part.opacity,
                        ),
                        "tinted": part.tint is not None,
                        "linear": part.linear,
                        "unlit": part.unlit,
                        "textured": part.texture is not None,
                        "mirrored": tuple(w == "mirror" for w in part.wrap),
                        "glow": (0.0, 0.0, 0.0) if glow is None else tuple(glow.colour),
                        "glow_textured": glow is not None and glow.texture is not None,
                        "glow_mirrored": (False, False)
                        if glow is None
                        else tuple(w == "mirror" for w in glow.wrap),
                    },
                    passes=passes,
                    blended=blended,
                    two_sided=part.two_sided,
                    centre=part.positions.mean((0, 1)),
                )
            )

    def _upload(self, part: Part):
        """The corners of a part on the device: the buffer and how it is read."""
        columns = {"in_position": part.positions, "in_normal": part.normals, "in_uv": part.uv}
        if part.tint is not None:
            columns["in_tint"] = part.tint
        if part.glow is not None and part.glow.uv is not None:
            columns["in_glow_uv"] = part.glow.uv
        data = np.empty((3 * len(part.positions), sum(c.shape[-1] for c in columns.values())), "f4")
        at = 0
        for column in columns.values():
            width = column.shape[-1]
            data[:, at : at + width] = column.reshape(-1, width)
            at += width
        buffer = self._ctx.buffer(data)
        layout = " ".join(f"{c.shape[-1]}f" for c in columns.values())
        return buffer, self._ctx.vertex_array(self._program, [(buffer, layout, *columns)])

    def _texture(self, picture: np.ndarray | None, wrap, nearest: bool, linear: bool):
        if picture is None:
            return None
        flipped = np.ascontiguousarray(picture[::-1])  # OpenGL's row 0 is the bottom
        texture = self._ctx.texture(
            flipped.shape[1::-1], 4, flipped.tobytes(),
            internal_format=_SRGB8_ALPHA8 if linear else None,
        )  # fmt: skip
        texture.build_mipmaps()
        near = self._gl.NEAREST if nearest else self._gl.LINEAR
        texture.filter = (self._gl.LINEAR_MIPMAP_LINEAR, near)
        texture.repeat_x, texture.repeat_y = (w == "repeat" for w in wrap)
        return texture

    def render(
        self, c2w: Float[np.ndarray, "4 4"], fov_deg: float
    ) -> UInt8[np.ndarray, "res res 4"]:
        """One view of the loaded object: straight-alpha RGBA, row 0 at the top.

        Args:
          c2w: OpenGL camera to world (columns right, up, backward, position).
          fov_deg: vertical and horizontal field of view.
        """
        gl, ctx = self._gl, self._ctx
        distance = float(np.linalg.norm(c2w[:3, 3]))
        near, far = max(distance - 1.05, 0.02), distance + 1.05
        matrix = projection(fov_deg, near, far) @ world_to_camera(np.asarray(c2w, np.float64))
        eye = np.asarray(c2w, np.float64)[:3, 3]
        self._target.use()
        ctx.viewport = (0, 0, self._side, self._side)
        self._target.depth_mask = True
        self._target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        ctx.depth_func = "<="
        ctx.blend_func = (gl.ONE, gl.ONE_MINUS_SRC_ALPHA)
        ctx.front_face, ctx.cull_face = "ccw", "back"
        uniforms = self._uniforms
        uniforms["projection_from_world"].write(matrix.T.astype("f4").tobytes())
        uniforms["eye"].value = tuple(eye)
        uniforms["image"].value, uniforms["glow_image"].value = 0, 1
        for item in self._loaded:
            for how in item.passes:
                self._render(item, how, depth=True)
        see_through = [(item, item.blended) for item in self._loaded if item.blended is not None]
        see_through.sort(key=lambda pair: -float(np.linalg.norm(pair[0].centre - eye)))
        for item, how in see_through:
            self._render(item, how, depth=False)
        self._target.depth_mask = True
        raw = np.frombuffer(self._target.read(components=4), np.uint8)
        picture = raw.reshape(self._side, self._side, 4)[::-1].astype(np.float32) / 255
        return shrink(picture, self.supersampling)

    def _render(self, item: "_Item", how: "_Pass", depth: bool):
        gl = self._gl
        culled = 0 if item.two_sided else gl.CULL_FACE
        self._ctx.enable_only(gl.DEPTH_TEST | gl.BLEND | culled)
        self._target.depth_mask = depth
        for name, value in (item.uniforms | how._asdict()).items():
            self._uniforms[name].value = value
        for unit, texture in enumerate((item.texture, item.glow)):
            if texture is not None:
                texture.use(unit)
        item.array.render(gl.TRIANGLES)


class _Pass(NamedTuple):
    """Which alphas are drawn, [low, high), and whether as if they were 1."""

    low: float
    high: float
    whole: bool


@dataclasses.dataclass
class _Item:
    """A part on the device: `passes` fill the depth buffer, `blended` follows and does not."""

    array: Any
    buffer: Any
    texture: Any
    glow: Any
    uniforms: dict[str, Any]
    passes: list[_Pass]
    blended: _Pass | None
    two_sided: bool
    centre: np.ndarray


def _passes(part: Part) -> tuple[list[_Pass], _Pass | None]:
    """How the alpha of a part is drawn: what is solid, and what is mixed with what is behind."""
    solid = _Pass(-_ALL, _ALL, True)
    if part.alpha == "opaque":
        return [solid], None
    if part.alpha == "mask":
        return [solid._replace(low=part.cutoff)], None
    if part.opacity < INVISIBLE:
        return [], None
    if part.alpha == "blend":
        # What is as good as solid hides what is behind it, in whatever order parts are drawn.
        return [solid._replace(low=SOLID)], _Pass(1 / 512, SOLID, False)
    if part.opacity < SOLID:
        return [], _Pass(0.0, _ALL, False)
    if part.texture is not None and (part.texture[..., 3] < 250).any():
        # Leaves and lattices are cut out; stained glass and the like are blended.
        alpha = part.texture[..., 3]
        if ((alpha < 26) | (alpha > 229)).mean() > 0.8:
            return [solid._replace(low=0.5)], None
        return [], _Pass(0.02, _ALL, False)
    return [_Pass(0.0, _ALL, False)], None
