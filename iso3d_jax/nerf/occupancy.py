"""Occupancy grid as nerfacc 0.5.2 keeps it.

`occs` holds a decaying maximum of density * step in each cell of a grid over the scene's box; a
cell is occupied where it is above min(mean, threshold). All cells are measured in the first
`warmup` iterations; after that a quarter drawn from all cells and a quarter from the occupied.
Rays need two things of it, a `Grid`: the cells to visit, and the mean, below which a step is too
thin to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Grid(NamedTuple):
    """The occupancy grid as rays use it.

    Attributes:
      occupied: which cells may hold something.
      mean: of the cells' densities (per unit length, each the decaying maximum of its own); times a
        step, nerfacc's mean of `occs`. See `alpha_threshold`.
    """

    occupied: Bool[Array, " G3"]
    mean: Float[Array, ""]

    def alpha_threshold(self, highest: float, step_size: float) -> Float[Array, ""]:
        """Opacity of a step below which nerfacc drops it: min(highest, mean of `occs`).

        In a thin scene, as the blob at the start is, the mean is the smaller one.

        Args:
          step_size: of the steps in question, which may be others than the grid was measured with.
        """
        return jnp.minimum(highest, self.mean * step_size)


def init(resolution: int) -> Float[Array, " G3"]:
    """No cell is occupied yet: update once before the first render."""
    return jnp.zeros(resolution**3, jnp.float32)


def occupied(occs: Float[Array, " G3"], threshold: float) -> Bool[Array, " G3"]:
    """Which cells may hold something."""
    return occs > jnp.minimum(jnp.mean(occs), threshold)


def grid(occs: Float[Array, " G3"], threshold: float, step_size: float) -> Grid:
    """What rays need of the measured cells; `step_size` is the one that `update` had."""
    return Grid(occupied(occs, threshold), jnp.mean(occs) / step_size)


def find_cell(x: Array, y: Array, z: Array, resolution: int, radius: float) -> Array:
    """Index of the cell of points in [-radius, radius]^3; outside points go to the border.

    Args:
      x, y, z: coordinates of one shape. They come apart because a last axis of three, over all
        steps of all rays, would be padded to 128 on a TPU.
    """

    def along(coordinate):
        cell = jnp.floor((coordinate + radius) * (0.5 * resolution / radius)).astype(jnp.int32)
        return jnp.clip(cell, 0, resolution - 1)

    return (along(x) * resolution + along(y)) * resolution + along(z)


def update(
    key: jax.Array,
    occs: Float[Array, " G3"],
    density: Callable[[Array], Array],
    step: Array,
    *,
    resolution: int,
    radius: float,
    step_size: float,
    decay: float = 0.95,
    threshold: float = 0.01,
    warmup: int = 256,
) -> Float[Array, " G3"]:
    """One update; `density` maps points [N, 3] to densities [N].

    A cell whose measurement is not a finite number keeps what it has: one such number would make
    the mean, and with it every cell, useless for good.

    Args:
      step: iteration, decides between all cells and a sample of them.
      step_size: length of a step along a ray; a cell's value is density * step_size.
    """
    total = resolution**3
    quarter = total // 4
    k_cells, k_uniform, k_occupied = jax.random.split(key, 3)

    def measure(cells):
        corner = jnp.stack([cells // resolution**2, cells // resolution % resolution,
                            cells % resolution], -1).astype(jnp.float32)  # fmt: skip
        inside = corner + jax.random.uniform(k_cells, corner.shape)
        return density(inside * (2.0 * radius / resolution) - radius) * step_size

    def every_cell(occs):
        value = measure(jnp.arange(total))
        return jnp.where(jnp.isfinite(value), jnp.maximum(occs * decay, value), occs)

    def some_cells(occs):
        uniform = jax.random.randint(k_uniform, (quarter,), 0, total)
        counts = jnp.cumsum(occupied(occs, threshold).astype(jnp.int32))
        ranks = jax.random.uniform(k_occupied, (quarter,)) * counts[-1]
        chosen = jnp.searchsorted(counts, ranks.astype(jnp.int32) + 1)
        cells = jnp.concatenate([uniform, jnp.where(counts[-1] > 0, chosen, uniform)])
        value = measure(cells)
        finite = jnp.isfinite(value)
        touched = jnp.zeros(total, bool).at[cells].max(finite)
        occs = jnp.where(touched, occs * decay, occs)
        return occs.at[cells].max(jnp.where(finite, value, 0.0))

    return jax.lax.cond(step < warmup, every_cell, some_cells, occs)
