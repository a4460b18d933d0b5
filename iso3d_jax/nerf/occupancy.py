"""Occupancy grid as nerfacc 0.5.2 keeps it (reference 4.12).

`occs` holds a decaying maximum of density * step in each cell of a grid over the scene's box; a
cell is occupied where it is above min(mean, threshold). All cells are measured in the first
`warmup` iterations; after that a quarter drawn from all cells and a quarter from the occupied.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def init(resolution: int) -> Float[Array, " G3"]:
    """No cell is occupied yet: update once before the first render."""
    return jnp.zeros(resolution**3, jnp.float32)


def occupied(occs: Float[Array, " G3"], threshold: float) -> Bool[Array, " G3"]:
    """Which cells may hold something."""
    return occs > jnp.minimum(jnp.mean(occs), threshold)


def cell_of(x: Array, y: Array, z: Array, resolution: int, radius: float) -> Array:
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
        return jnp.maximum(occs * decay, measure(jnp.arange(total)))

    def some_cells(occs):
        uniform = jax.random.randint(k_uniform, (quarter,), 0, total)
        counts = jnp.cumsum(occupied(occs, threshold).astype(jnp.int32))
        ranks = jax.random.uniform(k_occupied, (quarter,)) * counts[-1]
        chosen = jnp.searchsorted(counts, ranks.astype(jnp.int32) + 1)
        cells = jnp.concatenate([uniform, jnp.where(counts[-1] > 0, chosen, uniform)])
        touched = jnp.zeros(total, bool).at[cells].set(True)
        occs = jnp.where(touched, occs * decay, occs)
        return occs.at[cells].max(measure(cells))

    return jax.lax.cond(step < warmup, every_cell, some_cells, occs)
