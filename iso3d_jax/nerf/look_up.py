"""The hash encoding and its derivatives with respect to the point, in one differentiable look-up.

In a cell the encoding is a polynomial that is linear in each of the three coordinates. So a
derivative is named by the axes that it is taken along, each at most once, and comes of the same
eight entries with other weights: `side` becomes its slope. `look_up` gives any set of derivatives
from one pass over the entries, and `spread`, its transpose, scatters once for all of them. Each
one's gradient is made of the two again, so that gradients of every order are right, and none but
the points is kept from the forward pass to the backward one: entries are read again, not stored.

How a pass is computed is the platform's:

- on a CPU level by level, all that a level needs in the cache, and rows of features at once;
- elsewhere as `hash_grid.gather` and `interpolate` say it, all levels together: the plain form,
  which the tests compare the others with;
- on an NVIDIA GPU by the kernels of `look_up_triton.py` where the environment has
  ISO3D_HASH_GRID=triton. They were never timed on a card: `benchmarks/accelerator.py` prints both.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.nerf import hash_grid, look_up_triton
from iso3d_jax.nerf.hash_grid import CORNERS, Grid, HashGridSpec, Level

Axes = tuple[int, ...]  # of one derivative, ascending; () is the value itself
VALUE: tuple[Axes, ...] = ((),)
VALUE_AND_SLOPES: tuple[Axes, ...] = ((), (0,), (1,), (2,))


SWITCH = "ISO3D_HASH_GRID"  # an environment variable


def use_triton() -> bool:
    """Whether programs that are traced now are to have the kernels on an NVIDIA GPU.

    Raises:
      UserError: the variable has a value that is none of its own.
    """
    value = os.environ.get(SWITCH, "")
    if value not in ("", "xla", "triton"):
        raise UserError(f"{SWITCH} is {value!r}: set it to 'triton' or 'xla', or unset it")
    return value == "triton"


def look_up(
    grid: Grid, x: Float[Array, "N 3"], spec: HashGridSpec, derivatives: tuple[Axes, ...] = VALUE
) -> tuple[Float[Array, "D N"], ...]:
    """Derivatives of the encoding of points in [0, 1]^3.

    Args:
      grid: one [entries, features] array a level.
      derivatives: those that are wanted, each by its axes: `VALUE` or `VALUE_AND_SLOPES`, say.

    Returns:
      For each of them the encoding's derivative, levels outermost; at a cell's border those of the
      cell above.
    """
    return _look_up(grid, x, spec, derivatives)


def spread(
    x: Float[Array, "N 3"],
    cotangent: Sequence[Float[Array, "D N"]],
    spec: HashGridSpec,
    derivatives: tuple[Axes, ...],
) -> Grid:
    """The transpose of `look_up` in its grid: adds up what the points have for each entry."""
    return _spread(x, cotangent, spec, derivatives)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _look_up(grid, x, spec, derivatives):
    ways = {"cpu": _look_up_by_levels, "default": _look_up_plain}
    if use_triton():
        ways["cuda"] = look_up_triton.look_up
    return _by_platform(ways, spec, derivatives)(grid, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _spread(x, cotangent, spec, derivatives):
    ways = {"cpu": _spread_by_levels, "default": _spread_plain}
    if use_triton():
        ways["cuda"] = look_up_triton.spread
    return _by_platform(ways, spec, derivatives)(x, cotangent)


def _by_platform(ways, spec, derivatives):
    ways = {
        platform: functools.partial(way, spec=spec, derivatives=derivatives)
        for platform, way in ways.items()
    }
    return functools.partial(jax.lax.platform_dependent, **ways)


def _by_points(grid, x, cotangent, spec, derivatives):
    """Gradient to x of the product of cotangent and look-up: derivatives one order higher."""
    higher = sorted({_with(axes, a) for axes in derivatives for a in range(3) if a not in axes})
    if not higher:
        return jnp.zeros_like(x)
    values = dict(zip(higher, look_up(grid, x, spec, tuple(higher)), strict=True))
    along = [
        sum(
            jnp.sum(part * values[_with(axes, a)], 0)
            for axes, part in zip(derivatives, cotangent, strict=True)
            if a not in axes
        )
        + jnp.zeros_like(x[:, a])
        for a in range(3)
    ]
    return jnp.stack(along, -1)


def _with(axes: Axes, axis: int) -> Axes:
    return tuple(sorted((*axes, axis)))


def _values(tree):
    """The arrays of what a forward rule is given, and whether any of them is differentiated."""
    leaves, kind = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
    return kind.unflatten([leaf.value for leaf in leaves]), any(leaf.perturbed for leaf in leaves)


def _present(derivatives, cotangent):
    """The derivatives that something depends on, and what: the others need no pass."""
    pairs = [
        (axes, part)
        for axes, part in zip(derivatives, cotangent, strict=True)
        if not isinstance(part, SymbolicZero)
    ]
    return tuple(axes for axes, _ in pairs), tuple(part for _, part in pairs)


# What is not differentiated (the points of a render, say) is not kept, and no gradient is traced.


def _look_up_forward(grid, x, spec, derivatives):
    (grid, by_grid), (x, by_x) = _values(grid), _values(x)
    kept = (x, grid if by_x else None, () if by_grid else None)
    return look_up(grid, x, spec, derivatives), kept


def _look_up_backward(spec, derivatives, kept, cotangent):
    x, grid, by_grid = kept
    derivatives, cotangent = _present(derivatives, cotangent)
    return (
        None if by_grid is None else spread(x, cotangent, spec, derivatives),
        None if grid is None else _by_points(grid, x, cotangent, spec, derivatives),
    )


def _spread_forward(x, cotangent, spec, derivatives):
    (x, by_x), (cotangent, by_cotangent) = _values(x), _values(cotangent)
    kept = (x, cotangent if by_x else None, () if by_cotangent else None)
    return spread(x, cotangent, spec, derivatives), kept


def _spread_backward(spec, derivatives, kept, grid):
    x, cotangent, by_cotangent = kept
    grid = tuple(
        jnp.zeros(shape.shape, x.dtype) if isinstance(level, SymbolicZero) else level
        for level, shape in zip(grid, _shapes(spec, x.dtype), strict=True)
    )
    return (
        None if cotangent is None else _by_points(grid, x, cotangent, spec, derivatives),
        None if by_cotangent is None else look_up(grid, x, spec, derivatives),
    )


_look_up.defvjp(_look_up_forward, _look_up_backward, symbolic_zeros=True)
_spread.defvjp(_spread_forward, _spread_backward, symbolic_zeros=True)


def encode(grid: Grid, x: Float[Array, "N 3"], spec: HashGridSpec) -> Float[Array, "N D"]:
    """Features of points in [0, 1]^3; levels outermost."""
    return look_up(grid, x, spec)[0].T


# The plain form


def _look_up_plain(grid, x, *, spec, derivatives):
    values = hash_grid.gather(grid, x, spec)
    return tuple(hash_grid.interpolate(values, x, spec, axes) for axes in derivatives)


def _shapes(spec: HashGridSpec, dtype) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A grid without its numbers."""
    return tuple(jax.ShapeDtypeStruct((n.entries, spec.features), dtype) for n in spec.table)


def _spread_plain(x, cotangent, *, spec, derivatives):
    transposed = jax.linear_transpose(
        lambda grid: _look_up_plain(grid, x, spec=spec, derivatives=derivatives),
        _shapes(spec, x.dtype),
    )
    return transposed(cotangent)[0]


# By levels, for a CPU


def _by_kind(spec: HashGridSpec) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """The levels that have an entry for every grid point, which are the first, and the others."""
    levels = spec.table
    dense = tuple(level for level in levels if not level.hashed)
    if levels[: len(dense)] != dense:
        raise ValueError("a level that is hashed is finer than all that are not")
    return dense, levels[len(dense) :]


def _dense_scalars(levels: Sequence[Level]) -> dict[str, np.ndarray]:
    entries = np.array([level.entries for level in levels], np.uint32)
    return {
        "scale": np.array([level.scale for level in levels], np.float32),
        "resolution": np.array([level.resolution for level in levels], np.uint32),
        "entries": entries,
        "offset": (np.cumsum(entries) - entries).astype(np.uint32),
    }


def _weights(upper: Array, scale: Array, derivatives: Sequence[Axes]) -> list[list[Array]]:
    """For each derivative the weights [N] of the corners; along all axes they are one for all N."""
    return [
        [jnp.broadcast_to(w, upper[0].shape) for w in hash_grid.corner_weights(upper, scale, axes)]
        for axes in derivatives
    ]


def _position(x: Array, scale: Array) -> tuple[Array, Array]:
    return hash_grid.split_position(x * scale + np.float32(0.5))


def _dense(x: Array, level: dict[str, Array]) -> tuple[list[Array], Array]:
    """Entries of the corners [N] in the table of all dense levels, and how far into the cell."""
    cell, upper = _position(x, level["scale"])
    entries = hash_grid.dense_entries(cell, level["resolution"], level["entries"])
    return [(one + level["offset"]).astype(jnp.int32) for one in entries], upper


def _hashed(x: Array, scale: Array, spec: HashGridSpec) -> tuple[list[Array], Array]:
    cell, upper = _position(x, scale)
    entries = hash_grid.hashed_entries(cell, 2**spec.log2_table_size)
    return [one.astype(jnp.int32) for one in entries], upper


def _add_up(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _rows(table: Array, entries: Array) -> Array:
    return table.at[entries].get(mode="promise_in_bounds")


def _interpolated(
    table: Array, entries: list[Array], weights: list[list[Array]]
) -> tuple[Array, ...]:
    """Each derivative [F, N] of one level; rows of features are read once for all of them."""
    if len(weights) == 1:  # in the loop that reads them: nothing but the sum is written
        rows = [_rows(table, one) for one in entries]
    else:
        rows = _rows(table, jnp.stack(entries))
    return tuple(
        _add_up(w[:, None] * row for w, row in zip(one, rows, strict=True)).T for one in weights
    )


def _look_up_by_levels(grid, x, *, spec, derivatives):
    """A loop over the levels, compiled once for those of a kind.

    Of the hashed ones a level's table is copied to where the last one's was, which costs less than
    tables laid end to end in new memory do.
    """
    dense, hashed = _by_kind(spec)
    across, parts = x.T, []
    if dense:
        table = jnp.concatenate(list(grid[: len(dense)]))

        def one_dense(level):
            entries, upper = _dense(across, level)
            return _interpolated(table, entries, _weights(upper, level["scale"], derivatives))

        parts.append(jax.lax.map(one_dense, _dense_scalars(dense)))
    if hashed:
        tables = grid[len(dense) :]

        def one_hashed(level):
            number, scale = level
            table = jax.lax.switch(number, [lambda one=one: one for one in tables])
            entries, upper = _hashed(across, scale, spec)
            return _interpolated(table, entries, _weights(upper, scale, derivatives))

        scales = np.array([level.scale for level in hashed], np.float32)
        parts.append(jax.lax.map(one_hashed, (np.arange(len(hashed)), scales)))
    return tuple(
        jnp.concatenate(levels).reshape(spec.width, x.shape[0])  # of [L, F, N]
        for levels in zip(*parts, strict=True)
    )


def _spread_by_levels(x, cotangent, *, spec, derivatives):
    dense, hashed = _by_kind(spec)
    shares = [one.reshape(spec.levels, spec.features, -1) for one in cotangent]
    across = x.T

    def add(table, entries, weights, share):
        rows = [
            _add_up(w[c] * one for w, one in zip(weights, share, strict=True)).T
            for c in range(len(CORNERS))
        ]
        return table.at[jnp.stack(entries)].add(jnp.stack(rows), mode="promise_in_bounds")

    out = []
    if dense:
        sizes = [level.entries for level in dense]

        def one_dense(table, level):
            scalars, share = level
            entries, upper = _dense(across, scalars)
            weights = _weights(upper, scalars["scale"], derivatives)
            return add(table, entries, weights, share), None

        empty = jnp.zeros((sum(sizes), spec.features), x.dtype)
        first = [share[: len(dense)] for share in shares]
        table, _ = jax.lax.scan(one_dense, empty, (_dense_scalars(dense), first))
        out += jnp.split(table, np.cumsum(sizes)[:-1])
    if hashed:

        def one_hashed(level):
            scale, share = level
            entries, upper = _hashed(across, scale, spec)
            empty = jnp.zeros((hashed[0].entries, spec.features), x.dtype)
            return add(empty, entries, _weights(upper, scale, derivatives), share)

        scales = np.array([level.scale for level in hashed], np.float32)
        out += list(jax.lax.map(one_hashed, (scales, [s[len(dense) :] for s in shares])))
    return tuple(out)
