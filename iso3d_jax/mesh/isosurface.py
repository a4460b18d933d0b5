"""The surface of a density as triangles: marching cubes in a box that fits the object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from jaxtyping import Float
from skimage import measure

from iso3d_jax.errors import UserError

Density = Callable[[np.ndarray], np.ndarray]
COARSE = 48


def sample_box(
    density: Density, low: np.ndarray, high: np.ndarray, resolution: int
) -> tuple[Float[np.ndarray, "X Y Z"], np.ndarray, float]:
    """Densities at the points of a regular grid of cubes over a box.

    Args:
      density: maps points [N, 3] to densities [N].
      low, high: the box's corners.
      resolution: points along the longest side.

    Returns:
      The values, the position of the first point, and the spacing.
    """
    spacing = float(np.max(high - low)) / (resolution - 1)
    counts = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    axes = [low[k] + spacing * np.arange(counts[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
    return density(points.reshape(-1, 3)).reshape(points.shape[:3]), low, spacing


def extract(
    density: Density,
    threshold: float,
    *,
    radius: float = 1.0,
    resolution: int = 128,
    max_faces: int | None = None,
    smallest_part: float = 0.03,
) -> trimesh.Trimesh:
    """The surface where the density is `threshold`, closed, its normals pointing outwards.

    A coarse pass finds the box that holds the object, a fine one samples it (reference 4.14).

    Args:
      density: maps points [N, 3] of the scene to densities [N].
      threshold: density on the surface.
      radius: the scene is [-radius, radius]^3; what reaches its border is closed there.
      resolution: points along the longest side of the object's box.
      max_faces: if there are more, the grid is made coarser until there are not.
      smallest_part: separate parts with a smaller share of the largest one's faces are dropped.

    Raises:
      UserError: nothing is as dense as the threshold.
    """
    corner = np.full(3, radius)
    values, origin, spacing = sample_box(density, -corner, corner, COARSE)
    inside = np.argwhere(values > threshold)
    if not len(inside):
        raise UserError(
            f"the surface is empty: nothing is denser than the threshold {threshold:.3g} (the "
            f"densest point has {values.max():.3g}); give a lower --threshold or optimise longer"
        )
    margin = 0.05 * spacing * (inside.max(0) - inside.min(0)) + 1.5 * spacing
    low = np.maximum(origin + spacing * inside.min(0) - margin, -corner)
    high = np.minimum(origin + spacing * inside.max(0) + margin, corner)
    for _ in range(4):
        mesh = _march(*sample_box(density, low, high, resolution), threshold)
        mesh = drop_small_parts(mesh, smallest_part)
        if max_faces is None or len(mesh.faces) <= max_faces:
            break
        resolution = max(16, int(resolution * (max_faces / len(mesh.faces)) ** 0.5 * 0.98))
    return mesh


def _march(values: np.ndarray, origin: np.ndarray, spacing: float, threshold: float):
    """Marching cubes (Lewiner) with a border of emptiness, so that the surface is closed.

    Vertices that come very near to a grid point move onto it: the slivers there, which cannot be
    unwrapped, collapse to nothing.
    """
    padded = np.pad(values, 1, constant_values=min(0.0, float(values.min())))
    vertices, faces, _, _ = measure.marching_cubes(padded, threshold)
    corner = np.round(vertices)
    near = np.abs(vertices - corner).max(-1, keepdims=True) < 0.08
    vertices = np.where(near, corner, vertices)
    mesh = trimesh.Trimesh(origin + (vertices - 1.0) * spacing, faces, process=False)
    mesh.merge_vertices()
    a, b, c = mesh.faces.T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def drop_small_parts(mesh: trimesh.Trimesh, smallest_part: float) -> trimesh.Trimesh:
    """Keeps the parts whose number of faces is at least a share of the largest part's."""
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, len(mesh.faces))
    sizes = np.bincount(labels)
    keep = (sizes >= smallest_part * sizes.max())[labels]
    if keep.all():
        return mesh
    mesh = mesh.copy()
    mesh.update_faces(keep)
    mesh.remove_unreferenced_vertices()
    return mesh
