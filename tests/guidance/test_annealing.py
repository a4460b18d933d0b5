"""Ramps over the iterations, and the range of timesteps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.guidance import annealing


@pytest.mark.parametrize(
    "value", [(0, 0.98, 0.02, 8000), (100, 10.0, 1000.0, 5000), (5, 1.0, 0.0, 6), 0.3]
)
def test_ramp_matches_its_definition(value):
    for step in (0, 5, 99, 100, 101, 2500, 4999, 5000, 7999, 8000, 9999):
        want = value
        if isinstance(value, tuple):
            start, first, last, end = value
            want = first + (last - first) * max(min(1.0, (step - start) / (end - start)), 0.0)
        np.testing.assert_allclose(annealing.ramp(value, step), want, rtol=1e-5, atol=1e-6)


@pytest.mark.same_keys
def test_timesteps_stay_in_their_annealed_range():
    low, high = (0, 0.98, 0.02, 8000), (0, 0.98, 0.50, 8000)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(annealing.draw_timestep, (0, None, None, None)), static_argnums=(2, 3))
    for step, first, last in ((0, 980, 980), (4000, 500, 740), (8000, 20, 500), (9999, 20, 500)):
        t = draw(keys, step, low, high)
        assert first <= int(t.min()) <= first + 5 and last - 5 <= int(t.max()) <= last


def test_a_ramp_may_be_a_list_and_is_a_float():
    assert annealing.ramp([10, 1.0, 3.0, 20], jnp.int32(15)) == 2.0
    for value in (2, (0, 1.0, 3.0, 20)):
        assert annealing.ramp(value, 10).dtype == jnp.float32


@jax.jit
def many(keys, low, high, step):
    return jax.vmap(
        lambda key: annealing.draw_timestep(key, step, (0, low, 0.5, 100), (0, high, 0.9, 100), 100)
    )(keys)


@pytest.mark.same_keys
def test_both_ends_are_drawn_as_often_as_what_is_between():
    """Of a schedule of 100 steps; the ends are rounded down, and 0.29 * 100 is 29 all the same."""
    keys = jax.random.split(jax.random.key(3), 4000)
    for low, high, ends in ((0.03, 0.069, (3, 6)), (0.29, 0.29, (29, 29)), (0.57, 0.58, (57, 58)),
                            (0.97, 1.0, (97, 99)), (0.6, 0.4, (60, 60))):  # fmt: skip
        t = np.asarray(many(keys, low, high, 0))
        values, counts = np.unique(t, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(ends[0], ends[1] + 1))
        if high < 1:  # the last one stands for itself and the end of the schedule there
            assert counts.min() > 0.85 * 4000 / len(values)
    t = np.asarray(many(keys, 0.0, 0.1, 50))  # halfway from 0 to .5, and from .1 to .9
    assert (t.min(), t.max()) == (25, 50) and abs(t.mean() - 37.5) < 0.5


@pytest.mark.same_keys
def test_the_schedule_has_a_thousand_steps_where_nothing_is_said():
    keys = jax.random.split(jax.random.key(3), 50)
    t = [int(annealing.draw_timestep(key, 0, 0.4, 0.402)) for key in keys[:20]]
    assert set(t) == {400, 401, 402}
    assert int(annealing.draw_timestep(keys[0], 0, 2.0, 3.0)) == 999
