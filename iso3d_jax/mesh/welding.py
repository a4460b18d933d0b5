"""Joins what unwrapping a mesh has cut apart."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from iso3d_jax.mesh.texture import TexturedMesh


def find_places(
    vertices: Float[np.ndarray, "V 3"],
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " V"]]:
    """The different places among vertices, in the order in which they come.

    Returns:
      The first vertex of each place, and the place of each vertex.
    """
    _, first, index = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[index.reshape(-1)]


def weld(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with one vertex where the unwrapping had cut; closed where it was.

    Normals are averaged and colours are those of the first; `uv` is the first's and means nothing.
    """
    first, index = find_places(mesh.vertices)
    normals = np.zeros((len(first), 3), np.float64)
    np.add.at(normals, index, mesh.normals)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), mesh.normals[first])
    faces = index[mesh.faces]
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return TexturedMesh(
        mesh.vertices[first], normals.astype(mesh.normals.dtype), mesh.uv[first], faces[whole],
        mesh.texture, mesh.colours[first],
    )  # fmt: skip
