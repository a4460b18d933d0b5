"""The space that a mesh keeps from view: its inside, whether or not its surface is closed.

Counting crossings (`shapes.occupancy`) needs closed surfaces. Of furniture files many are open: a
cardboard box without a bottom has no inside by that count, a cup of one sheet is solid. Occupancy
Networks (arXiv 1812.03828, section 4, after Stutz and Geiger) make such meshes watertight first, by
fusing depth pictures from 100 views around. Here too what none of 100 cameras sees into is inside.
A sheet then has no thickness, a cup is hollow, and a box with its bottom on the floor is full only
where it has a bottom.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter

from iso3d_jax.evaluation.visible import rasterise

DIRECTIONS = 100
SIZE = 256  # pixels of a depth picture
HALF = 0.9  # of its side: the half diagonal of a cube of side 1, and a margin
GAP = 3  # pixels: what is narrower than so many shows nothing behind it (two thirds of a cube)


def directions(count: int = DIRECTIONS) -> Float[np.ndarray, "D 3"]:
    """Unit vectors, evenly over the sphere (a Fibonacci spiral)."""
    k = np.arange(count) + 0.5
    z, azimuth = 1 - 2 * k / count, np.pi * (1 + np.sqrt(5)) * k
    across = np.sqrt(1 - z * z)
    return np.stack([across * np.cos(azimuth), across * np.sin(azimuth), z], -1)


def sealed_occupancy(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], grid: int = 64
) -> Bool[np.ndarray, "G G G"]:
    """Which centres of the cubes of [-1, 1]^3 no camera outside sees.

    Args:
      vertices: in a box around the origin whose longest side is 1.
    """
    vertices = np.asarray(vertices, np.float64)
    centres = (np.arange(grid) + 0.5) * 2 / grid - 1
    near = np.flatnonzero(np.abs(centres) <= 0.5 + 1 / grid)
    box = np.ix_(near, near, near)
    points = np.stack(np.meshgrid(*[centres[near]] * 3, indexing="ij"), -1).reshape(-1, 3)
    hidden = np.arange(len(points))
    scale = SIZE / (2 * HALF)
    for towards in directions():
        right = np.cross([0.0, 0.0, 1.0] if abs(towards[2]) < 0.9 else [1.0, 0.0, 0.0], towards)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(towards, right), towards])
        local = vertices @ axes.T
        x, y = (local[:, :2] * scale + SIZE / 2 - 0.5).T
        pixel, _, _, height = rasterise(x[faces], y[faces], local[:, 2][faces], SIZE)
        surface = np.full(SIZE * SIZE, -np.inf)
        surface[pixel] = height
        surface = maximum_filter(surface.reshape(SIZE, SIZE), GAP, mode="nearest")
        place = points[hidden] @ axes.T
        column, row = np.rint(place[:, :2] * scale + SIZE / 2 - 0.5).astype(int).T
        hidden = hidden[place[:, 2] <= surface[row, column]]
    inside = np.zeros((grid,) * 3, bool)
    full = np.zeros(len(points), bool)
    full[hidden] = True
    inside[box] = full.reshape((len(near),) * 3)
    return inside
