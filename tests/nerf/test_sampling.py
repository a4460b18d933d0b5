"""Where samples lie: bounds, packing, marching through occupied cells, thinning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iso3d_jax.nerf import sampling

RADIUS = 0.7


def test_bounds_of_box_and_sphere():
    o = jnp.array([[3.0, 0.2, 0.1], [0, 0, 0.0], [3.0, 2.0, 0.0], [0.3, 0.3, -5.0]])
    d = jnp.array([[-1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, 0, 1.0]])
    near, far = sampling.ray_bounds(o, d, 1.0, "box")
    np.testing.assert_allclose(near[:2], [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(far[:2], [4.0, 1.0], atol=1e-6)
    assert far[2] < near[2]
    near, far = sampling.ray_bounds(o, d, 1.0, "sphere")
    ends = np.asarray(o + far[:, None] * d)
    np.testing.assert_allclose(np.linalg.norm(ends[[0, 1, 3]], axis=-1), 1.0, rtol=1e-5)
    assert far[2] < near[2]
    assert sampling.max_steps(2 * 1.732 / 512, 1.0, "box") in (512, 513)


def test_packing_keeps_order_and_spreads_when_full():
    mask = jnp.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1], bool)
    index, valid, stretch, wanted = sampling.pack(mask, 8)
    np.testing.assert_array_equal(index[valid], [1, 2, 4, 7, 8, 9])
    assert wanted == 6 and stretch == 1
    index, valid, stretch, _ = sampling.pack(mask, 3)
    np.testing.assert_array_equal(index, [2, 7, 9])
    assert valid.all() and stretch == 2
    assert not sampling.pack(jnp.zeros(10, bool), 3)[1].any()


@pytest.mark.parametrize("slots", [1, 77, 512, 1500])
@pytest.mark.parametrize("entries", [1, 511, 512, 513, 5000])
def test_packing_is_the_search_through_all_entries(entries, slots):
    """Blocks are full, empty, in runs; there is room for all, or for some."""
    rng = np.random.default_rng(entries + slots)
    masks = [np.zeros(entries, bool), np.ones(entries, bool), rng.random(entries) < 0.3]
    masks.append(np.repeat(rng.random(entries // 600 + 1) < 0.5, 600)[:entries])
    for mask in masks:
        index, valid, stretch, wanted = sampling.pack(jnp.asarray(mask), slots)
        true = np.flatnonzero(mask)
        assert wanted == len(true) and stretch == max(np.float32(len(true)) / np.float32(slots), 1)
        rank = np.arange(slots)
        if stretch > 1:
            rank = ((rank.astype(np.float32) + np.float32(0.5)) * np.float32(stretch)).astype(int)
        np.testing.assert_array_equal(valid, rank < len(true))
        np.testing.assert_array_equal(np.asarray(index)[rank < len(true)], true[rank[valid]])
        assert (np.asarray(index)[~np.asarray(valid)] == entries - 1).all()


def some_rays(seed=0, count=12):
    """Rays towards the scene from a little outside, float64: most of them hit it."""
    rng = np.random.default_rng(seed)
    rays_o = rng.normal(size=(count, 3))
    rays_o *= 1.6 / np.linalg.norm(rays_o, axis=-1, keepdims=True)
    rays_d = rng.uniform(-0.6, 0.6, (count, 3)) - rays_o
    return rays_o, rays_d / np.linalg.norm(rays_d, axis=-1, keepdims=True)


@pytest.mark.parametrize("bound", ["box", "sphere"])
def test_bounds_are_where_a_fine_walk_enters_and_leaves(bound):
    rays_o, rays_d = some_rays()
    rays_o[0] = [0.1, -0.2, 0.3]  # a camera inside
    rays_d[1] *= -1  # one that looks away
    rays_d[2] = [0.0, 0.0, 1.0]  # along an axis
    rays_o[2] = [0.2, -0.3, -2.0]
    t = np.linspace(0, 4, 20001)
    x = rays_o[:, None] + t[:, None] * rays_d[:, None]
    inside = (np.abs(x) if bound == "box" else np.linalg.norm(x, axis=-1, keepdims=True)) <= RADIUS
    inside = inside.all(-1)
    near, far = sampling.ray_bounds(jnp.asarray(rays_o), jnp.asarray(rays_d), RADIUS, bound)
    assert near.min() >= 0 and near[0] == 0
    hit = inside.any(-1)
    assert 5 < hit.sum() < 12 and not hit[1]
    np.testing.assert_array_equal(far > near, hit)
    for ray in np.flatnonzero(hit):
        first, last = t[inside[ray]][[0, -1]]
        np.testing.assert_allclose([near[ray], far[ray]], [first, last], atol=5e-4)
    with pytest.raises(ValueError, match="ball"):
        sampling.ray_bounds(jnp.asarray(rays_o), jnp.asarray(rays_d), RADIUS, "ball")


def test_the_most_steps_that_fit():
    assert sampling.max_steps(0.1, 1.0, "sphere") == 20  # 2 / 0.1 and no more
    assert sampling.max_steps(0.099, 1.0, "sphere") == 21
    assert sampling.max_steps(0.1, 0.5, "sphere") == 10
    assert sampling.max_steps(0.1, 1.0, "box") == 35  # 3.46 / 0.1
    assert sampling.max_steps(2 * 1.732 / 512, 1.0, "box") == 513


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 7, 16, 40]))
def test_packing_keeps_how_many_there_are(seed, share, slots):
    """Slots times what each stands for are all entries, evenly spread in their order."""
    mask = np.random.default_rng(seed).random(40) < share
    index, valid, stretch, wanted = map(np.asarray, PACK(jnp.asarray(mask), slots))
    entries = np.flatnonzero(mask)
    assert wanted == len(entries) and index.shape == valid.shape == (slots,)
    assert valid.sum() == min(slots, wanted) and (np.diff(valid.astype(int)) <= 0).all()
    np.testing.assert_allclose(stretch, max(wanted / slots, 1.0), rtol=1e-6)
    if valid.any():
        np.testing.assert_allclose(valid.sum() * stretch, wanted, rtol=1e-6)
    rank = np.searchsorted(entries, index[valid])
    np.testing.assert_array_equal(entries[rank], index[valid])
    assert (np.diff(rank) >= 1).all() and (index < 40).all()
    # one of each stretch, the one in its middle
    middle = (np.arange(slots) + 0.5) * stretch if wanted > slots else np.arange(slots) + 0.5
    assert (np.abs(rank + 0.5 - middle[valid]) <= 0.5 + 1e-4).all()


PACK = jax.jit(sampling.pack, static_argnums=1)


def test_samples_are_the_steps_in_occupied_cells():
    """Ray by ray in float64; the body is a slab that differs along every axis."""
    rays_o, rays_d = some_rays(1)
    cells = np.zeros((6, 6, 6), bool)
    cells[1:3, 2:6, 3:5] = True
    for bound, occupied in (("box", cells), ("sphere", cells), ("box", None)):
        got = sampling.march(
            None, jnp.asarray(rays_o), jnp.asarray(rays_d),
            None if occupied is None else jnp.asarray(occupied.reshape(-1)),
            slots=600, step_size=0.05, radius=RADIUS, bound=bound,
        )  # fmt: skip
        near, far = sampling.ray_bounds(jnp.asarray(rays_o), jnp.asarray(rays_d), RADIUS, bound)
        ray, t = [], []
        for r in range(len(rays_o)):
            at = np.float64(near[r]) + (np.arange(60) + 0.5) * 0.05
            at = at[at < far[r]]
            cell = np.floor((rays_o[r] + at[:, None] * rays_d[r] + RADIUS) / (2 * RADIUS) * 6)
            i, j, k = np.clip(cell, 0, 5).astype(int).T
            at = at if occupied is None else at[occupied[i, j, k]]
            ray += [r] * len(at)
            t += list(at)
        count = int(got.wanted)
        assert 20 < count == len(ray) < 600
        np.testing.assert_array_equal(got.ray[:count], ray)
        np.testing.assert_allclose(got.t[:count], t, atol=1e-5)
        np.testing.assert_array_equal(got.valid, np.arange(600) < count)
        np.testing.assert_allclose(got.length, np.where(got.valid, 0.05, 0.0))
        assert (got.ray[count:] == 11).all()  # so that rays stay sorted


def test_the_key_moves_the_steps_of_each_ray_by_a_part_of_a_step():
    rays_o, rays_d = map(jnp.asarray, some_rays(2, 40))
    given = dict(slots=2000, step_size=0.05, radius=RADIUS, bound="sphere")
    middle, one, two = (sampling.march(key, rays_o, rays_d, None, **given)
                        for key in (None, jax.random.key(0), jax.random.key(1)))  # fmt: skip
    near, _ = sampling.ray_bounds(rays_o, rays_d, RADIUS, "sphere")
    shifts = []
    for samples in (middle, one, two):
        part = np.asarray((samples.t - near[samples.ray]) / 0.05 % 1.0)[np.asarray(samples.valid)]
        ray = np.asarray(samples.ray)[np.asarray(samples.valid)]
        first = np.array([part[ray == r][0] for r in np.unique(ray)])
        for r, value in zip(np.unique(ray), first, strict=True):
            away = np.abs(part[ray == r] - value)
            assert np.minimum(away, 1 - away).max() < 1e-3  # all of a ray alike
        shifts.append(first)
    np.testing.assert_allclose(shifts[0], 0.5, atol=1e-3)
    for shift in shifts[1:]:
        assert shift.min() < 0.15 and shift.max() > 0.85 and abs(shift.mean() - 0.5) < 0.2
    assert np.abs(shifts[1][:20] - shifts[2][:20]).max() > 0.3


def test_thinned_samples_stand_for_a_longer_stretch():
    rays_o, rays_d = map(jnp.asarray, some_rays(3))
    given = dict(step_size=0.05, radius=RADIUS, bound="sphere")
    whole = sampling.march(None, rays_o, rays_d, None, slots=400, **given)
    few = sampling.march(None, rays_o, rays_d, None, slots=60, **given)
    assert int(few.wanted) == int(whole.wanted) > 120 and few.valid.all()
    np.testing.assert_allclose(few.length, 0.05 * int(whole.wanted) / 60, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(few.length), jnp.sum(whole.length), rtol=1e-5)


def test_what_is_kept_of_the_samples():
    ray = jnp.array([0, 0, 1, 1, 1, 2, 2, 4, 4, 5])
    t = jnp.arange(10.0)
    valid = jnp.arange(10) < 9
    samples = sampling.Samples(ray, t, jnp.where(valid, t + 1.0, 0.0), valid, jnp.int32(9))
    mask = jnp.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 1], bool)
    kept = sampling.keep(samples, mask, 8)  # six of them: the last slot was never used
    np.testing.assert_array_equal(kept.t[:6], [0, 2, 3, 5, 7, 8])
    np.testing.assert_array_equal(kept.ray, [0, 1, 1, 2, 4, 4, 5, 5])
    np.testing.assert_allclose(kept.length, [1, 3, 4, 6, 8, 9, 0, 0])
    np.testing.assert_array_equal(kept.valid, np.arange(8) < 6)
    assert int(kept.wanted) == 6
    halved = sampling.keep(samples, mask, 3)  # every second one, for two each
    np.testing.assert_array_equal(halved.t, [2, 5, 8])
    np.testing.assert_array_equal(halved.ray, [1, 2, 4])
    np.testing.assert_allclose(halved.length, [6, 12, 18])
    assert int(halved.wanted) == 6
