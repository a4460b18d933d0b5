"""The surface of a density as triangles: marching cubes in a box that fits the object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from jaxtyping import Float
from skimage import measure

from iso3d_jax.core import extras
from iso3d_jax.core.errors import EmptySurface, UserError
from iso3d_jax.core.progress import Report, silent

SLAB = 1 << 18  # points whose density is asked for at a time
Density = Callable[[np.ndarray], np.ndarray]
COARSE = 48


def sample_box(
    density: Density, low: np.ndarray, high: np.ndarray, resolution: int, report: Report = silent
) -> tuple[Float[np.ndarray, "X Y Z"], np.ndarray, float]:
    """Densities at the points of a regular grid of cubes over a box.

    Args:
      density: maps points [N, 3] to densities [N].
      low, high: the box's corners.
      resolution: points along the longest side.
      report: told how many points are done.

    Returns:
      The values, the position of the first point, and the spacing.
    """
    spacing = float(np.max(high - low)) / (resolution - 1)
    counts = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    axes = [low[k] + spacing * np.arange(counts[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
    flat, values = points.reshape(-1, 3), []
    what = f"density of {' x '.join(map(str, counts))} points"
    for first in range(0, len(flat), SLAB):
        report(what, first, len(flat))
        values.append(density(flat[first : first + SLAB]))
    report(what, len(flat), len(flat))
    return np.concatenate(values).reshape(points.shape[:3]), low, spacing


def extract(
    density: Density,
    threshold: float,
    *,
    radius: float = 1.0,
    resolution: int = 128,
    max_faces: int | None = None,
    smallest_part: float = 0.01,
    report: Report = silent,
) -> trimesh.Trimesh:
    """The surface where the density is `threshold`, closed, its normals pointing outwards.

    A coarse pass finds the box that holds the object, a fine one samples it (threestudio,
    models/geometry/base.py).

    Args:
      density: maps points [N, 3] of the scene to densities [N].
      threshold: density on the surface.
      radius: the scene is [-radius, radius]^3; what reaches its border is closed there.
      resolution: points along the longest side of the object's box.
      max_faces: if there are more, they are merged where the surface is flat until there are not.
      smallest_part: separate parts with a smaller share of the largest one's faces are dropped,
        before it is simplified; released: 0.01.
      report: told what is being done.

    Raises:
      EmptySurface: nothing is as dense as the threshold.
    """
    corner = np.full(3, radius)
    values, origin, spacing = sample_box(density, -corner, corner, COARSE, report)
    inside = np.argwhere(values > threshold)
    if not len(inside):
        raise EmptySurface(
            f"the surface is empty: nothing is denser than the threshold {threshold:.3g} (the "
            f"densest point has {values.max():.3g}); give a lower threshold or optimise longer"
        )
    margin = 0.05 * spacing * (inside.max(0) - inside.min(0)) + 1.5 * spacing
    low = np.maximum(origin + spacing * inside.min(0) - margin, -corner)
    high = np.minimum(origin + spacing * inside.max(0) + margin, corner)
    box = sample_box(density, low, high, resolution, report)
    report("marching cubes", 0, 0)
    mesh = _march(*box, threshold)
    mesh = drop_small_parts(mesh, smallest_part)
    if max_faces is None:
        return mesh
    report(f"simplifying {len(mesh.faces)} faces to {max_faces}", 0, 0)
    return simplify(mesh, max_faces)


def _march(values: np.ndarray, origin: np.ndarray, spacing: float, threshold: float):
    """Marching cubes (Lewiner) with a border of emptiness, so that the surface is closed.

    Vertices on the grid's edges keep a little distance from its points: no triangle has an area of
    zero, which could neither be simplified nor unwrapped.
    """
    padded = np.pad(values, 1, constant_values=min(0.0, float(values.min())))
    vertices, faces, _, _ = measure.marching_cubes(padded, threshold)
    cell = np.floor(vertices)
    along = (vertices != cell) & (np.sum(vertices != cell, 1, keepdims=True) == 1)
    vertices = np.where(along, cell + np.clip(vertices - cell, 0.03, 0.97), vertices)
    mesh = trimesh.Trimesh(origin + (vertices - 1.0) * spacing, faces, process=False)
    mesh.merge_vertices(digits_vertex=7)  # edges of length zero collapse, with their two triangles
    a, b, c = mesh.faces.T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def simplify(mesh: trimesh.Trimesh, max_faces: int) -> trimesh.Trimesh:
    """Collapses edges where it changes the surface least (quadric errors, Garland 1997).

    Collapsing may pinch thin places, which leaves edges with more than two triangles; the
    simplification then is repeated with more patience, and the best of the results is kept.

    Args:
      mesh: a closed surface.
      max_faces: at most this many triangles remain (a few more where nothing else can collapse).

    Raises:
      UserError: the package that does it is not installed.
    """
    if len(mesh.faces) <= max_faces:
        return mesh
    if not extras.is_installed("fast_simplification"):
        raise UserError(
            "simplifying a mesh needs the package fast-simplification: "
            "pip install fast-simplification"
        )
    best, fewest = mesh, None
    for aggression in (5, 2, 7):
        simpler = mesh.simplify_quadric_decimation(face_count=max_faces, aggression=aggression)
        bad = bad_edges(simpler)
        if fewest is None or bad < fewest:
            best, fewest = simpler, bad
        if not bad:
            break
    if best.volume < 0:
        best.invert()
    return best


def bad_edges(mesh: trimesh.Trimesh) -> int:
    """How many edges do not lie between exactly two triangles; none in a closed surface."""
    return int(np.sum(np.bincount(mesh.edges_unique_inverse) != 2))


def drop_small_parts(mesh: trimesh.Trimesh, smallest_part: float) -> trimesh.Trimesh:
    """Keeps the parts whose number of faces is at least a share of the largest part's.

    The share is rounded down to whole faces, as threestudio's Mesh.remove_outlier does.
    """
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, len(mesh.faces))
    sizes = np.bincount(labels)
    keep = (sizes >= int(smallest_part * sizes.max()))[labels]
    if keep.all():
        return mesh
    mesh = mesh.copy()
    mesh.update_faces(keep)
    mesh.remove_unreferenced_vertices()
    return mesh
