"""Draws meshes with moderngl on EGL: no window, and no GPU needed (Mesa's llvmpipe is one).

Lighting is symmetric about the vertical axis (light from above plus a headlight), so that a view
depends on the azimuth relative to the object alone, mirror images are exact, and the colours stay
near the material's: a surface seen head-on has 96% of it. Light multiplies sRGB values, as in the
catalogues' own pictures; the factors of a colour are multiplied as sRGB or as linear light, as the
part says. A part's own light is added to that as linear light and needs no other. Another light
than this one is a `lights.Light`.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.layers import decode_normals
from iso3d_jax.data.lights import EVEN, Light
from iso3d_jax.data.meshes import Part
from iso3d_jax.data.textures import srgb_to_linear

SUPERSAMPLING = 4
INVISIBLE = 0.02  # materials less opaque than this are not rendered
VIEW = "view"  # what is drawn that is no layer
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
# Each part has a program of what it needs and no more: software renderers run both sides of an if.
_FRAGMENT = """
#version 330
CONSTANTS
uniform vec3 eye; uniform vec4 colour; uniform vec3 glow;
uniform float low; uniform float high;  // alphas below and from which nothing is drawn
uniform sampler2D image; uniform sampler2D glow_image;
uniform vec4 shares; uniform vec3 key_from;  // of a light that is not the even one
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
  if (cut && (base.a < low || base.a >= high)) discard;
  if (whole) base.a = 1.0;
  vec3 to_eye = normalize(eye - position);
  vec3 n = normalize(normal);
  if (!(dot(n, n) > 0.5)) n = to_eye;
  if (dot(n, to_eye) < 0.0) n = -n;
  if (normals) {
    result = vec4(0.5 * n + 0.5, 1.0);
    return;
  }
  float light = unlit ? 1.0 : min(0.42 + 0.14 * (1.0 + n.z) + 0.40 * dot(n, to_eye), 1.0);
  if (keyed) {
    light = shares.x + shares.y * (1.0 + n.z) + shares.z * dot(n, to_eye);
    light = min(light + shares.w * max(dot(n, key_from), 0.0), 1.0);
  }
  vec3 seen = clamp(base.rgb * light, 0.0, 1.0);
  if (glowing) {
    vec3 own = glow;
    if (glow_textured) own *= texel(glow_image, glow_uv, glow_mirrored).rgb;
    if (own != vec3(0.0)) seen = to_srgb(to_linear(seen) + own);
  }
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


def shrink(premultiplied: UInt8[np.ndarray, "H W 4"], factor: int) -> UInt8[np.ndarray, "h w 4"]:
    """Box-filters a premultiplied picture and returns straight alpha.

    Edge pixels keep the colour of the object: colours are averaged premultiplied and divided by
    the averaged alpha. Where alpha is 0 the colour is 0.

    Args:
      premultiplied: sides that `factor` divides.
      factor: 16 at most: sums have 16 bits.
    """
    h, w = premultiplied.shape[0] // factor, premultiplied.shape[1] // factor
    rows = premultiplied.reshape(h, factor, w * factor, 4)
    sums = rows[:, 0].astype(np.uint16)
    for k in range(1, factor):
        sums += rows[:, k]
    # Four sums of 16 bits are added as one number of 64: none of them carries into the next.
    columns = np.ascontiguousarray(sums).view(np.uint64).reshape(h, w, factor)
    total = columns[..., 0].copy()
    for k in range(1, factor):
        total += columns[..., k]
    means = total.view(np.uint16).reshape(h, w, 4).astype(np.float32)
    alpha = means[..., 3:]
    means[..., :3] *= 255 / np.maximum(alpha, 1)
    alpha *= 1 / factor**2
    out = np.minimum(np.rint(means), 255).astype(np.uint8)
    out[out[..., 3] == 0] = 0
    return out


def _occupied(mask: np.ndarray, factor: int) -> slice:
    """From the first to the last that is not zero, in whole multiples of `factor`."""
    found = np.flatnonzero(mask)
    if not found.size:
        return slice(0, 0)
    return slice(int(found[0]) // factor * factor, (int(found[-1]) // factor + 1) * factor)


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
        self._pixels = np.empty((side, side, 4), np.uint8)
        self._programs: dict[_Needs, Any] = {}
        self._loaded: list[_Item] = []
        self._light = EVEN

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Frees the context."""
        self._free()
        self._target.release()
        for program in self._programs.values():
            program.release()
        self._ctx.release()

    def _free(self):
        for item in self._loaded:
            arrays = [array for drawn in item.drawn.values() for _, array, _ in drawn]
            for resource in (*arrays, item.buffer, item.texture, item.glow):
                if resource is not None:
                    resource.release()
        self._loaded = []

    def load(self, parts: list[Part], light: Light = EVEN):
        """Puts the parts of one object on the device, in place of the last one's, and the light."""
        self._free()
        self._light = light
        for part in parts:
            if not find_passes(part):
                continue
            glow = part.glow
            colour = np.asarray(part.colour, np.float64)
            colour = srgb_to_linear(colour) if part.linear else colour
            uniforms: dict[str, Any] = {"colour": (*colour, part.opacity)}
            textures = [self._texture(part.texture, part.wrap, part.nearest, part.linear), None]
            if glow is not None:
                uniforms["glow"] = tuple(glow.colour)
                textures[1] = self._texture(glow.texture, glow.wrap, glow.nearest, True)
            columns, data = _corners(part)
            buffer = self._ctx.buffer(data)
            self._loaded.append(
                _Item(
                    part=part,
                    buffer=buffer,
                    columns=columns,
                    texture=textures[0],
                    glow=textures[1],
                    uniforms=uniforms,
                    centre=part.positions.mean((0, 1)),
                )
            )
            self._find_drawn(self._loaded[-1], VIEW)

    def _find_drawn(self, item: "_Item", shows: str) -> list[tuple["_Pass", Any, Any]]:
        """The passes of a part for a view or a layer, each with its corners and program."""
        if shows not in item.drawn:
            found = find_passes(item.part)
            if shows in ("depth", "normals"):
                found = found if all(how.whole for how in found) else [_HALF]
            item.drawn[shows] = []
            for how in found:
                needs = _needs(item.part, how, shows, self._light is not EVEN)
                program = self._find_program(needs)
                array = self._read_by(program, item.buffer, item.columns)
                item.drawn[shows].append((how, array, program))
        return item.drawn[shows]

    def _find_program(self, needs: "_Needs") -> Any:
        """The program for parts of such needs, made when it is first asked for."""
        if needs not in self._programs:
            constants = [f"const bool {k} = {_glsl(v)};" for k, v in needs._asdict().items()
                         if not isinstance(v, tuple)]  # fmt: skip
            constants += [f"const bvec2 {k} = bvec2({_glsl(v[0])}, {_glsl(v[1])});"
                          for k, v in needs._asdict().items() if isinstance(v, tuple)]  # fmt: skip
            self._programs[needs] = self._ctx.program(
                vertex_shader=_VERTEX,
                fragment_shader=_FRAGMENT.replace("CONSTANTS", "\n".join(constants)),
            )
        return self._programs[needs]

    def _read_by(self, program: Any, buffer: Any, columns: dict[str, int]) -> Any:
        """How a program reads the corners; it has no names for columns that it does not need."""
        layout = " ".join(f"{n}f" if c in program else f"{4 * n}x" for c, n in columns.items())
        used = [c for c in columns if c in program]
        return self._ctx.vertex_array(program, [(buffer, layout, *used)])

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
        self._draw(VIEW, c2w, fov_deg)
        self._target.read_into(self._pixels, components=4)
        return self._shrunk()

    def render_layer(self, layer: str, c2w: Float[np.ndarray, "4 4"], fov_deg: float) -> np.ndarray:
        """What one view of the loaded object shows beside its light.

        Args:
          layer: one of `layers.LAYERS`.

        Returns:
          albedo: uint8 [res, res, 4], the colours without light, straight alpha.
          normals: float32 [res, res, 3], shading normals in the world that face the eye, unit.
          depth: float32 [res, res] along the camera's axis, of the nearest that a pixel shows.
          The last two are of what is at least half opaque, and 0 where there is none.
        """
        near, far = self._draw(layer, c2w, fov_deg)
        if layer != "depth":
            self._target.read_into(self._pixels, components=4)
            picture = self._shrunk()
            return decode_normals(picture[..., :3]) if layer == "normals" else picture
        side, factor = self.resolution, self.supersampling
        data = self._target.read(components=1, attachment=-1, dtype="f4")
        window = np.frombuffer(data, np.float32).reshape(side, factor, side, factor).min((1, 3))
        window = window[::-1].astype(np.float64)  # OpenGL's row 0 is the bottom
        depth = 2 * far * near / (far + near - (2 * window - 1) * (far - near))
        return np.where(window < 1, depth, 0.0).astype(np.float32)

    def _draw(self, shows: str, c2w: Float[np.ndarray, "4 4"], fov_deg: float):
        """Draws a view or a layer; returns the distances of the near and the far plane."""
        gl, ctx = self._gl, self._ctx
        distance = float(np.linalg.norm(c2w[:3, 3]))
        near, far = max(distance - 1.05, 0.02), distance + 1.05
        matrix = projection(fov_deg, near, far) @ world_to_camera(np.asarray(c2w, np.float64))
        eye = np.asarray(c2w, np.float64)[:3, 3]
        drawn = [
            (item, passed) for item in self._loaded for passed in self._find_drawn(item, shows)
        ]
        self._target.use()
        ctx.viewport = (0, 0, self._side, self._side)
        self._target.depth_mask = True
        self._target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        ctx.depth_func = "<="
        ctx.blend_func = (gl.ONE, gl.ONE_MINUS_SRC_ALPHA)
        ctx.front_face, ctx.cull_face = "ccw", "back"
        view = {"projection_from_world": matrix.T.astype("f4").tobytes()}
        values = {"eye": tuple(eye), "image": 0, "glow_image": 1}
        values |= {"shares": tuple(self._light[:4]), "key_from": tuple(self._light.direction)}
        for program in self._programs.values():
            _set(program, values)
            for name, content in view.items():
                program[name].write(content)
        for item, passed in drawn:
            if passed[0].fills:
                self._render(item, *passed)
        see_through = [(item, passed) for item, passed in drawn if not passed[0].fills]
        see_through.sort(key=lambda pair: -float(np.linalg.norm(pair[0].centre - eye)))
        for item, passed in see_through:
            self._render(item, *passed)
        self._target.depth_mask = True
        return near, far

    def _shrunk(self) -> UInt8[np.ndarray, "res res 4"]:
        """The pixels as a picture; where there is nothing nothing is added up."""
        factor, side = self.supersampling, self.resolution
        whole = self._pixels.view(np.uint32)[..., 0]
        rows = _occupied(np.asarray(whole.any(1)), factor)
        columns = _occupied(np.asarray(whole[rows].any(0)), factor)
        out = np.zeros((side, side, 4), np.uint8)
        if rows.stop and columns.stop:
            small = shrink(self._pixels[rows, columns], factor)
            top, left = rows.start // factor, columns.start // factor
            out[top : top + len(small), left : left + small.shape[1]] = small
        return np.ascontiguousarray(out[::-1])  # OpenGL's row 0 is the bottom

    def _render(self, item: "_Item", how: "_Pass", array: Any, program: Any):
        gl = self._gl
        culled = 0 if item.part.two_sided else gl.CULL_FACE
        blend = 0 if how.whole else gl.BLEND
        self._ctx.enable_only(gl.DEPTH_TEST | blend | culled)
        self._target.depth_mask = how.fills
        _set(program, item.uniforms | {"low": how.low, "high": how.high})
        for unit, texture in enumerate((item.texture, item.glow)):
            if texture is not None:
                texture.use(unit)
        array.render(gl.TRIANGLES)


def _set(program: Any, values: dict[str, Any]):
    """Sets those uniforms that a program has."""
    for name, value in values.items():
        if name in program:
            program[name].value = value


def _glsl(value: bool) -> str:
    return "true" if value else "false"


class _Pass(NamedTuple):
    """Which alphas are drawn, [low, high), whether as if they were 1, and into the depth buffer."""

    low: float
    high: float
    whole: bool
    fills: bool


_HALF = _Pass(0.5, _ALL, True, True)  # what is at least half opaque, as if it were solid


class _Needs(NamedTuple):
    """What a part's program is made for."""

    textured: bool
    tinted: bool
    linear: bool
    unlit: bool
    glowing: bool
    glow_textured: bool
    cut: bool
    whole: bool
    keyed: bool
    normals: bool
    mirrored: tuple[bool, bool]
    glow_mirrored: tuple[bool, bool]


def _needs(part: Part, how: _Pass, shows: str, keyed: bool) -> _Needs:
    glow = part.glow if shows == VIEW else None
    unlit = part.unlit or shows != VIEW
    return _Needs(
        textured=part.texture is not None,
        tinted=part.tint is not None,
        linear=part.linear,
        unlit=unlit,
        glowing=glow is not None,
        glow_textured=glow is not None and glow.texture is not None,
        cut=how.low > 0 or how.high < _ALL,
        whole=how.whole,
        keyed=keyed and not unlit,
        normals=shows == "normals",
        mirrored=_mirrored(part.wrap),
        glow_mirrored=(False, False) if glow is None else _mirrored(glow.wrap),
    )


def _mirrored(wrap) -> tuple[bool, bool]:
    return wrap[0] == "mirror", wrap[1] == "mirror"


def _corners(part: Part) -> tuple[dict[str, int], Float[np.ndarray, "N C"]]:
    """The corners of a part as the device takes them: the width of each column, and the table."""
    columns = {"in_position": part.positions, "in_normal": part.normals, "in_uv": part.uv}
    if part.tint is not None:
        columns["in_tint"] = part.tint
    if part.glow is not None and part.glow.uv is not None:
        columns["in_glow_uv"] = part.glow.uv
    flat = [
        np.asarray(column, "f4").reshape(3 * len(part.positions), -1) for column in columns.values()
    ]
    widths = {name: column.shape[1] for name, column in zip(columns, flat, strict=True)}
    return widths, np.concatenate(flat, axis=1)


@dataclasses.dataclass
class _Item:
    """A part on the device; of each view or layer its passes, with their corners and programs."""

    part: Part
    buffer: Any
    columns: dict[str, int]
    texture: Any
    glow: Any
    uniforms: dict[str, Any]
    centre: np.ndarray
    drawn: dict[str, list[tuple[_Pass, Any, Any]]] = dataclasses.field(default_factory=dict)


def find_passes(part: Part) -> list[_Pass]:
    """How the alpha of a part is drawn: what is solid, then what is mixed with what is behind."""
    solid = _Pass(-_ALL, _ALL, True, True)
    if part.alpha == "opaque":
        return [solid]
    if part.alpha == "mask":
        return [solid._replace(low=part.cutoff)]
    if part.opacity < INVISIBLE:
        return []
    if part.alpha == "blend":
        # What is as good as solid hides what is behind it, in whatever order parts are drawn.
        return [solid._replace(low=SOLID), _Pass(1 / 512, SOLID, False, False)]
    if part.opacity < SOLID:
        return [_Pass(0.0, _ALL, False, False)]
    if part.texture is not None and (part.texture[..., 3] < 250).any():
        # Leaves and lattices are cut out; stained glass and the like are blended.
        alpha = part.texture[..., 3]
        if ((alpha < 26) | (alpha > 229)).mean() > 0.8:
            return [solid._replace(low=0.5)]
        return [_Pass(0.02, _ALL, False, False)]
    return [_Pass(0.0, _ALL, False, True)]
