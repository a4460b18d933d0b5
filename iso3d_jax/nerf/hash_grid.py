"""Multi-resolution hash encoding (Mueller et al. 2022) with tiny-cuda-nn's semantics.

What has to be the same for a grid trained there to be read here (common_device.h:848-895 and
1017-1029, grid.h:690-720 and 1076 of tiny-cuda-nn):

- level l has scale = base * growth^l - 1 (in float32) and resolution = ceil(scale) + 1;
- a point x in [0, 1]^3 falls on position = scale * x + 0.5: the cell is its floor;
- a level has resolution^3 entries rounded up to a multiple of 8, at most 2^log2_table_size;
- a corner's entry is x + y*res + z*res^2 where that fits, else x ^ y*2654435761 ^ z*805459861
  (uint32), both modulo the number of entries. Corners may lie one step outside the grid: the
  modulo decides where they end up.

Parameters are one array a level, [entries, features]. `to_flat` and `from_flat` give
tiny-cuda-nn's order: level by level, entry by entry, features innermost.

`gather` looks the corners up and `interpolate` weighs them: the plain form. What the field uses is
`look_up.look_up`, which computes the same as suits the platform.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real, UInt32

PRIMES = (1, 2654435761, 805459861)
CORNERS = tuple((i & 1, (i >> 1) & 1, (i >> 2) & 1) for i in range(8))

Grid = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Level:
    """One level: how positions are scaled, the grid's resolution and its number of entries."""

    scale: float
    resolution: int
    entries: int
    hashed: bool


@dataclasses.dataclass(frozen=True)
class HashGridSpec:
    """The numbers that define a grid; the defaults are the released recipe's.

    Attributes:
      levels: number of levels.
      features: features of an entry.
      log2_table_size: at most 2^this entries a level.
      base_resolution: resolution of level 0.
      growth: factor between one level's resolution and the next's.
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    growth: float = 1.447269237440378

    @property
    def width(self) -> int:
        """Length of the encoding of one point."""
        return self.levels * self.features

    @functools.cached_property
    def table(self) -> tuple[Level, ...]:
        """The levels, coarse to fine."""
        levels = []
        log2_growth = np.log2(np.float32(self.growth))
        for index in range(self.levels):
            scale = np.exp2(np.float32(index) * log2_growth) * np.float32(self.base_resolution)
            scale = np.float32(scale - np.float32(1.0))
            resolution = int(np.ceil(scale)) + 1
            dense = -(-(resolution**3) // 8) * 8
            entries = min(dense, 2**self.log2_table_size)
            levels.append(Level(float(scale), resolution, entries, entries < resolution**3))
        return tuple(levels)

    @property
    def num_params(self) -> int:
        """12,599,920 for the released numbers."""
        return self.features * sum(level.entries for level in self.table)


def init(key: jax.Array, spec: HashGridSpec) -> Grid:
    """Entries drawn from U(-1e-4, 1e-4), float32."""
    keys = jax.random.split(key, spec.levels)
    return tuple(
        jax.random.uniform(k, (level.entries, spec.features), jnp.float32, -1e-4, 1e-4)
        for k, level in zip(keys, spec.table, strict=True)
    )


def to_flat(grid: Sequence[Array]) -> Float[Array, " P"]:
    """All parameters as tiny-cuda-nn stores them."""
    return jnp.concatenate([level.reshape(-1) for level in grid])


def from_flat(flat: Real[Array, " P"], spec: HashGridSpec) -> Grid:
    """The inverse of `to_flat`.

    Raises:
      ValueError: the number of parameters is not the spec's.
    """
    if flat.shape != (spec.num_params,):
        raise ValueError(f"a grid of {spec.num_params} parameters was given {flat.shape}")
    sizes = np.cumsum([level.entries * spec.features for level in spec.table])[:-1]
    return tuple(part.reshape(-1, spec.features) for part in jnp.split(flat, sizes))


def corner_weights(
    upper: Sequence[Array] | Array, scale: Array | np.ndarray | float, axes: tuple[int, ...] = ()
) -> Sequence[Array | np.ndarray | float]:
    """Share of each of a cell's corners in what is interpolated, or in a derivative of it.

    Args:
      upper: along each axis how far into its cell a point is, in [0, 1).
      scale: of the level, cells per unit length.
      axes: those that the derivative is taken along, each once.

    Returns:
      A weight for each of `CORNERS`, or, with axes, its derivative.
    """
    side = [
        (-scale, scale) if axis in axes else (1.0 - part, part) for axis, part in enumerate(upper)
    ]
    return [side[0][i] * side[1][j] * side[2][k] for i, j, k in CORNERS]


def dense_entries(
    cell: Sequence[Array] | Array, resolution: Array | np.ndarray, entries: Array | np.ndarray
) -> list[UInt32[Array, "..."]]:
    """Entry of each corner in a level that has one for every point of its grid.

    Args:
      cell: lower corner along each axis, uint32.
    """
    strides = (np.uint32(1), resolution, resolution * resolution)
    along = _sides(cell, strides)
    index = [along[0][i] + along[1][j] + along[2][k] for i, j, k in CORNERS]
    # the modulo: an index is below twice the number of entries
    return [one - jnp.where(one >= entries, entries, 0) for one in index]


def hashed_entries(cell: Sequence[Array] | Array, entries: int) -> list[UInt32[Array, "..."]]:
    """Entry of each corner in a level whose points share entries, a power of two of them."""
    mixed = _sides(cell, [np.uint32(prime) for prime in PRIMES])
    return [
        (mixed[0][i] ^ mixed[1][j] ^ mixed[2][k]) & np.uint32(entries - 1) for i, j, k in CORNERS
    ]


def _sides(cell: Sequence[Array] | Array, factors: Sequence) -> list[list[Array]]:
    """Lower and upper coordinate of a cell along each axis, times the axis's factor."""
    return [
        [(cell[axis] + np.uint32(side)) * factor for side in (0, 1)]
        for axis, factor in enumerate(factors)
    ]


def split_position(position: Float[Array, "3 ..."]) -> tuple[Array, Array]:
    """The cell that a position is in, uint32, and how far into it, in [0, 1)."""
    lower = jax.lax.stop_gradient(jnp.floor(position))
    return lower.astype(jnp.int32).astype(jnp.uint32), position - lower


def _positions(x: Array, spec: HashGridSpec) -> tuple[Array, np.ndarray]:
    """Positions in units of each level's cells, [3, L, N], and the levels' scales, [L, 1]."""
    scale = np.array([[level.scale] for level in spec.table], np.float32)
    return x.T[:, None, :] * scale + np.float32(0.5), scale


def gather(
    grid: Sequence[Array], x: Float[Array, "N 3"], spec: HashGridSpec
) -> Float[Array, "F 8 L N"]:
    """Looks up the eight corners of each point's cell at each level.

    One look-up in all levels' tables laid end to end, and a feature at a time: rows of two are 128
    wide on a TPU.

    Args:
      grid: one [entries, features] array a level.
      x: points in [0, 1]^3; no gradient passes to them here.

    Returns:
      Entries in the order of `CORNERS`, levels coarse to fine.
    """
    levels = spec.table
    entries = np.array([[level.entries] for level in levels], np.uint32)
    offsets = (np.cumsum(entries)[:, None] - entries).astype(np.uint32)
    resolution = np.array([[level.resolution] for level in levels], np.uint32)
    hashed = np.array([[level.hashed] for level in levels])
    cell, _ = split_position(_positions(jax.lax.stop_gradient(x), spec)[0])
    index = [
        jnp.where(hashed, mixed, dense) + offsets
        for dense, mixed in zip(
            dense_entries(cell, resolution, entries),
            hashed_entries(cell, 2**spec.log2_table_size),
            strict=True,
        )
    ]
    index = jnp.stack(index).astype(jnp.int32)
    table = jnp.concatenate(list(grid)).T
    return jnp.stack([one.at[index].get(mode="promise_in_bounds") for one in table])


def interpolate(
    values: Float[Array, "F 8 L N"],
    x: Float[Array, "N 3"],
    spec: HashGridSpec,
    axes: tuple[int, ...] = (),
) -> Float[Array, "D N"]:
    """Trilinear interpolation of what `gather` looked up; differentiable in both arguments.

    Features are levels outermost; points are the last axis, so that the work vectorises.

    Args:
      axes: of the derivative that is wanted, see `corner_weights`; none for the value.
    """
    position, scale = _positions(x, spec)
    _, upper = split_position(position)
    features = 0.0
    for corner, weight in enumerate(corner_weights(upper, scale, axes)):
        features += weight * values[:, corner]  # [F, L, N]
    return jnp.swapaxes(features, 0, 1).reshape(-1, x.shape[0])
