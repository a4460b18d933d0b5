"""Unwraps a mesh with xatlas and bakes a colour field into its texture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int, UInt8
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
      quads: the first 2 * quads faces are the halves (a, b, c), (a, c, d) of so many quads.
    """

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "V 2"]
    faces: Int[np.ndarray, "F 3"]
    texture: UInt8[np.ndarray, "S S 3"]
    colours: UInt8[np.ndarray, "V 3"]
    quads: int = 0

    def whole_quads(self) -> Int[np.ndarray, "Q 4"]:
        """The quads whose halves the unwrapping has left together, and which are `is_whole`."""
        halves = self.faces[: 2 * self.quads].reshape(-1, 2, 3)
        return np.concatenate([halves[:, 0], halves[:, 1, 2:]], 1)[self.is_whole()]

    def is_whole(self) -> Bool[np.ndarray, " quads"]:
        """Which quads have halves that share two vertices."""
        halves = self.faces[: 2 * self.quads].reshape(-1, 2, 3)
        return (halves[:, 0, [0, 2]] == halves[:, 1, [0, 1]]).all(-1)


TOGETHER = 2048  # faces that are unwrapped together
SLAB = 1 << 18  # texels and vertices whose colour is asked for at a time


def bake(
    mesh: trimesh.Trimesh,
    colour: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: int,
    report: Report = silent,
    correction: Float[np.ndarray, "N 3"] | None = None,
    quads: int = 0,
) -> TexturedMesh:
    """Unwraps and bakes.

    Args:
      mesh: in scene coordinates.
      colour: maps points [N, 3] and unit normals [N, 3] to sRGB values in [0, 1], [N, 3].
      size: side of the texture in pixels.
      report: told what is being done.
      correction: added to the colours, one a vertex of `mesh`, interpolated between them.
      quads: as of `TexturedMesh`, of the mesh's faces.
    """
    report(f"unwrapping {len(mesh.faces)} faces (xatlas)", 0, 0)
    original, faces, uv = unwrap(mesh, size, quads)
    vertices = np.asarray(mesh.vertices, np.float32)[original]
    normals = np.asarray(mesh.vertex_normals, np.float32)[original]
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
    return TexturedMesh(vertices, normals, uv.astype(np.float32), faces, pixels, colours, quads)


def unwrap(
    mesh: trimesh.Trimesh, size: int, quads: int = 0
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 2"]]:
    """Lays a mesh out in a square, with room between its charts for filters.

    What xatlas takes grows with a power of the faces of 1.7 (18 s for 63,000), so a large mesh is
    cut into parts of at most `TOGETHER` faces first, which costs one vertex in 25.

    Args:
      size: side of the texture in pixels.
      quads: as of `TexturedMesh`; the two halves of one stay in one part.

    Returns:
      Which of the mesh's vertices each vertex is, faces in the mesh's order, and uv in [0, 1].
    """
    import xatlas

    vertices = np.ascontiguousarray(mesh.vertices, np.float32)
    normals = np.ascontiguousarray(mesh.vertex_normals, np.float32)
    faces = np.asarray(mesh.faces, np.int64)
    parts = _cut(vertices[faces].mean(1), quads)
    atlas, sources = xatlas.Atlas(), []
    for part in parts:
        used, local = np.unique(faces[part], return_inverse=True)
        local = local.reshape(-1, 3).astype(np.uint32)
        atlas.add_mesh(vertices[used], local, normals[used])
        sources.append(used)
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    chart.max_iterations = 1
    pack.resolution, pack.padding, pack.bilinear = int(0.85 * size), 3, True
    atlas.generate(chart, pack)
    original, uv, out = [], [], np.empty_like(faces)
    count = 0
    for index, (part, used) in enumerate(zip(parts, sources, strict=True)):
        of_part, corners, places = atlas[index]
        out[part] = corners.astype(np.int64) + count
        original.append(used[of_part])
        uv.append(places)
        count += len(places)
    return np.concatenate(original), out, np.concatenate(uv)


def _cut(centres: Float[np.ndarray, "F 3"], quads: int) -> list[Int[np.ndarray, " N"]]:
    """Faces in compact parts of `TOGETHER` at most: halves along the longest side, again and again.

    The first 2 * quads go two by two.
    """
    owner = np.concatenate([np.arange(2 * quads) // 2, np.arange(quads, len(centres) - quads)])
    places = np.zeros((len(centres) - quads, 3))
    places[owner] = centres  # of a quad that of its second half
    weight = np.bincount(owner)
    waiting, parts = [np.arange(len(places))], []
    while waiting:
        units = waiting.pop()
        if weight[units].sum() <= TOGETHER or len(units) == 1:
            parts.append(np.flatnonzero(np.isin(owner, units)))
            continue
        here = places[units]
        order = units[np.argsort(here[:, np.ptp(here, 0).argmax()], kind="stable")]
        waiting += [order[len(order) // 2 :], order[: len(order) // 2]]
    return parts


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
