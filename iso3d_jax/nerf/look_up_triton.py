"""`look_up` and `spread` of `look_up.py` as Pallas kernels for NVIDIA GPUs (through Triton).

A program is a block of points in one level. It finds the eight entries of each of its points, reads
them from the tables laid end to end and adds them up: nothing between the points and the encoding
is written to memory. The transpose adds to the tables by atomic additions, in an order that the
card chooses: two runs may differ in the last bits, as XLA's own scatter on a GPU does.

No gradient passes through these; `look_up.py` has the rules.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from iso3d_jax.nerf import hash_grid
from iso3d_jax.nerf.hash_grid import HashGridSpec

BLOCK = 256  # points of a program, a power of two


def _scalars(spec: HashGridSpec) -> tuple[np.ndarray, ...]:
    """Of each level: scale, resolution, entries, the first entry, whether it is hashed."""
    levels = spec.table
    entries = np.array([level.entries for level in levels], np.uint32)
    return (
        np.array([level.scale for level in levels], np.float32),
        np.array([level.resolution for level in levels], np.uint32),
        entries,
        (np.cumsum(entries) - entries).astype(np.uint32),
        np.array([level.hashed for level in levels], np.int32),
    )


def _corners(x_ref, scalar_refs, *, spec, derivatives):
    """Entries [block] of the corners, and for each derivative their weights, in this level."""
    level = pl.program_id(1)
    scale, resolution, entries, offset, hashed = (ref[level] for ref in scalar_refs)
    position = [x_ref[axis, :] * scale + np.float32(0.5) for axis in range(3)]
    lower = [jnp.floor(one) for one in position]
    cell = [one.astype(jnp.int32).astype(jnp.uint32) for one in lower]
    upper = [one - below for one, below in zip(position, lower, strict=True)]
    index = [
        (jnp.where(hashed > 0, mixed, dense) + offset).astype(jnp.int32)
        for dense, mixed in zip(
            hash_grid.dense_entries(cell, resolution, entries),
            hash_grid.hashed_entries(cell, 2**spec.log2_table_size),
            strict=True,
        )
    ]
    weights = [hash_grid.corner_weights(upper, scale, axes) for axes in derivatives]
    return index, weights


def _look_up_kernel(x_ref, *refs, spec, derivatives):
    *scalar_refs, table_ref, out_ref = refs
    index, weights = _corners(x_ref, scalar_refs, spec=spec, derivatives=derivatives)
    for feature in range(spec.features):
        rows = [triton.load(table_ref.at[one * spec.features + feature]) for one in index]
        for k, shares in enumerate(weights):
            out_ref[k, 0, feature, :] = sum(w * row for w, row in zip(shares, rows, strict=True))


def _spread_kernel(x_ref, *refs, spec, derivatives):
    *scalar_refs, share_ref, _, table_ref = refs
    index, weights = _corners(x_ref, scalar_refs, spec=spec, derivatives=derivatives)
    for feature in range(spec.features):
        shares = [share_ref[k, 0, feature, :] for k in range(len(derivatives))]
        for corner, one in enumerate(index):
            value = sum(w[corner] * s for w, s in zip(weights, shares, strict=True))
            triton.atomic_add(table_ref, (one * spec.features + feature,), value)


def _padded(x: Array, block: int) -> Array:
    """[..., N] with zeros up to a whole number of blocks: a point whose shares are zero."""
    rest = -x.shape[-1] % block
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, rest)])


def _specs(spec: HashGridSpec, count: int, block: int):
    """Blocks of points [3, N], of each level's scalars, and of [K, L, F, N]."""
    points = pl.BlockSpec((3, block), lambda i, level: (0, i))
    scalars = [pl.BlockSpec((spec.levels,), lambda i, level: (0,))] * 5
    values = pl.BlockSpec((count, 1, spec.features, block), lambda i, level: (0, level, 0, i))
    table = pl.BlockSpec((spec.num_params,), lambda i, level: (0,))
    return points, scalars, values, table


def look_up(grid, x, *, spec: HashGridSpec, derivatives, block=BLOCK, interpret=False):
    """As `look_up.look_up`, without gradients.

    Args:
      block: points of a program.
      interpret: run it as JAX on any device, for tests.
    """
    across = _padded(x.T, block)
    points, scalars, values, table = _specs(spec, len(derivatives), block)
    shape = (len(derivatives), spec.levels, spec.features, across.shape[1])
    out = pl.pallas_call(
        functools.partial(_look_up_kernel, spec=spec, derivatives=derivatives),
        grid=(across.shape[1] // block, spec.levels),
        in_specs=[points, *scalars, table],
        out_specs=values,
        out_shape=jax.ShapeDtypeStruct(shape, x.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4),
        name="hash_grid_look_up",
    )(across, *map(jnp.asarray, _scalars(spec)), hash_grid.to_flat(grid))
    return tuple(one.reshape(spec.width, -1)[:, : x.shape[0]] for one in out)


def spread(x, cotangent, *, spec: HashGridSpec, derivatives, block=BLOCK, interpret=False):
    """As `look_up.spread`, without gradients.

    Args:
      block: points of a program. Interpreted, additions to one entry by several points of a block
        would be lost: 1 is right there.
      interpret: run it as JAX on any device, for tests.
    """
    across = _padded(x.T, block)
    points, scalars, values, table = _specs(spec, len(derivatives), block)
    shares = jnp.stack([one.reshape(spec.levels, spec.features, -1) for one in cotangent])
    flat = pl.pallas_call(
        functools.partial(_spread_kernel, spec=spec, derivatives=derivatives),
        grid=(across.shape[1] // block, spec.levels),
        in_specs=[points, *scalars, values, table],
        out_specs=table,
        out_shape=jax.ShapeDtypeStruct((spec.num_params,), x.dtype),
        input_output_aliases={7: 0},
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4),
        name="hash_grid_spread",
    )(
        across,
        *map(jnp.asarray, _scalars(spec)),
        _padded(shares, block),
        jnp.zeros(spec.num_params, x.dtype),
    )
    return hash_grid.from_flat(flat, spec)
