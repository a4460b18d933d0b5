"""The algebra of the diffusion process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import ddim, schedule

ALPHAS = schedule.make_schedule()
RNG = np.random.default_rng(0)
X0, EPS = (jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 2)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("parameterization", schedule.PARAMETERIZATIONS)
@pytest.mark.parametrize("t", [1, 500, 980])
def test_targets_are_read_back(parameterization, t):
    alpha_bar = jnp.full((2,), ALPHAS[t])
    z_t = schedule.add_noise(X0, EPS, alpha_bar)
    target = schedule.training_target(X0, EPS, alpha_bar, parameterization)
    eps, x0 = schedule.to_eps_x0(target, z_t, alpha_bar, parameterization)
    np.testing.assert_allclose(eps, EPS, atol=1e-4)
    np.testing.assert_allclose(x0, X0, atol=1e-4)


def test_unknown_parameterization_is_refused():
    with pytest.raises(ValueError, match="x0"):
        schedule.to_eps_x0(X0, X0, 0.5, "x0")


def test_timesteps_of_the_released_sampler():
    assert list(ddim.timesteps(50)[[0, 1, -1]]) == [981, 961, 1]
    with pytest.raises(ValueError, match="between"):
        ddim.timesteps(1000)
    assert list(ddim.timesteps(4, spacing="trailing")) == [999, 749, 499, 249]
    assert list(ddim.timesteps(3, spacing="trailing")) == [999, 666, 332]
    with pytest.raises(ValueError, match="spacing"):
        ddim.timesteps(4, spacing="even")


@pytest.mark.parametrize("spacing", ddim.SPACINGS)
@pytest.mark.parametrize("parameterization", schedule.PARAMETERIZATIONS)
def test_a_perfect_predictor_samples_its_object(parameterization, spacing):
    """eta 0 from any noise: a network that knows x0 leads to x0, up to the last step's noise."""
    alphas = jnp.asarray(ALPHAS)

    def denoise(z_t, t):
        a = alphas[t]
        eps = (z_t - jnp.sqrt(a) * X0) / jnp.sqrt(1 - a)
        return schedule.training_target(X0, eps, a, parameterization)

    z0 = ddim.sample(
        denoise,
        EPS,
        jax.random.key(0),
        ALPHAS,
        steps=20,
        eta=0.0,
        parameterization=parameterization,
        spacing=spacing,
    )
    np.testing.assert_allclose(
        z0, X0, atol=0.12
    )  # alphas_cumprod[0] = 0.99915 leaves noise of 0.029


def test_guidance_of_one_is_the_condition():
    np.testing.assert_array_equal(ddim.guide(X0, EPS, 0.0), X0)
    np.testing.assert_allclose(ddim.guide(X0, EPS, 1.0), EPS, atol=1e-6)
