"""The space that a mesh keeps from view: its inside, whether or not its surface is closed.

Counting crossings (`shapes.occupancy`) needs closed surfaces. Of furniture files many are open: a
cardboard box without a bottom has no inside by that count, a cup of one sheet is solid. Occupancy
Networks (arXiv 1812.03828, section 4, after Stutz and Geiger) make such meshes watertight first, by
fusing depth pictures from 100 views around. Here too what none of 100 cameras sees into is inside.
A sheet then has no thickness, a cup is hollow, and an open box is empty.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter

from iso3d_jax.metrics.surface_points import camera_axes, nearest

DIRECTIONS = 100
SIZE = 256  # pixels of a depth picture
HALF = 0.9  # of its side, at least: the half diagonal of a cube of side 1, and a margin
GAP = 3  # pixels: what is narrower than so many shows nothing behind it (two thirds of a cube)


def directions(count: int = DIRECTIONS) -> Float[np.ndarray, "D 2"]:
    """Azimuths and elevations in degrees, evenly over the sphere (a Fibonacci spiral)."""
    k = np.arange(count) + 0.5
    azimuth = 180 * (1 + np.sqrt(5)) * k
    return np.stack([azimuth % 360, np.degrees(np.arcsin(1 - 2 * k / count))], -1)


def visibility_occupancy(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], grid: int
) -> Bool[np.ndarray, "G G G"]:
    """Which centres of the cubes of [-1, 1]^3 no camera outside sees.

    Args:
      vertices: around the origin; the precision is that of a box whose longest side is 1.
      grid: cubes along an edge.
    """
    centres = (np.arange(grid) + 0.5) * 2 / grid - 1
    near = np.flatnonzero(np.abs(centres) <= np.abs(vertices).max() + 1 / grid)
    half = max(HALF, np.sqrt(3) * np.abs(centres[near]).max() + 0.007)
    hidden = np.stack(np.meshgrid(near, near, near, indexing="ij"), -1).reshape(-1, 3)
    for azimuth, elevation in directions():
        axes, _ = camera_axes(azimuth, elevation)  # right, up, towards the camera
        local = vertices @ axes.T
        x, y = _pixels(local, half).T
        surface = nearest(x[faces], y[faces], local[:, 2][faces], SIZE)
        surface = maximum_filter(surface, GAP, mode="nearest")
        place = centres[hidden] @ axes.T
        column, row = np.rint(_pixels(place, half)).astype(int).T
        hidden = hidden[place[:, 2] <= surface[row, column]]
    inside = np.zeros((grid,) * 3, bool)
    inside[tuple(hidden.T)] = True
    return inside


def _pixels(place: Float[np.ndarray, "N 3"], half: float) -> Float[np.ndarray, "N 2"]:
    """Column and row in an orthographic picture of a point in a camera's axes."""
    return place[:, :2] * SIZE / (2 * half) + SIZE / 2 - 0.5
