"""The colours that a field's surface has, for a texture: as they look from outside.

The rim of a short optimisation is half transparent over several steps and changes its colour with
depth. Who looks straight at it sees deep into it, who looks along it sees its outside, so a field
looks different from every side; a texture has one colour a place. That is the mean of what people
see who turn the object (`SIDES`), each side counted by how much of its picture the place fills:
then mesh and field are equally bright on average over these pictures, and no texture is nearer in
the mean square. What is left of single places from single sides is the field's own dependence on
the side.

Colours straight from above the surface are taken for every texel. What the sides differ from that
changes slowly along the surface: it is taken at the mesh's vertices, and between them interpolated.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.nerf import field
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec
from iso3d_jax.reconstruction.pictures import SHOW

# elevation, how many azimuths, the first, and what each counts; the turntable's elevation most
SIDES = ((15.0, 8, 22.5, 1.0), (50.0, 4, 0.0, 0.25), (-20.0, 4, 45.0, 0.25))
DISTANCE = SHOW["scale"] / np.tan(np.deg2rad(SHOW["fov_deg"]) / 2)  # of their cameras
STRAIGHT, SLANTED, BELOW = 6, 16, 24  # steps in front of the surface, and behind it
NEAR = 3  # steps in front of the surface in which density may be that of the surface itself
GRAZING = 0.15  # cosine below which a place is part of the outline, half transparent
CHUNK, AT_ONCE = 1 << 16, 1 << 13  # rays of a call, and those that are followed together


@functools.partial(jax.jit, static_argnames=("spec", "field_spec"))
def _look(
    params: dict, level: Array, x: Array, towards: Array, before: Array, *, spec: RenderSpec,
    field_spec: FieldSpec,
) -> tuple[Float[Array, "N 3"], Bool[Array, " N"]]:  # fmt: skip
    """Colours [N, 3] that rays composite about points, and whether something solid is before them.

    Args:
      level: density on the surface.
      x, towards: points, and the unit directions of their rays, [N, 3].
      before: steps in front of the points at which rays begin.
      spec: of it the step and the bound.
    """

    def follow(rays):
        x, towards = rays

        def step(carry):
            k, total, weight, light, blocked = carry
            at = x + k * spec.step_size * towards
            density, colour = field.density_and_albedo(params, at, field_spec)
            size = jnp.max(jnp.abs(at), -1)
            if spec.bound == "sphere":
                size = jnp.linalg.norm(at, axis=-1)
            density = jnp.where(size <= field_spec.radius, density, 0.0)
            passed = jnp.exp(-density * spec.step_size)
            part = light * (1.0 - passed)
            blocked |= (density > level) & (k < -NEAR)
            return (
                k + 1, total + part[:, None] * colour, weight + part, light * passed, blocked,
            )  # fmt: skip

        def go_on(carry):
            return (carry[0] < BELOW) & jnp.any(carry[3] > 1e-3)

        flat = jnp.zeros_like(x[:, 0])
        first = (-before, jnp.zeros_like(x), flat, flat + 1.0, flat > 1.0)
        _, total, weight, _, blocked = jax.lax.while_loop(go_on, step, first)
        return total / jnp.maximum(weight, 1e-6)[:, None], blocked

    parts = (v.reshape(-1, AT_ONCE, 3) for v in (x, towards))
    colour, blocked = jax.lax.map(follow, tuple(parts))
    return colour.reshape(-1, 3), blocked.reshape(-1)


class SurfaceColour:
    """The colours of one field's surface.

    Args:
      params: the field's, as it was optimised.
      level: density on the surface.
      spec: how rays are sampled that people look along.
    """

    def __init__(self, params: dict, level: float, spec: RenderSpec, field_spec: FieldSpec):
        self._look = functools.partial(
            _look, params, jnp.float32(level), spec=spec, field_spec=field_spec
        )

    def _follow(self, x: np.ndarray, towards: np.ndarray, before: int):
        colours, blocked = [], []
        for first in range(0, len(x), CHUNK):
            rays = [np.asarray(v[first : first + CHUNK], np.float32) for v in (x, towards)]
            size = len(rays[0])
            found = self._look(*(np.pad(v, [(0, CHUNK - size), (0, 0)]) for v in rays), before)
            colours.append(np.asarray(found[0])[:size])
            blocked.append(np.asarray(found[1])[:size])
        if not colours:
            return np.zeros((0, 3), np.float32), np.zeros(0, bool)
        return np.concatenate(colours), np.concatenate(blocked)

    def straight(
        self, x: Float[np.ndarray, "N 3"], normal: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """What one sees who looks straight at points of the surface; sRGB in [0, 1].

        Args:
          normal: outward unit normals.
        """
        return self._follow(x, -normal, STRAIGHT)[0]

    def from_sides(
        self, x: Float[np.ndarray, "N 3"], normal: Float[np.ndarray, "N 3"]
    ) -> Float[np.ndarray, "N 3"]:
        """What the mean of all sides differs from `straight`; zero where no side shows a point."""
        total, weight = np.zeros((len(x), 3)), np.zeros(len(x))
        rays, places, weights = [], [], []
        for elevation, count, start, counts in SIDES:
            for k in range(count):
                eye = camera_to_world(elevation, start + k * 360.0 / count, DISTANCE)[:3, 3]
                towards = x - np.asarray(eye, np.float32)
                towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
                cosine = -np.sum(towards * normal, -1)
                shown = np.flatnonzero(cosine > GRAZING)
                rays.append(towards[shown])
                places.append(shown)
                weights.append(counts * cosine[shown])
        place = np.concatenate(places)
        colour, blocked = self._follow(x[place], np.concatenate(rays), SLANTED)
        share = np.where(blocked, 0.0, np.concatenate(weights))
        np.add.at(weight, place, share)
        np.add.at(total, place, share[:, None] * colour)
        mean = total / np.maximum(weight, 1e-9)[:, None]
        differs = mean - self.straight(x, normal)
        return np.where(weight[:, None] > 0, differs, 0.0).astype(np.float32)
