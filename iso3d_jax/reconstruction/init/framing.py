"""Where the object of given pictures is, and the cameras about a world in which it fits the scene.

Cameras of photographs stand in a world of any size, with its origin anywhere. The scene is a ball
of radius 1 about the origin; so the object's visual hull is searched for about the point that all
cameras look at, and cameras move with it.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.geometry.camera_sets import Poses
from iso3d_jax.reconstruction.init.hull import cell_middles, visual_hull

FILL = 0.95  # of the scene's radius: how far the hull reaches
FITS = (0.5, 1.0)  # a hull that reaches so far about the origin is left where it is
RESOLUTION = 40  # cells a side of the box that is carved
ROUNDS = 3  # of carving, each in the box that the one before has left
TILTED = 45.0  # degrees: a world whose cameras stand so oblique is turned upright
_NO_POINT = (
    "the cameras of the pictures have no point that all look at: pictures from around one object "
    "are needed"
)


def common_point(c2w: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, " 3"]:
    """The point nearest to the axes of all cameras, in least squares.

    Raises:
      UserError: they look the same way, or away from it.
    """
    forward, position = -c2w[:, :3, 2], c2w[:, :3, 3]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    if np.linalg.eigvalsh(across.mean(0))[0] < 1e-4:
        raise UserError(_NO_POINT)
    point = np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, position))
    if (np.einsum("ni,ni->n", point - position, forward) <= 0).mean() > 0.2:
        raise UserError(_NO_POINT)
    return point


def turn_upright(c2w: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "3 3"]:
    """A rotation of the world after which cameras stand upright on average; none if they do."""
    up = c2w[:, :3, 1].mean(0)
    length = np.linalg.norm(up)
    if length < 0.1 or up[2] / length > np.cos(np.radians(TILTED)):
        return np.eye(3)
    up = up / length
    x = np.cross(np.eye(3)[np.argmin(np.abs(up))], up)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])


def move(
    c2w: Float[np.ndarray, "N 4 4"], turn, middle, radius: float
) -> Float[np.ndarray, "N 4 4"]:
    """Cameras in a world that is turned, whose origin is `middle` and whose unit is `radius`."""
    moved = c2w.copy()
    moved[:, :3, :3] = turn @ c2w[:, :3, :3]
    moved[:, :3, 3] = (c2w[:, :3, 3] - middle) @ turn.T / radius
    return moved


def is_cut(posed: PosedPictures) -> Bool[np.ndarray, " N"]:
    """Which pictures' frames cut the object, so that it may go on outside of them."""
    beyond = np.pad(~posed.seen, [(0, 0), (1, 1), (1, 1)], constant_values=True)
    near = ndimage.binary_dilation(beyond, np.ones((1, 3, 3), bool))[:, 1:-1, 1:-1]
    return np.asarray((near & posed.seen & (posed.masks > 0.5)).any((1, 2)))


def fit_to_scene(posed: PosedPictures) -> tuple[PosedPictures, str]:
    """The pictures with cameras about the scene's ball, and a sentence on what was done.

    Raises:
      UserError: the cameras have no point in common.
    """
    middle, turn = common_point(posed.c2w), turn_upright(posed.c2w)
    depth = np.einsum("ni,ni->n", posed.c2w[:, :3, 3] - middle, posed.c2w[:, :3, 2])
    reach = float(np.median(depth * np.tan(np.radians(posed.fov_deg) / 2)))
    cut = is_cut(posed).astype(np.float32)
    mask = jnp.asarray(np.where(posed.seen, posed.masks, cut[:, None, None]))
    cells = np.asarray(cell_middles(RESOLUTION, 1.0))
    at, half, how = middle, 1.2 * reach, "their outlines"
    solid = np.zeros((0, 3))
    for _ in range(ROUNDS):
        views = Poses(
            jnp.asarray(move(posed.c2w, np.eye(3), at, half), jnp.float32),
            jnp.asarray(posed.fov_deg, jnp.float32),
        )
        hull = np.asarray(
            visual_hull(mask, views, jnp.asarray(cut), resolution=RESOLUTION, radius=1.0)
        )
        hull = hull.reshape(-1)
        if not (hull > 0.5).any():
            break
        solid = at + half * cells[hull > 0.5]
        edge = half / RESOLUTION
        low, high = solid.min(0) - edge, solid.max(0) + edge
        at, half = (low + high) / 2, float((high - low).max()) / 2 * 1.1
    if len(solid):
        far = float(np.linalg.norm(solid, axis=-1).max())
        if FITS[0] <= far <= FITS[1] and np.allclose(turn, np.eye(3)):
            return posed, "the cameras fit the scene as they are"
        middle, radius = at, float(np.linalg.norm(solid - at, axis=-1).max()) / FILL
    else:
        radius, how = (
            reach,
            "the point that all look at, since the outlines share no object",
        )
    said = f"scaled by {1 / radius:.3g} about {', '.join(f'{x:.3g}' for x in middle)}, from {how}"
    if not np.allclose(turn, np.eye(3)):
        said += "; turned upright"
    return dataclasses.replace(posed, c2w=move(posed.c2w, turn, middle, radius)), said
