"""The occupancy grid: which cells are measured, in which order they lie, and how they decay."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.nerf import occupancy

STEP = 0.25  # of a ray; exact in float32
SIDE = 8  # cells along an axis
WIDTH = 1.5 / SIDE  # of a cell, where the radius is 0.75


@partial(jax.jit, static_argnames=("density", "decay", "warmup"))
def update(key, occs, density, step, value=0.0, **changes):
    """One update in iteration `step`; `density` maps points and `value` to densities."""
    return occupancy.update(
        jax.random.key(key), occs, lambda x: density(x, value), step, resolution=SIDE,
        radius=0.75, step_size=STEP, **changes,
    )  # fmt: skip


def sloped(x, value):
    """A density that is another one along each axis."""
    return value + 1.0 * x[:, 0] + 2.0 * x[:, 1] + 4.0 * x[:, 2]


def even(x, value):
    return jnp.full(len(x), value)


def corners():
    """The lower corner of each cell, [x, y, z, 3]."""
    return np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1) * WIDTH - 0.75


def test_every_cell_is_measured_inside_of_itself():
    """With one density for all axes, cells in another order would look right."""
    got = []
    for key in (0, 1):
        occs = update(key, occupancy.init(SIDE), sloped, 0, 10.0)
        assert occs.shape == (SIDE**3,) and occs.dtype == jnp.float32
        got.append(np.asarray(occs, np.float64).reshape(SIDE, SIDE, SIDE) / STEP)
    lowest = sloped(corners().reshape(-1, 3), 10.0).reshape(SIDE, SIDE, SIDE)
    for values in got:
        share = (values - lowest) / (7 * WIDTH)  # (u + 2 v + 4 w) / 7 of three uniform numbers
        assert share.min() > -1e-5 and share.max() < 1 + 1e-5
        assert abs(share.mean() - 0.5) < 0.04 and share.min() < 0.1 and share.max() > 0.9
        assert share.std() == pytest.approx(np.sqrt(21 / 12) / 7, rel=0.1)  # apart: all three
    assert np.abs(got[0] - got[1]).max() > WIDTH  # other points with another key


def test_points_have_the_cell_that_is_measured_around_them():
    x, y, z = 1, 6, 3
    body = corners()[x, y, z]

    def density(p, value):
        inside = (p > body + 1e-6) & (p < body + WIDTH - 1e-6)
        return jnp.where(inside.all(-1), 8.0, 0.0)

    occs = update(0, occupancy.init(SIDE), density, 0)
    assert int(jnp.argmax(occs)) == (x * SIDE + y) * SIDE + z and int(jnp.sum(occs > 0)) == 1
    middle = jnp.asarray(body + WIDTH / 2)
    assert int(occupancy.find_cell(*middle, SIDE, 0.75)) == int(jnp.argmax(occs))
    # just inside of its borders, just outside of them, and outside of the box
    places = jnp.array([[-0.75, 0.74, -0.01], [-0.01, 0.01, 0.1874], [-9.0, 9.0, 0.1876]]).T
    want = [(0 * SIDE + 7) * SIDE + 3, (3 * SIDE + 4) * SIDE + 4, (0 * SIDE + 7) * SIDE + 5]
    np.testing.assert_array_equal(occupancy.find_cell(*places, SIDE, 0.75), want)


def test_a_cell_keeps_the_decaying_maximum():
    before = jnp.zeros(SIDE**3).at[jnp.array([3, 5])].set(jnp.array([4.0, 0.5]))
    after = update(0, before, even, 0, 2.0)
    np.testing.assert_allclose(after[:6], [0.5, 0.5, 0.5, 3.8, 0.5, 0.5])
    after = update(0, before, even, 0, 2.0, decay=0.5)
    np.testing.assert_allclose(after[:6], [0.5, 0.5, 0.5, 2.0, 0.5, 0.5])


def test_a_quarter_of_all_cells_and_a_quarter_of_the_occupied():
    """Ten cells of 512 are occupied, the first and the last among them."""
    cells = np.array([0, 7, 63, 64, 100, 200, 300, 400, 500, 511])
    before = jnp.full(SIDE**3, 1e-3).at[cells].set(0.5)
    assert int(jnp.sum(occupancy.occupied(before, 0.01))) == 10
    touched = []
    for key in range(4):
        occs = np.asarray(update(key, before, even, 256))
        np.testing.assert_allclose(occs[cells], 0.475)  # each drawn 12.8 times, decayed once
        others = np.delete(occs, cells)
        kept = others == np.float32(1e-3)
        np.testing.assert_allclose(others[~kept], 0.95e-3, rtol=1e-6)
        # 128 cells drawn evenly leave (1 - 1 / 512)^128 = 78% alone
        assert 0.71 < kept.mean() < 0.85
        touched.append(~kept)
    share = np.mean(touched, 0)
    assert (share[:251].mean(), share[251:].mean()) == pytest.approx((0.22, 0.22), abs=0.05)
    assert (touched[0] != touched[1]).mean() > 0.2  # other cells with another key
    raised = np.asarray(update(0, before, even, 256, 2.0))
    np.testing.assert_allclose(raised[cells], 0.5)  # 0.5 a step
    np.testing.assert_allclose(np.unique(raised), [1e-3, 0.5], rtol=1e-6)


def test_where_no_cell_is_occupied_more_of_all_are_not_measured_twice():
    """An even grid is not above its own mean: what would be drawn from it is drawn from all."""
    before = jnp.full(SIDE**3, 1e-3)
    assert not occupancy.occupied(before, 0.01).any()
    kept = np.asarray(update(0, before, even, 256)) == np.float32(1e-3)
    assert 0.71 < kept.mean() < 0.85


def test_all_cells_are_measured_in_the_first_iterations_only():
    before = jnp.zeros(SIDE**3)
    for step, given, share in ((255, {}, 1.0), (256, {}, 0.22), (9, {"warmup": 10}, 1.0),
                               (10, {"warmup": 10}, 0.22), (0, {"warmup": 0}, 0.22)):  # fmt: skip
        after = update(0, before, even, step, 4.0, **given)
        assert float(jnp.mean(after > 0)) == pytest.approx(share, abs=0.06), (step, given)
        assert float(after.max()) == 1.0


def test_occupied_is_above_the_mean_or_the_threshold_whichever_is_lower():
    occs = jnp.array([0.0, 0.02, 0.04, 0.1])  # mean 0.04
    np.testing.assert_array_equal(occupancy.occupied(occs, 0.01), [False, True, True, True])
    np.testing.assert_array_equal(occupancy.occupied(occs, 0.02), [False, False, True, True])
    np.testing.assert_array_equal(occupancy.occupied(occs, 1.0), [False, False, False, True])
    grid = occupancy.grid(occs, 0.02, 0.5)
    np.testing.assert_array_equal(grid.occupied, [False, False, True, True])
    np.testing.assert_allclose(grid.mean, 0.08)  # a density again
    np.testing.assert_allclose(grid.alpha_threshold(0.03, 0.25), 0.02)
    np.testing.assert_allclose(grid.alpha_threshold(0.01, 0.25), 0.01)


def test_occupancy_follows_the_density():
    """A ball off the middle, by updates in the first iterations; what is gone decays."""

    def density(x):
        return jnp.where(jnp.linalg.norm(x - jnp.array([0.3, -0.2, 0.1]), axis=-1) < 0.3, 50.0, 0.0)

    @partial(jax.jit, static_argnums=0)
    def updates(density, occs, first, last):
        def body(step, occs):
            return occupancy.update(
                jax.random.fold_in(jax.random.key(0), step), occs, density, step,
                resolution=16, radius=1.0, step_size=2.0 / 48,
            )  # fmt: skip

        return jax.lax.fori_loop(first, last, body, occs)

    occs = updates(density, occupancy.init(16), 0, 3)
    grid = occupancy.grid(occs, 0.01, 2.0 / 48).occupied
    x = jax.random.uniform(jax.random.key(7), (2000, 3), minval=-1.0, maxval=1.0)
    inside = grid[occupancy.find_cell(*x.T, 16, 1.0)]
    assert float(jnp.mean(inside | (density(x) == 0))) > 0.99
    assert float(jnp.mean(grid)) < 0.06
    empty = updates(lambda x: 0.0 * x[:, 0], occs, 300, 500)
    assert float(empty.max()) < 0.01


@pytest.mark.parametrize("step", [0, 300])
def test_what_is_not_finite_does_not_get_into_the_grid(step):
    """All cells, or a sample of them: those that cannot be measured keep what they have."""

    def density(x):
        return jnp.where(x[:, 0] > 0.5, jnp.nan, jnp.where(x[:, 1] > 0.5, jnp.inf, 1.0))

    before = jnp.full(16**3, 0.7)
    after = occupancy.update(
        jax.random.key(1), before, density, jnp.int32(step), resolution=16, radius=1.0,
        step_size=2.0 / 48,
    ).reshape(16, 16, 16)  # fmt: skip
    np.testing.assert_array_equal(after[12:], np.float32(0.7))
    np.testing.assert_array_equal(after[:, 12:], np.float32(0.7))
    np.testing.assert_allclose(after[:12, :12].min(), 0.7 * 0.95, rtol=1e-6)
