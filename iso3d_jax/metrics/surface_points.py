"""The points of a mesh that can be seen, from depth pictures, as SyncDreamer's evaluation has them.

16 cameras at 30 degrees of elevation, 22.5 degrees apart, 1.5 from the centre of an object whose
bounding box's longest side is 1; pictures of 256x256 with a 35 mm lens on a 32 mm sensor. Every
pixel that shows the object gives a point, and of the points in one 0.01 cube their mean is kept.
What is hidden in a mesh, such as the inside of a drawer, does not count, then.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from iso3d_jax.geometry.coverage import fragments

VIEWS, ELEVATION_DEG, DISTANCE = 16, 30.0, 1.5
SIZE = 256  # pixels
FOCAL = 35.0 / 32.0  # focal length over the picture's width
VOXEL = 0.01
AZIMUTHS_DEG = tuple(k * 360.0 / VIEWS for k in range(VIEWS))
Surface = tuple[np.ndarray, np.ndarray]  # points and unit normals, [P, 3] each


def camera_axes(azimuth_deg: float, elevation_deg: float):
    """Right, up, backward (rows) and position, of a camera that looks at the origin; Z up."""
    a, e = np.radians(azimuth_deg), np.radians(elevation_deg)
    backward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    return np.stack([right, np.cross(backward, right), backward]), backward * DISTANCE


def _covered(x, y, nearness, size: int):
    """Every pixel that every triangle covers: pixel, triangle, its corners' weights, nearness.

    See `rasterize`, which keeps the nearest of each pixel.
    """
    parts = [
        (row * size + column, triangle, weights)
        for triangle, column, row, weights in fragments(x, y, size)
    ]
    pixel, triangle, weights = (np.concatenate(values) for values in zip(*parts, strict=True))
    each = (weights[:, k] * nearness[triangle, k] for k in range(3))
    near = sum(each, np.zeros(len(pixel)))
    return pixel, triangle, weights, near


def rasterize(
    x: Float[np.ndarray, "T 3"],
    y: Float[np.ndarray, "T 3"],
    nearness: Float[np.ndarray, "T 3"],
    size: int,
):
    """The triangle that each of size x size pixels shows; pixel centres are whole numbers.

    Args:
      x, y: the triangles' corners in the picture, in columns and rows; both windings count.
      nearness: of each corner; linear over the picture, more is nearer. 1 / depth of a perspective
        camera, the height towards an orthographic one.

    Returns:
      Of the pixels that show any: their number row * size + column, ascending, their triangle, its
      corners' weights in the picture [P, 3], and their nearness.
    """
    pixel, triangle, weights, near = _covered(x, y, nearness, size)
    order = np.lexsort((-near, pixel))
    pixels, first = np.unique(pixel[order], return_index=True)
    chosen = order[first]
    return pixels, triangle[chosen], weights[chosen], near[chosen]


def nearest(
    x: Float[np.ndarray, "T 3"],
    y: Float[np.ndarray, "T 3"],
    nearness: Float[np.ndarray, "T 3"],
    size: int,
) -> Float[np.ndarray, "S S"]:
    """The nearness that each pixel shows, as in `rasterize`; -inf where it shows nothing."""
    pixel, _, _, near = _covered(x, y, nearness, size)
    picture = np.full(size * size, -np.inf)
    np.maximum.at(picture, pixel, near)
    return picture.reshape(size, size)


def first_hits(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], azimuth_deg: float, size: int
) -> tuple[Int[np.ndarray, " P"], Float[np.ndarray, "P 3"]]:
    """For each of size x size pixels that shows the mesh: its triangle, and the point on it.

    Triangles count from both sides; the mesh lies wholly in front of the camera.
    """
    axes, position = camera_axes(azimuth_deg, ELEVATION_DEG)
    local = (vertices - position) @ axes.T  # right, up, backward
    x = FOCAL * size * local[:, 0] / -local[:, 2] + size / 2 - 0.5
    y = size / 2 - 0.5 - FOCAL * size * local[:, 1] / -local[:, 2]
    inverse = -1.0 / local[:, 2][faces]  # 1 / depth, [T, 3]
    _, triangle, weights, nearness = rasterize(x[faces], y[faces], inverse, size)
    weights = weights * inverse[triangle] / nearness[:, None]
    return triangle, (weights[..., None] * vertices[faces[triangle]]).sum(1)


def seen(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], size: int = SIZE
) -> list[Surface]:
    """What each of the `VIEWS` cameras sees, k * 22.5 degrees from +X; not thinned.

    Args:
      vertices: Z up, in a box around the origin whose longest side is 1.
      size: of the depth pictures, pixels.
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-20)
    hits = (first_hits(vertices, faces, azimuth, size) for azimuth in AZIMUTHS_DEG)
    return [(points, normals[triangle]) for triangle, points in hits]


def thinned(points: Float[np.ndarray, "P 3"], normals: Float[np.ndarray, "P 3"]) -> Surface:
    """Of the points in one cube of `VOXEL` their mean, with the normal of the one nearest to it."""
    if not len(points):
        return points, normals
    cell = np.floor((points - points.min(0)) / VOXEL).astype(int)
    _, index = np.unique(cell, axis=0, return_inverse=True)
    index = index.reshape(-1)
    count = np.bincount(index)
    mean = np.stack([np.bincount(index, points[:, k]) / count for k in range(3)], -1)
    nearest = np.full(len(count), -1)
    far = np.linalg.norm(points - mean[index], axis=-1)
    order = np.argsort(-far)  # the last one written is the nearest to the mean: its normal stands
    nearest[index[order]] = order
    return mean, normals[nearest]


def visible_points(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], size: int = SIZE
) -> Surface:
    """Points that are seen by any camera, and their triangles' unit normals; see `seen`.

    Raises:
      ValueError: nothing is seen.
    """
    return together(seen(vertices, faces, size))


def together(sides: list[Surface]) -> Surface:
    """All cameras' points as one thinned surface.

    Raises:
      ValueError: there is none.
    """
    points, normals = (np.concatenate([side[k] for side in sides]) for k in range(2))
    if not len(points):
        raise ValueError("the mesh cannot be seen from any side")
    return thinned(points, normals)
