"""Draws a textured mesh without light, to compare it with the scene that it was made from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from iso3d_jax.geometry.coverage import SLACK, fragments
from iso3d_jax.mesh.texture import TexturedMesh

SUPERSAMPLING = 3


def draw(
    mesh: TexturedMesh, c2w: Float[np.ndarray, "4 4"], fov_deg: float, resolution: int
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
    """Renders the texture's own colours on white, with a depth buffer.

    Args:
      mesh: in scene coordinates, in front of the camera as a whole.
      c2w: OpenGL camera-to-world matrix.
      fov_deg: field of view, degrees.
      resolution: side of the picture in pixels.

    Returns:
      sRGB values in [0, 1] and the share of each pixel that the mesh covers.
    """
    side = resolution * SUPERSAMPLING
    local = (mesh.vertices.astype(np.float64) - c2w[:3, 3]) @ c2w[:3, :3]
    depth = -local[:, 2]
    focal = 0.5 * side / np.tan(np.deg2rad(fov_deg) / 2)
    x = 0.5 * side - 0.5 + focal * local[:, 0] / depth
    y = 0.5 * side - 0.5 - focal * local[:, 1] / depth
    nearest = np.full(side * side, -np.inf)  # 1 / depth, which is linear on the screen
    uv = np.zeros((side * side, 2))
    for face, column, row, weights in fragments(x[mesh.faces], y[mesh.faces], side, SLACK):
        corners = mesh.faces[face]
        inverse = weights / depth[corners]  # perspective-correct weights, times 1 / depth
        total = inverse.sum(-1)
        pixel = row * side + column
        np.maximum.at(nearest, pixel, total)
        seen = total >= nearest[pixel]
        value = np.einsum("nk,nkd->nd", inverse[seen], mesh.uv[corners[seen]])
        uv[pixel[seen]] = value / total[seen, None]
    covered = np.isfinite(nearest)
    image = np.ones((side * side, 3))
    image[covered] = lookup(mesh.texture, uv[covered])
    image = image.reshape(resolution, SUPERSAMPLING, resolution, SUPERSAMPLING, 3).mean((1, 3))
    covered = covered.reshape(resolution, SUPERSAMPLING, resolution, SUPERSAMPLING).mean((1, 3))
    return image.astype(np.float32), covered.astype(np.float32)


def lookup(texture: np.ndarray, uv: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Bilinear colours in [0, 1] at texture coordinates (v upwards, row 0 at the top)."""
    size = len(texture)
    x, y = uv[:, 0] * size - 0.5, (1.0 - uv[:, 1]) * size - 0.5
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - column)[:, None], (y - row)[:, None]

    def at(r, c):
        return texture[np.clip(r, 0, size - 1), np.clip(c, 0, size - 1)] / 255.0

    top = (1 - fx) * at(row, column) + fx * at(row, column + 1)
    bottom = (1 - fx) * at(row + 1, column) + fx * at(row + 1, column + 1)
    return (1 - fy) * top + fy * bottom
