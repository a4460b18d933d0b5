"""Unwraps a mesh with xatlas and bakes a colour field into its texture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from scipy.spatial import KDTree

from iso3d_jax.core.images import to_uint8
from iso3d_jax.core.progress import Report, silent
from iso3d_jax.geometry.coverage import SLACK, fragments


class TexturedMesh(NamedTuple):
    """A mesh with a texture, in scene coordinates (Z up).

    Attributes:
      vertices, normals: [V, 3]; vertices are repeated where the unwrapping cuts.
      uv: [V, 2] in [0, 1], v upwards (OBJ's convention; glTF's is downwards).
      faces: [F, 3].
      texture: sRGB pixels, row 0 at the top (v = 1).
      colours: [V, 3] sRGB, for formats without a texture.
    """

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "V 2"]
    faces: Int[np.ndarray, "F 3"]
    texture: UInt8[np.ndarray, "S S 3"]
    colours: UInt8[np.ndarray, "V 3"]


SLAB = 1 << 18  # texels and vertices whose colour is asked for at a time


def bake(
    mesh: trimesh.Trimesh,
    colour: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: int,
    report: Report = silent,
    correction: Float[np.ndarray, "N 3"] | None = None,
) -> TexturedMesh:
    """Unwraps and bakes.

    Args:
      mesh: in scene coordinates.
      colour: maps points [N, 3] and unit normals [N, 3] to sRGB values in [0, 1], [N, 3].
      size: side of the texture in pixels.
      report: told what is being done.
      correction: added to the colours, one a vertex of `mesh`, interpolated between them.
    """
    import xatlas

    report(f"unwrapping {len(mesh.faces)} faces (xatlas)", 0, 0)

    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.ascontiguousarray(mesh.vertices, np.float32),
        np.ascontiguousarray(mesh.faces, np.uint32),
        np.ascontiguousarray(mesh.vertex_normals, np.float32),
    )
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    chart.max_iterations = 1
    pack.resolution, pack.padding, pack.bilinear = int(0.85 * size), 3, True
    atlas.generate(chart, pack)
    original, faces, uv = atlas[0]
    vertices = np.asarray(mesh.vertices, np.float32)[original]
    normals = np.asarray(mesh.vertex_normals, np.float32)[original]
    faces = faces.astype(np.int64)
    lost = (uv == 0).all(-1)  # vertices of slivers that were not unwrapped: the nearest one's place
    nearest = KDTree(vertices[~lost]).query(vertices)[1]
    uv = np.where(lost[:, None], uv[~lost][nearest], uv)
    added = np.zeros_like(vertices) if correction is None else correction[original]
    corners = np.concatenate([vertices, normals, added], 1)
    values, covered = rasterize(uv * size, corners, faces, size)
    inside = values[covered]
    length = np.maximum(np.linalg.norm(inside[:, 3:6], axis=-1, keepdims=True), 1e-6)
    texture = np.zeros((size, size, 3), np.float32)
    total = len(inside) + len(vertices)

    def evaluate(x, normal, done):
        parts = []
        for first in range(0, len(x), SLAB):
            report("baking colours", done + first, total)
            parts.append(colour(x[first : first + SLAB], normal[first : first + SLAB]))
        return np.concatenate(parts) if parts else np.zeros((0, 3), np.float32)

    texture[covered] = evaluate(inside[:, :3], inside[:, 3:6] / length, 0) + inside[:, 6:]
    if covered.any():  # the space between charts takes the nearest colour, for filtering
        nearest = np.asarray(
            ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
        )
        texture = texture[tuple(nearest)]
    pixels = to_uint8(texture)[::-1]  # row 0 is v = 1
    colours = to_uint8(evaluate(vertices, normals, len(inside)) + added)
    report("baking colours", total, total)
    return TexturedMesh(vertices, normals, uv.astype(np.float32), faces, pixels, colours)


def rasterize(
    uv: Float[np.ndarray, "V 2"],
    values: Float[np.ndarray, "V D"],
    faces: Int[np.ndarray, "F 3"],
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates vertex values over triangles in a square of pixels.

    Args:
      uv: in pixels; pixel (row, column) has its centre at v = row + 0.5, u = column + 0.5.

    Returns:
      Values [size, size, D] and which pixels are covered [size, size].
    """
    out = np.zeros((size, size, values.shape[1]), np.float32)
    covered = np.zeros((size, size), bool)
    x, y = np.moveaxis(uv[faces].astype(np.float64) - 0.5, -1, 0)
    for face, column, row, weights in fragments(x, y, size, SLACK):
        out[row, column] = np.einsum("nk,nkd->nd", weights, values[faces[face]])
        covered[row, column] = True
    return out, covered
