"""The hash grid against a loop over points and corners, from tiny-cuda-nn's source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.nerf import hash_grid, look_up
from iso3d_jax.nerf.hash_grid import HashGridSpec

SMALL = HashGridSpec(levels=5, log2_table_size=9, base_resolution=3, growth=1.7)


def reference_levels(spec):
    """Scale, resolution and entries of each level (grid.h:690-720, common_device.h:1017-1029)."""
    log2_growth = np.float32(np.log2(np.float32(spec.growth)))
    for level in range(spec.levels):
        power = np.exp2(np.float32(level) * log2_growth) * np.float32(spec.base_resolution)
        scale = np.float32(power) - np.float32(1)
        resolution = int(np.ceil(scale)) + 1
        entries = (resolution**3 + 7) // 8 * 8
        yield scale, resolution, min(entries, 1 << spec.log2_table_size)


def reference_index(corner, resolution, entries):
    """grid_index of common_device.h:848-895, in whole numbers modulo 2^32."""
    index, stride = 0, 1
    for axis in range(3):
        if stride > entries:
            break
        index += corner[axis] * stride
        stride *= resolution
    if entries < stride:
        index = 0
        for axis, prime in enumerate((1, 2654435761, 805459861)):
            index ^= (corner[axis] * prime) & 0xFFFFFFFF
    return (index & 0xFFFFFFFF) % entries


def reference_encode(flat, x, spec):
    out, offset = [], 0
    flat = flat.reshape(-1, spec.features)
    for scale, resolution, entries in reference_levels(spec):
        position = x.astype(np.float32) * scale + np.float32(0.5)
        cell = np.floor(position).astype(int)
        share = position - cell
        value = np.zeros(spec.features)
        for sides in np.ndindex(2, 2, 2):
            weight = np.prod([s if side else 1 - s for side, s in zip(sides, share, strict=True)])
            index = reference_index([int(c + s) for c, s in zip(cell, sides, strict=True)],
                                    resolution, entries)  # fmt: skip
            value += weight * flat[offset + index]
        out.append(value)
        offset += entries
    return np.concatenate(out)


def test_released_size_has_12599920_parameters():
    spec = HashGridSpec()
    shapes = jax.eval_shape(lambda key: hash_grid.init(key, spec), jax.random.key(0))
    assert sum(np.prod(s.shape) for s in shapes) == spec.num_params == 12_599_920
    table = spec.table
    assert [level.resolution for level in table[:5]] == [16, 24, 34, 49, 71]
    assert table[-1].resolution in (4095, 4096)
    assert [level.hashed for level in table] == [False] * 5 + [True] * 11
    for level, (scale, resolution, entries) in zip(table, reference_levels(spec), strict=True):
        assert (level.scale, level.resolution, level.entries) == (scale, resolution, entries)


def special_points(spec, rng):
    """Random points, the box's corners, and points just around cell borders of every level."""
    points = [rng.random((40, 3)), np.array(list(np.ndindex(2, 2, 2)), float)]
    for scale, resolution, _ in reference_levels(spec):
        border = (np.arange(resolution) - 0.5) / scale
        border = border[(border > 0) & (border < 1)].astype(np.float32)
        x = rng.choice(border, (8, 3)).astype(np.float32)
        points += [x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(1))]
    return np.concatenate(points).astype(np.float32)


def test_encoding_matches_the_loop_at_borders_and_corners():
    rng = np.random.default_rng(0)
    x = special_points(SMALL, rng)
    flat = rng.normal(size=SMALL.num_params).astype(np.float32)
    grid = hash_grid.from_flat(jnp.asarray(flat), SMALL)
    got = np.asarray(jax.jit(lambda g, x: look_up.encode(g, x, SMALL))(grid, x))
    want = np.stack([reference_encode(flat, p, SMALL) for p in x])
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_every_entry_of_the_table_is_where_it_should_be():
    rng = np.random.default_rng(1)
    grid = hash_grid.from_flat(jnp.arange(SMALL.num_params, dtype=jnp.float32), SMALL)
    x = rng.random((3000, 3)).astype(np.float32)
    values = np.asarray(hash_grid.gather(grid, jnp.asarray(x), SMALL))  # [F, 8, L, N]
    offset = 0
    for index, (scale, resolution, entries) in enumerate(reference_levels(SMALL)):
        cell = np.floor(x * scale + np.float32(0.5)).astype(int)
        seen = set()
        for corner, sides in enumerate(hash_grid.CORNERS):
            want = [reference_index((c + sides).tolist(), resolution, entries) for c in cell]
            seen.update(want)
            np.testing.assert_array_equal(values[0, corner, index], 2 * (offset + np.array(want)))
        assert len(seen) > 0.8 * min(entries, resolution**3)
        offset += entries


def test_flat_order_round_trip_and_wrong_size():
    flat = jax.random.normal(jax.random.key(0), (SMALL.num_params,))
    grid = hash_grid.from_flat(flat, SMALL)
    np.testing.assert_array_equal(hash_grid.to_flat(grid), flat)
    assert [level.shape for level in grid] == [(n, 2) for *_, n in reference_levels(SMALL)]
    np.testing.assert_array_equal(grid[1][0], flat[grid[0].size : grid[0].size + 2])
    with pytest.raises(ValueError, match="parameters"):
        hash_grid.from_flat(flat[1:], SMALL)


def test_gradients_match_finite_differences():
    rng = np.random.default_rng(2)
    grid = hash_grid.from_flat(jnp.asarray(rng.normal(size=SMALL.num_params), jnp.float32), SMALL)
    x = jnp.asarray(rng.uniform(0.05, 0.95, (6, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=SMALL.width), jnp.float32)

    encode = jax.jit(lambda grid, x: look_up.encode(grid, x, SMALL))

    def value(grid, x):
        return jnp.sum(encode(grid, x) @ weights)

    by_grid, by_x = jax.jit(jax.grad(value, (0, 1)))(grid, x)
    level = 3
    direction = jnp.asarray(rng.normal(size=grid[level].shape), jnp.float32)
    moved = list(grid)
    moved[level] = grid[level] + direction
    np.testing.assert_allclose(
        value(tuple(moved), x) - value(grid, x), jnp.sum(direction * by_grid[level]), rtol=1e-4
    )  # linear in the table
    step = 1e-3
    for axis in range(3):
        shift = step * jnp.eye(3, dtype=jnp.float32)[axis]
        ahead, behind = (encode(grid, x + s * shift) @ weights for s in (1, -1))
        smooth = jnp.abs((ahead - behind) / (2 * step) - by_x[:, axis]) < 0.02
        assert smooth.mean() > 0.8  # a point beside a border has another slope on each side


def test_entries_are_drawn_level_by_level_within_their_bounds():
    spec = HashGridSpec(levels=3, features=3, log2_table_size=9, base_resolution=4, growth=2.0)
    assert spec.width == 9 and spec.num_params == 3 * (64 + 512 + 512)
    grid = hash_grid.init(jax.random.key(0), spec)
    assert [level.shape for level in grid] == [(64, 3), (512, 3), (512, 3)]
    for level in map(np.asarray, grid):
        assert -1e-4 <= level.min() < -0.95e-4 and 0.95e-4 < level.max() <= 1e-4
        assert abs(level.mean()) < 1.5e-5
    assert abs(np.corrcoef(np.ravel(grid[1]), np.ravel(grid[2]))[0, 1]) < 0.1
    flat = jnp.arange(spec.num_params)
    second = hash_grid.from_flat(flat, spec)[1]
    np.testing.assert_array_equal(second[2], [192 + 6, 192 + 7, 192 + 8])


def test_a_level_is_hashed_only_where_it_does_not_fit():
    """7^3 are 343 and 344 entries; 8^3 are exactly the table, and 9^3 more than it."""
    for base, entries, hashed in ((7, 344, False), (8, 512, False), (9, 512, True)):
        (level,) = HashGridSpec(levels=1, log2_table_size=9, base_resolution=base).table
        assert (level.resolution, level.entries, level.hashed) == (base, entries, hashed)
