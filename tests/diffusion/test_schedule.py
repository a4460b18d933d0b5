"""The noise schedule, and the algebra between x0, eps and v, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import schedule

ALPHAS = schedule.make_schedule()
RNG = np.random.default_rng(0)
X0, EPS = RNG.normal(size=(2, 2, 3, 2, 3, 2))  # [B, V, H, W, C] each
# A level for every view: one that is broadcast over the wrong axis shows.
LEVELS = np.array([[0.9, 0.5, 0.2], [0.7, 0.3, 0.05]])


def test_the_schedule_is_a_line_between_the_roots_of_the_betas():
    betas = (np.sqrt(0.00085) + np.arange(1000) / 999 * (np.sqrt(0.012) - np.sqrt(0.00085))) ** 2
    np.testing.assert_allclose(ALPHAS, np.cumprod(1 - betas), rtol=1e-6)
    assert ALPHAS.dtype == np.float32
    short = schedule.make_schedule(3, 0.04, 0.16)  # betas 0.2^2, 0.3^2, 0.4^2
    np.testing.assert_allclose(short, [0.96, 0.96 * 0.91, 0.96 * 0.91 * 0.84], rtol=1e-6)


def rows():
    """(signal, sigma) as numpy multiplies them into [B, V, H, W, C]."""
    level = LEVELS[..., None, None, None]
    return np.sqrt(level), np.sqrt(1 - level)


def test_noise_is_added_view_by_view():
    signal, sigma = rows()
    z_t = schedule.add_noise(jnp.asarray(X0), jnp.asarray(EPS), jnp.asarray(LEVELS))
    np.testing.assert_allclose(z_t, signal * X0 + sigma * EPS, atol=1e-6)
    # One level an object, and one for all.
    of_objects = schedule.add_noise(X0, EPS, jnp.asarray([0.9, 0.2]))
    np.testing.assert_allclose(of_objects[1], 0.2**0.5 * X0[1] + 0.8**0.5 * EPS[1], atol=1e-6)
    of_all = schedule.add_noise(X0, EPS, 0.36)
    np.testing.assert_allclose(of_all, 0.6 * X0 + 0.8 * EPS, atol=1e-6)


def test_targets_by_hand():
    signal, sigma = rows()
    v = schedule.training_target(X0, EPS, LEVELS, "v")
    np.testing.assert_allclose(v, signal * EPS - sigma * X0, atol=1e-6)
    np.testing.assert_array_equal(schedule.training_target(X0, EPS, LEVELS, "eps"), EPS)


@pytest.mark.parametrize("parameterization", schedule.PARAMETERIZATIONS)
@pytest.mark.parametrize("t", [1, 500, 980])
def test_targets_are_read_back(parameterization, t):
    alpha_bar = jnp.full((2,), ALPHAS[t])
    z_t = schedule.add_noise(X0, EPS, alpha_bar)
    target = schedule.training_target(X0, EPS, alpha_bar, parameterization)
    eps, x0 = schedule.to_eps_x0(target, z_t, alpha_bar, parameterization)
    np.testing.assert_allclose(eps, EPS, atol=1e-4)
    np.testing.assert_allclose(x0, X0, atol=1e-4)


def test_an_output_is_read_view_by_view():
    """An output that is neither reading's: nothing cancels."""
    signal, sigma = rows()
    output, z_t = EPS, X0
    eps, x0 = schedule.to_eps_x0(output, z_t, LEVELS, "v")
    np.testing.assert_allclose(eps, signal * output + sigma * z_t, atol=1e-6)
    np.testing.assert_allclose(x0, signal * z_t - sigma * output, atol=1e-6)
    eps, x0 = schedule.to_eps_x0(output, z_t, LEVELS, "eps")
    np.testing.assert_array_equal(eps, output)
    np.testing.assert_allclose(x0, (z_t - sigma * output) / signal, atol=1e-5)


def test_unknown_parameterization_is_refused():
    with pytest.raises(ValueError, match="x0"):
        schedule.to_eps_x0(X0, X0, 0.5, "x0")
    with pytest.raises(ValueError, match="x0"):
        schedule.training_target(X0, X0, 0.5, "x0")
