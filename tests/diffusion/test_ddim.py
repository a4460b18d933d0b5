"""DDIM sampling against a loop written in numpy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import classifier_free, ddim, schedule

ALPHAS = schedule.make_schedule()
RNG = np.random.default_rng(0)
X0, EPS = (jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 2)), jnp.float32) for _ in range(2))


def test_timesteps_of_the_released_sampler():
    assert list(ddim.timesteps(50)) == list(range(981, 0, -20))
    assert list(ddim.timesteps(7)) == [853, 711, 569, 427, 285, 143, 1]  # 1000 // 7 = 142 apart
    assert list(ddim.timesteps(1)) == [1]
    assert list(ddim.timesteps(999)) == list(range(999, 0, -1))
    assert list(ddim.timesteps(5, num_timesteps=10, steps_offset=0)) == [8, 6, 4, 2, 0]
    assert ddim.timesteps(7).dtype == np.int32


def test_timesteps_that_begin_in_pure_noise():
    assert list(ddim.timesteps(4, spacing="trailing")) == [999, 749, 499, 249]
    assert list(ddim.timesteps(3, spacing="trailing")) == [999, 666, 332]
    assert list(ddim.timesteps(1, spacing="trailing")) == [999]


def test_senseless_timesteps_are_refused():
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="between 1 and 999"):
            ddim.timesteps(steps)
    with pytest.raises(ValueError, match="spacing 'even' is not one of leading, trailing"):
        ddim.timesteps(4, spacing="even")


def test_one_step_by_hand():
    """alpha_bar 0.5 to 0.8, eta 0.5: variance 0.2 / 0.5 * (1 - 0.5 / 0.8) = 0.15."""
    eps, x0, noise = np.array([1.0, -2.0]), np.array([3.0, 0.5]), np.array([-1.0, 4.0])
    std = 0.5 * 0.15**0.5
    want = 0.8**0.5 * x0 + (1 - 0.8 - std**2) ** 0.5 * eps + std * noise
    np.testing.assert_allclose(ddim.ddim_step(eps, x0, noise, 0.5, 0.8, 0.5), want, rtol=1e-6)
    still = ddim.ddim_step(eps, x0, noise, 0.5, 0.8, 0.0)  # no noise, all of the direction
    np.testing.assert_allclose(still, 0.8**0.5 * x0 + 0.2**0.5 * eps, rtol=1e-6)
    # At the first timestep DDPM's variance may round above what is left: never a NaN.
    assert np.isfinite(ddim.ddim_step(eps, x0, noise, 0.5, 0.8, 3.0)).all()


@pytest.mark.parametrize(
    ("parameterization", "spacing", "ts"),
    [("eps", "leading", [751, 501, 251, 1]), ("v", "trailing", [999, 749, 499, 249])],
)
def test_the_loop_is_that_of_numpy(parameterization, spacing, ts):
    """A network that is no predictor of anything and knows its timestep; noise at the last step."""

    def output(z_t, t):
        return 0.3 * z_t[..., ::-1] + t / 1000.0

    eta, temperature = 0.8, 0.6
    got = ddim.sample(
        output, EPS, jax.random.key(5), ALPHAS, steps=4, eta=eta, parameterization=parameterization,
        temperature=temperature, spacing=spacing,
    )  # fmt: skip
    z, keys = np.asarray(EPS, np.float64), jax.random.split(jax.random.key(5), 4)
    a_bars = np.asarray(ALPHAS, np.float64)
    for t, t_prev, step_key in zip(ts, [*ts[1:], 0], keys, strict=True):
        a, a_prev, out = a_bars[t], a_bars[t_prev], output(z, t)
        if parameterization == "v":
            x0, eps = np.sqrt(a) * z - np.sqrt(1 - a) * out, np.sqrt(a) * out + np.sqrt(1 - a) * z
        else:
            x0, eps = (z - np.sqrt(1 - a) * out) / np.sqrt(a), out
        sigma = eta * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        noise = temperature * np.asarray(jax.random.normal(step_key, z.shape), np.float64)
        z = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev - sigma**2) * eps + sigma * noise
    np.testing.assert_allclose(got, z, rtol=1e-4, atol=1e-4)


def test_defaults_are_the_released_samplers():
    """Fifty steps of DDPM's noise at full temperature, of a network that predicts eps."""
    zeros = jnp.zeros((1, 1, 2, 3, 1))

    def run(**options):
        return ddim.sample(lambda z, t: 0.1 * z, zeros, jax.random.key(0), ALPHAS, **options)

    named = dict(steps=50, eta=1.0, parameterization="eps", temperature=1.0, spacing="leading")
    np.testing.assert_array_equal(run(), run(**named))
    for name, other in dict(steps=49, eta=0.9, parameterization="v", temperature=0.9).items():
        assert np.abs(run(**(named | {name: other})) - run()).max() > 1e-4, name


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
        denoise, EPS, jax.random.key(0), ALPHAS, steps=20, eta=0.0,
        parameterization=parameterization, spacing=spacing,
    )  # fmt: skip
    # alphas_cumprod[0] = 0.99915 leaves noise of 0.029.
    np.testing.assert_allclose(z0, X0, atol=0.12)


def test_guidance_of_one_is_the_condition():
    np.testing.assert_array_equal(classifier_free.guide(X0, EPS, 0.0), X0)
    np.testing.assert_allclose(classifier_free.guide(X0, EPS, 1.0), EPS, atol=1e-6)
    assert classifier_free.guide(1.0, 3.0, 10.0) == 21.0
