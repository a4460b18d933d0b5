"""Sets of cameras that see one object: random ones of an iteration, rings, given ones.

Distances are often in units of 1 / tan(fov / 2), at which an object fills the picture alike
whatever the field of view.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.geometry import cameras


class Cameras(NamedTuple):
    """Cameras of G groups of V views; degrees, and distance in scene units."""

    elevation_deg: Float[Array, "G V"]
    azimuth_deg: Float[Array, "G V"]
    fov_deg: Float[Array, "G V"]
    distance: Float[Array, "G V"]

    @property
    def c2w(self) -> Float[Array, "*G V 4 4"]:
        """Camera to world, OpenGL."""
        return cameras.camera_to_world(self.elevation_deg, self.azimuth_deg, self.distance)

    def rays(self, resolution: int) -> tuple[Array, Array, Array]:
        """rays_o and rays_d, [G*V*H*W, 3], and camera positions [G*V, 3]."""
        return _rays(self.c2w, self.fov_deg, resolution)


class Poses(NamedTuple):
    """Cameras that stand and look anywhere, as those of photographs do.

    Attributes:
      c2w: camera to world, OpenGL.
      fov_deg: over the whole side of a square picture, in degrees.
    """

    c2w: Float[Array, "N 4 4"]
    fov_deg: Float[Array, " N"]

    def rays(self, resolution: int) -> tuple[Array, Array, Array]:
        """rays_o and rays_d, [N*H*W, 3], and camera positions [N, 3]."""
        return _rays(self.c2w, self.fov_deg, resolution)


def _rays(c2w: Array, fov_deg: Array, resolution: int) -> tuple[Array, Array, Array]:
    rays_o, rays_d = cameras.get_rays(c2w, fov_deg, resolution, resolution)
    return rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), c2w[..., :3, 3].reshape(-1, 3)


def as_poses(views: Cameras | Poses) -> Poses:
    """The same cameras, groups after one another."""
    return Poses(jnp.asarray(views.c2w).reshape(-1, 4, 4), jnp.asarray(views.fov_deg).reshape(-1))


@dataclasses.dataclass(frozen=True)
class CameraSpec:
    """What random cameras are drawn from.

    Attributes:
      fov_deg, elevation_deg: ranges in degrees.
      distance: range in units of 1 / tan(fov / 2), so that the object fills the picture alike.
    """

    fov_deg: tuple[float, float]
    elevation_deg: tuple[float, float]
    distance: tuple[float, float]


def sample_cameras(key: jax.Array, groups: int, views: int, spec: CameraSpec) -> Cameras:
    """Random groups of orthogonal views (threestudio/data/random_multiview.py:50-90).

    Elevation is uniform in degrees or uniform over the sphere's height, half of the time each;
    view k of a group has its azimuth in [360 k / views, 360 (k + 1) / views).
    """
    k_kind, k_elevation, k_azimuth, k_fov, k_distance = jax.random.split(key, 5)
    low, high = spec.elevation_deg
    share = jax.random.uniform(k_elevation, (groups, 1))
    by_angle = low + (high - low) * share
    first, last = (low + 90.0) / 180.0, (high + 90.0) / 180.0
    by_height = jnp.rad2deg(jnp.arcsin(2.0 * (first + (last - first) * share) - 1.0))
    elevation = jnp.where(jax.random.bernoulli(k_kind), by_angle, by_height)
    start = jax.random.uniform(k_azimuth, (groups,)) * (360.0 / views)
    fov = jax.random.uniform(k_fov, (groups, 1), minval=spec.fov_deg[0], maxval=spec.fov_deg[1])
    near, far = spec.distance
    scale = jax.random.uniform(k_distance, (groups, 1), minval=near, maxval=far)
    shape = (groups, views)
    return Cameras(
        jnp.broadcast_to(elevation, shape),
        cameras.orthogonal_azimuths(start, views),
        jnp.broadcast_to(fov, shape),
        jnp.broadcast_to(scale / jnp.tan(jnp.deg2rad(fov) / 2), shape),
    )


def ring(
    views: int, elevation_deg: float, fov_deg: float, scale: float, start: float = 0
) -> Cameras:
    """One group evenly round the object; `scale` is the distance in units of 1 / tan(fov / 2)."""
    shape = (1, views)
    distance = scale / jnp.tan(jnp.deg2rad(jnp.float32(fov_deg)) / 2)
    return Cameras(
        jnp.full(shape, elevation_deg, jnp.float32),
        cameras.orthogonal_azimuths(jnp.float32(start), views)[None],
        jnp.full(shape, fov_deg, jnp.float32),
        jnp.broadcast_to(distance, shape),
    )


def given_cameras(
    azimuth_deg: Float[np.ndarray, " V"],
    elevation_deg: Float[np.ndarray, " V"],
    fov_deg: Float[np.ndarray, " V"] | float,
    *,
    scale: float | None = None,
    distance: Float[np.ndarray, " V"] | None = None,
) -> Cameras:
    """One group of cameras at given angles.

    Args:
      fov_deg: one for all, or one a view.
      scale: the distance in units of 1 / tan(fov / 2), where `distance` is not given.
      distance: in scene units, one a view.
    """
    shape = (1, len(azimuth_deg))
    fov = jnp.broadcast_to(jnp.float32(fov_deg), shape)
    if distance is not None:
        away = distance
    elif scale is not None:
        away = scale / jnp.tan(jnp.deg2rad(fov) / 2)
    else:
        raise TypeError("given_cameras needs a scale or a distance")
    return Cameras(
        jnp.asarray(elevation_deg, jnp.float32)[None],
        jnp.asarray(azimuth_deg, jnp.float32)[None],
        fov,
        jnp.broadcast_to(jnp.asarray(away, jnp.float32), shape),
    )
