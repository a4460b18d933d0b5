"""The visual hull: what no picture rules out (Laurentini 1994), as a start for a draft.

Rays carve an object out of the initial blob slowly, and thin or flat things last. Where a picture
shows background at a point, the point is empty whatever the rays have found so far: all pictures
together say so for a whole grid at once.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from iso3d_jax.geometry import cameras
from iso3d_jax.geometry.camera_sets import Cameras, Poses, as_poses
from iso3d_jax.guidance import regularizers
from iso3d_jax.nerf import field
from iso3d_jax.nerf.field import FieldSpec


def cell_middles(resolution: int, radius: float) -> Float[Array, "N 3"]:
    """The middles of the cells of a grid over [-radius, radius]^3, x slowest."""
    axis = (jnp.arange(resolution) + 0.5) * (2.0 * radius / resolution) - radius
    return jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


@functools.partial(jax.jit, static_argnames=("resolution", "radius"))
def visual_hull(
    mask: Float[Array, "V H W"],
    views: Cameras | Poses,
    outside: Float[Array, " V"] | None = None,
    *,
    resolution: int,
    radius: float,
) -> Float[Array, "G G G"]:
    """For the middle of each cell over [-radius, radius]^3 the least that any picture's mask shows.

    Args:
      mask: of the views, groups after one another.
      outside: what each picture's mask is outside of its frame; 1 if None, so that points out there
        are not ruled out by it. Points behind a camera never are.
    """
    points = cell_middles(resolution, radius)
    poses = as_poses(views)

    def least(so_far, view):
        mask, beyond, c2w, fov_deg = view
        place = cameras.project(points, c2w, fov_deg, *mask.shape)
        if outside is None:
            shown = map_coordinates(mask, place, 1, "constant", 1.0)
        else:  # the constant of map_coordinates is a static number
            shown = beyond + map_coordinates(mask - beyond, place, 1, "constant", 0.0)
        before = (points - c2w[:3, 3]) @ c2w[:3, 2] < 0.0
        return jnp.minimum(so_far, jnp.where(before, shown, 1.0)), None

    start = jnp.ones(len(points), jnp.float32)
    return jax.lax.scan(least, start, (mask, outside, *poses))[0].reshape((resolution,) * 3)


def hull_loss(
    params: dict, hull: Float[Array, "G G G"], key: jax.Array, spec: FieldSpec, *,
    points: int, step_size: float,
) -> Float[Array, ""]:  # fmt: skip
    """Cross-entropy of how opaque a step is with the hull, at points drawn in the scene's box."""
    k_cell, k_place = jax.random.split(key)
    resolution = hull.shape[0]
    cell = jax.random.randint(k_cell, (points, 3), 0, resolution)
    x = (cell + jax.random.uniform(k_place, cell.shape)) * (2.0 * spec.radius / resolution)
    density = field.density(params, x - spec.radius, spec)
    wanted = hull[cell[:, 0], cell[:, 1], cell[:, 2]]
    return regularizers.cross_entropy(-jnp.expm1(-density * step_size), wanted)
