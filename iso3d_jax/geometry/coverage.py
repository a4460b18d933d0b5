"""Which pixels triangles cover: for textures, pictures of meshes, what cameras see, and lines.

Objects with materials are drawn by OpenGL instead (data/rasterizer.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

PART = 2_000_000  # pixels of bounding boxes that are looked at at once
SLACK = 1e-6  # so that no gap opens along a border that two triangles share
Fragments = tuple[
    Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"], Float[np.ndarray, "P 3"]
]


def fragments(
    x: Float[np.ndarray, "T 3"], y: Float[np.ndarray, "T 3"], size: int, slack: float = 0.0
) -> Iterator[Fragments]:
    """Every pixel of a square of size x size whose centre lies in a triangle, for every triangle.

    Args:
      x, y: the triangles' corners, in columns and rows; pixel centres are whole numbers. Both
        windings count; triangles without area and what lies outside the square do not.
      slack: how far below 0 a barycentric weight may be; at 0 borders belong to both sides, but for
        rounding.

    Yields:
      Some triangles' pixels: the triangle, ascending, column, row, and the corners' barycentric
      weights.
    """
    # Columns one by one: numpy is slow along an axis of three.
    xs, ys = np.ascontiguousarray(x.T, np.float64), np.ascontiguousarray(y.T, np.float64)
    (left, wide), (top, tall) = (_span(values, size, slack) for values in (xs, ys))
    pairs = wide * tall
    before = np.cumsum(pairs) - pairs
    parts = max(1, int(pairs.sum()) // PART)
    for part in np.split(
        np.arange(len(pairs)), np.searchsorted(before, pairs.sum() * np.arange(1, parts) / parts)
    ):
        triangle = np.repeat(part, pairs[part])
        rank = np.arange(len(triangle)) - np.repeat(before[part] - before[part[:1]], pairs[part])
        down, across = np.divmod(rank, wide[triangle])
        column, row = left[triangle] + across, top[triangle] + down
        tx, ty = xs[:, triangle] - column, ys[:, triangle] - row  # [3, P]
        cross = [tx[i] * ty[j] - ty[i] * tx[j] for i, j in ((1, 2), (2, 0), (0, 1))]
        area = cross[0] + cross[1] + cross[2]
        inside = np.abs(area) > 1e-12
        least = -slack * area * area
        for c in cross:
            inside &= c * area >= least
        weights = np.stack([c[inside] / area[inside] for c in cross], -1)
        yield triangle[inside], column[inside], row[inside], weights


def _span(values: Float[np.ndarray, "3 T"], size: int, slack: float):
    """The first whole number of 0 ... size - 1 within each triangle's box, and how many are."""
    low = np.minimum(np.minimum(*values[:2]), values[2])
    high = np.maximum(np.maximum(*values[:2]), values[2])
    margin = 2 * slack * (high - low)  # as far as weights of -slack reach
    first = np.ceil(low - margin).astype(int).clip(0)
    last = np.floor(high + margin).astype(int).clip(max=size - 1)
    return first, (last - first + 1).clip(0)
