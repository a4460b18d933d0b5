"""Every camera convention of the project, in one file.

World: Z up, right-handed. A camera at azimuth 0 stands on +x; azimuth grows counter-clockwise
seen from +z (threestudio's convention). `c2w` is OpenGL: its columns are right, up, backward
(the camera looks along -z of its own frame) and position.

What a denoiser is told about a camera is another matter, and differs between the released
models. `camera_condition` holds the choices by name; a checkpoint's metadata picks one.

==============  ==============================================================================
`mvdream`       True angles. Azimuth 0 is a camera on -y, so a view at scene azimuth 0 has the
                matrix [[1,0,0,0],[0,s,-c,-c],[0,c,s,s],[0,0,0,1]] with s, c the sine and
                cosine of the elevation (0.2588, 0.9659 at 15 degrees). Distance and field of
                view are ignored: unit radius.
`isotropic3d`   The released Isotropic3D weights: the code converts degrees to radians twice,
                for azimuth and elevation, so an input of 90 degrees acts as 1.5708 degrees and
                15 as 0.2618. The circle is then the arc [0, 6.283) degrees and not periodic:
                azimuth is wrapped to [0, 360) first. Used by its SDS guidance
                (`get_camera_cond`, isotropic/camera_utils.py).
`isotropic3d_   The same weights in their 2-D sampling script (`get_camera`): the elevation is
 sampling`      converted in place inside the loop over views, so view k (k = 0, 1, ...) gets it
                converted k + 2 times: 0.26180, 0.0045693, 7.97e-5, 1.39e-6 degrees at 15.
`harmonics`     Ours, for small models: cosines and sines of 1, 2, 3, 4 and 6 times the azimuth,
                the elevation's sine less that of 15 degrees, times 5, its products with the first
                two pairs, and its square: 16 numbers of about unit size. How wide a thing looks
                from azimuth a is a matter of cos 2a, which a matrix makes a network multiply for.
`harmonics_     Ours, and what the others leave out: what a picture does to the object by its field
 lens`          of view and by how large it shows it. Cosines and sines of 1 to 4 times the
                azimuth and the height's six numbers as in `harmonics`; then how strong the
                perspective is, tan(fov / 2), and how small the unit sphere is shown, the logarithm
                of distance * tan(fov / 2), each less its middle and in units of its deviation in a
                data set of the range `iso3d` (`data/camera_ranges.py`). A denoiser that is not told
                them draws the average over them, which is a blur.
==============  ==============================================================================

All condition vectors are float32 and must stay so: in bfloat16 `isotropic3d`'s cosines collapse.

`camera_to_world` and `camera_condition` of numpy arrays or numbers are computed by numpy: a data
loader must not wait in a device's queue for the step before.
"""

from __future__ import annotations

from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

ENCODINGS = ("mvdream", "isotropic3d", "isotropic3d_sampling", "harmonics", "harmonics_lens")
WITH_LENS = ("harmonics_lens",)  # those that field of view and distance are part of
HARMONICS = (1.0, 2.0, 3.0, 4.0, 6.0)
# Of views that are drawn where nobody says otherwise, and how far away that is: the distance in
# units of 1 / tan(fov / 2), the middle of the range `iso3d`.
FOV_DEG, SCALE = 40.0, 1.075
_PERSPECTIVE, _SHOWN = (0.35, 0.13), (0.07, 0.04)  # middle and deviation; see `harmonics_lens`


@overload
def camera_to_world(
    elevation_deg: Real[np.ndarray, "..."] | float,
    azimuth_deg: Real[np.ndarray, "..."] | float,
    distance: Real[np.ndarray, "..."] | float = 1.0,
) -> Float[np.ndarray, "... 4 4"]: ...


@overload
def camera_to_world(
    elevation_deg: Real[Array | np.ndarray, "..."] | float,
    azimuth_deg: Real[Array | np.ndarray, "..."] | float,
    distance: Real[Array | np.ndarray, "..."] | float = 1.0,
) -> Float[Array, "... 4 4"]: ...


def camera_to_world(
    elevation_deg: Real[Array | np.ndarray, "..."] | float,
    azimuth_deg: Real[Array | np.ndarray, "..."] | float,
    distance: Real[Array | np.ndarray, "..."] | float = 1.0,
) -> Float[Array | np.ndarray, "... 4 4"]:
    """Camera that looks at the origin from a point on a sphere.

    Args:
      elevation_deg: degrees above the horizon, in (-90, 90).
      azimuth_deg: degrees, 0 on +x, counter-clockwise seen from +z.
      distance: from the origin, in scene units.

    Returns:
      OpenGL camera-to-world matrices, float32.
    """
    xp = _library(elevation_deg, azimuth_deg, distance)
    elevation, azimuth, radius = xp.broadcast_arrays(
        *(xp.asarray(a, xp.float32) for a in (elevation_deg, azimuth_deg, distance))
    )
    elevation, azimuth = xp.deg2rad(elevation), xp.deg2rad(azimuth)
    ce, se = xp.cos(elevation), xp.sin(elevation)
    ca, sa = xp.cos(azimuth), xp.sin(azimuth)
    zero = xp.zeros_like(ce)
    right = xp.stack([-sa, ca, zero], -1)
    up = xp.stack([-se * ca, -se * sa, ce], -1)
    backward = xp.stack([ce * ca, ce * sa, se], -1)
    position = backward * radius[..., None]
    top = xp.stack([right, up, backward, position], -1)  # [..., 3, 4]
    bottom = xp.broadcast_to(xp.array([0.0, 0.0, 0.0, 1.0], xp.float32), top.shape[:-2] + (1, 4))
    return xp.concatenate([top, bottom], -2)


def _library(*values) -> Any:
    """jax.numpy where one of the values is jax's, else numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def relative_azimuth(azimuth_deg, reference_azimuth_deg):
    """Azimuth counted from the reference view's, wrapped to [0, 360)."""
    return jnp.mod(azimuth_deg - reference_azimuth_deg, 360.0)


@overload
def camera_condition(
    elevation_deg: Real[np.ndarray, "... V"], azimuth_deg: Real[np.ndarray, "... V"],
    encoding: str, fov_deg: Real[np.ndarray, "..."] | float | None = None,
    distance: Real[np.ndarray, "..."] | float | None = None,
) -> Float[np.ndarray, "... V 16"]: ...  # fmt: skip


@overload
def camera_condition(
    elevation_deg: Real[Array | np.ndarray, "... V"],
    azimuth_deg: Real[Array | np.ndarray, "... V"],
    encoding: str,
    fov_deg: Real[Array | np.ndarray, "..."] | float | None = None,
    distance: Real[Array | np.ndarray, "..."] | float | None = None,
) -> Float[Array, "... V 16"]: ...


def camera_condition(
    elevation_deg: Real[Array | np.ndarray, "... V"],
    azimuth_deg: Real[Array | np.ndarray, "... V"],
    encoding: str,
    fov_deg: Real[Array | np.ndarray, "..."] | float | None = None,
    distance: Real[Array | np.ndarray, "..."] | float | None = None,
) -> Float[Array | np.ndarray, "... V 16"]:
    """The flattened 4x4 camera a denoiser is fed, one row a view.

    Args:
      elevation_deg: degrees.
      azimuth_deg: degrees; any value, wrapped to [0, 360).
      encoding: one of `ENCODINGS`; see the module's docstring for the numbers.
      fov_deg: vertical field of view, and
      distance: from the object's middle in units of its radius; needed where the encoding is one of
        `WITH_LENS`, of no meaning elsewhere. One for all views, or one each.

    Returns:
      float32 vectors: row-major c2w at unit radius, in the frame where azimuth 0 is on -y; for
      `harmonics` and `harmonics_lens` see the table.

    Raises:
      ValueError: no such encoding, or one that wants a lens without it.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"camera encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    xp = _library(elevation_deg, azimuth_deg, fov_deg, distance)
    elevation, azimuth = xp.broadcast_arrays(
        xp.asarray(elevation_deg, xp.float32), xp.asarray(azimuth_deg, xp.float32)
    )
    azimuth = xp.mod(azimuth, 360.0)
    if encoding == "harmonics":
        return _harmonics(elevation, azimuth, HARMONICS, xp)
    if encoding == "harmonics_lens":
        if fov_deg is None or distance is None:
            raise ValueError(f"camera encoding {encoding!r} wants fields of view and distances")
        seen = _harmonics(elevation, azimuth, HARMONICS[:4], xp)
        lens = _lens(xp.asarray(fov_deg, xp.float32), xp.asarray(distance, xp.float32), xp)
        return xp.concatenate([seen, xp.broadcast_to(lens, (*elevation.shape, 2))], -1)
    if encoding != "mvdream":
        azimuth = xp.deg2rad(azimuth)
        if encoding == "isotropic3d":
            elevation = xp.deg2rad(elevation)
        else:
            times = xp.arange(1, elevation.shape[-1] + 1, dtype=xp.float32)
            elevation = elevation * xp.float32(xp.pi / 180.0) ** times
    c2w = camera_to_world(elevation, azimuth - 90.0)
    return c2w.reshape(*c2w.shape[:-2], 16)


def _lens(fov_deg, distance, xp):
    """Perspective and size, [..., 2]; see `harmonics_lens` in the module's docstring."""
    tangent = xp.tan(xp.deg2rad(fov_deg) / 2)
    (middle, width), (middle_shown, width_shown) = _PERSPECTIVE, _SHOWN
    shown = (xp.log(distance * tangent) - middle_shown) / width_shown
    return xp.stack(xp.broadcast_arrays((tangent - middle) / width, shown), -1)


def distance_of(
    fov_deg: Real[Array | np.ndarray, "..."] | float, scale: float
) -> Float[Array | np.ndarray, "..."]:
    """The distance at which the unit sphere is shown by 1 / `scale` of half of the picture."""
    xp = _library(fov_deg)
    return scale / xp.tan(xp.deg2rad(xp.asarray(fov_deg, xp.float32)) / 2)


def _harmonics(elevation_deg, azimuth_deg, harmonics, xp):
    """[..., V] angles to [..., V, 2 K + 6]; see `harmonics` in the module's docstring."""
    angles = xp.deg2rad(azimuth_deg)[..., None] * xp.asarray(harmonics, xp.float32)
    waves = xp.stack([xp.cos(angles), xp.sin(angles)], -1).reshape(*angles.shape[:-1], -1)
    level = xp.sin(xp.deg2rad(xp.float32(15.0)))
    height = 5.0 * (xp.sin(xp.deg2rad(elevation_deg)) - level)[..., None]
    return xp.concatenate([waves, height, height * waves[..., :4], height**2], -1)


def orthogonal_azimuths(
    start_deg: Float[Array, "..."] | float, num_views: int
) -> Float[Array, "... V"]:
    """`num_views` azimuths evenly round the circle, the first at `start_deg`, in [0, 360)."""
    steps = jnp.arange(num_views, dtype=jnp.float32) * (360.0 / num_views)
    return jnp.mod(jnp.asarray(start_deg, jnp.float32)[..., None] + steps, 360.0)


def _focal(fov_deg, height: int):
    """Focal length in pixels."""
    return 0.5 * height / jnp.tan(jnp.deg2rad(jnp.asarray(fov_deg, jnp.float32)) * 0.5)


def get_rays(
    c2w: Float[Array, "... 4 4"], fov_deg: Float[Array, "..."], height: int, width: int
) -> tuple[Float[Array, "... H W 3"], Float[Array, "... H W 3"]]:
    """Rays through pixel centres; row 0 is the top of the picture.

    Args:
      c2w: OpenGL camera-to-world matrices.
      fov_deg: vertical field of view in degrees, one a camera.

    Returns:
      `rays_o` and unit `rays_d`, in world coordinates.
    """
    focal = _focal(fov_deg, height)
    x = (jnp.arange(width, dtype=jnp.float32) + 0.5 - 0.5 * width) / focal[..., None]
    y = (0.5 * height - jnp.arange(height, dtype=jnp.float32) - 0.5) / focal[..., None]
    x, y = jnp.broadcast_arrays(x[..., None, :], y[..., :, None])  # [..., H, W]
    local = jnp.stack([x, y, -jnp.ones_like(x)], -1)
    directions = jnp.einsum(
        "...hwk,...jk->...hwj", local, c2w[..., :3, :3], precision=jax.lax.Precision.HIGHEST
    )
    rays_d = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    rays_o = jnp.broadcast_to(c2w[..., None, None, :3, 3], rays_d.shape)
    return rays_o, rays_d


def project(
    points: Float[Array, "N 3"],
    c2w: Float[Array, "... 4 4"],
    fov_deg: Float[Array, "..."],
    height: int,
    width: int,
) -> tuple[Float[Array, "... N"], Float[Array, "... N"]]:
    """Row and column of points in pictures, the inverse of `get_rays`; pixel centres are whole.

    Points have to lie in front of the cameras.
    """
    focal = _focal(fov_deg, height)
    local = jnp.einsum(
        "...nj,...jk->...nk", points - c2w[..., None, :3, 3], c2w[..., :3, :3],
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    scale = focal[..., None] / -local[..., 2]
    row = 0.5 * height - 0.5 - scale * local[..., 1]
    return row, 0.5 * width - 0.5 + scale * local[..., 0]
