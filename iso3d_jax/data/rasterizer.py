"""Draws meshes with moderngl on EGL: no window, and no GPU needed (Mesa's llvmpipe is one).

Lighting is symmetric about the vertical axis (light from above plus a headlight), so that a view
depends on the azimuth relative to the object alone, mirror images are exact, and the colours stay
near the material's: a surface seen head-on has 96% of it. Colours are multiplied in sRGB, as the
catalogues' own pictures do.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.meshes import Part

SUPERSAMPLING = 4
INVISIBLE = 0.02  # materials less opaque than this are not rendered

_VERTEX = """
#version 330
uniform mat4 projection_from_world;
in vec3 in_position; in vec3 in_normal; in vec2 in_uv;
out vec3 position; out vec3 normal; out vec2 uv;
void main() {
  position = in_position; normal = in_normal; uv = in_uv;
  gl_Position = projection_from_world * vec4(in_position, 1.0);
}
"""
_FRAGMENT = """
#version 330
uniform vec3 eye; uniform vec4 colour; uniform bool textured; uniform float cutoff;
uniform sampler2D image;
in vec3 position; in vec3 normal; in vec2 uv;
out vec4 result;
void main() {
  vec4 base = colour;
  if (textured) base *= texture(image, uv);
  if (base.a < cutoff) discard;
  if (cutoff > 0.25) base.a = 1.0;
  vec3 to_eye = normalize(eye - position);
  vec3 n = normalize(normal);
  if (!(dot(n, n) > 0.5)) n = to_eye;
  if (dot(n, to_eye) < 0.0) n = -n;
  float light = 0.42 + 0.14 * (1.0 + n.z) + 0.40 * dot(n, to_eye);
  result = vec4(base.rgb * min(light, 1.0) * base.a, base.a);
}
"""


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
        self._loaded: list = []

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
            for resource in (item["array"], item["buffer"], item["texture"]):
                if resource is not None:
                    resource.release()
        self._loaded = []

    def load(self, parts: list[Part]):
        """Puts the parts of one object on the device, in place of the last one's."""
        self._free()
        for part in parts:
            if part.opacity < INVISIBLE:
                continue
            data = np.concatenate([part.positions, part.normals, part.uv], -1).astype("f4")
            buffer = self._ctx.buffer(np.ascontiguousarray(data).tobytes())
            array = self._ctx.vertex_array(
                self._program, [(buffer, "3f 3f 2f", "in_position", "in_normal", "in_uv")]
            )
            texture, blended, cutoff = None, part.opacity < 0.99, 0.0
            # A texture replaces the material's colour: Kd beside a map is whatever the exporter
            # left there (often dark), and the catalogues' own pictures ignore it too.
            tint = part.colour if part.texture is None else (1.0, 1.0, 1.0)
            if part.texture is not None:
                texture = self._texture(part.texture)
                alpha = part.texture[..., 3]
                if (alpha < 250).any() and not blended:
                    # Leaves and lattices are cut out; stained glass and the like are blended.
                    sharp = ((alpha < 26) | (alpha > 229)).mean() > 0.8
                    blended, cutoff = (False, 0.5) if sharp else (True, 0.02)
            self._loaded.append(
                {
                    "array": array,
                    "buffer": buffer,
                    "texture": texture,
                    "colour": (*tint, part.opacity),
                    "blended": blended,
                    "cutoff": cutoff,
                    "centre": part.positions.mean((0, 1)),
                }
            )

    def _texture(self, picture: np.ndarray):
        flipped = np.ascontiguousarray(picture[::-1])  # OpenGL's row 0 is the bottom
        texture = self._ctx.texture(flipped.shape[1::-1], 4, flipped.tobytes())
        texture.build_mipmaps()
        texture.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
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
        ctx.enable_only(gl.DEPTH_TEST | gl.BLEND)
        ctx.depth_func = "<="
        ctx.blend_func = (gl.ONE, gl.ONE_MINUS_SRC_ALPHA)
        uniforms: Any = self._program  # moderngl's types leave open what a name stands for
        uniforms["projection_from_world"].write(matrix.T.astype("f4").tobytes())
        uniforms["eye"].value = tuple(eye)
        opaque = [item for item in self._loaded if not item["blended"]]
        see_through = [item for item in self._loaded if item["blended"]]
        see_through.sort(key=lambda item: -float(np.linalg.norm(item["centre"] - eye)))
        for item in opaque + see_through:
            self._target.depth_mask = not item["blended"]
            uniforms["colour"].value = item["colour"]
            uniforms["cutoff"].value = item["cutoff"]
            uniforms["textured"].value = item["texture"] is not None
            if item["texture"] is not None:
                item["texture"].use(0)
            item["array"].render(gl.TRIANGLES)
        self._target.depth_mask = True
        raw = np.frombuffer(self._target.read(components=4), np.uint8)
        picture = raw.reshape(self._side, self._side, 4)[::-1].astype(np.float32) / 255
        return shrink(picture, self.supersampling)
