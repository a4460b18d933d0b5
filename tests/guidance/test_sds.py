"""Score distillation against the released code's printed numbers, and by hand in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import classifier_free, schedule
from iso3d_jax.guidance import sds

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "guidance.npz")
ALPHAS = schedule.make_schedule()


def views(name):
    """NCHW views of one object as [1, V, H, W, C]."""
    return jnp.asarray(GOLDEN[name].transpose(0, 2, 3, 1))[None]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("t", [50, 500, 900])
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_released_numbers(t, parameterization):
    latents, noise, alpha_bar = views("latents"), views("noise"), jnp.float32(ALPHAS[t])
    z_t = schedule.add_noise(latents, noise, alpha_bar)
    close(z_t, views(f"t{t}/noisy"))
    outputs = [views(f"t{t}/eps_uncond"), views(f"t{t}/eps_cond")]
    if parameterization == "v":
        root, sigma = np.sqrt(ALPHAS[t]), np.sqrt(1 - ALPHAS[t])
        outputs = [(eps - sigma * z_t) / root for eps in outputs]
    eps, x0 = sds.guided_x0(
        *outputs, z_t, alpha_bar, parameterization=parameterization, scale=10.0, rescale=0.5
    )
    close(x0, views(f"t{t}/x0_rescaled"))

    def loss(latents, kind):
        return sds.guidance_loss(latents, noise, eps, x0, alpha_bar, kind)

    value, slope = jax.value_and_grad(loss)(latents, "x0")
    close(value, GOLDEN[f"t{t}/recon_loss"])
    close(slope, views(f"t{t}/recon_grad"))
    close(jax.grad(loss)(latents, "sds") * 4, views(f"t{t}/sds_grad"))


@pytest.mark.parametrize("kind", sds.LOSSES)
@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_perfect_predictor_gives_zero_gradient(kind, parameterization):
    latents = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), latents.shape)
    context, camera = jnp.ones((2, 1, 5)), jnp.ones((2, 4, 16))

    def perfect(z_t, t, context, camera):
        assert z_t.shape == (4, 4, 4, 4, 3) and t.shape == (4, 4)
        assert context.shape == (4, 1, 5) and camera.shape == (4, 4, 16)
        both_noise, both_x0 = jnp.concatenate([noise, noise]), jnp.concatenate([latents, latents])
        return schedule.training_target(both_x0, both_noise, ALPHAS[300], parameterization)

    def loss(latents):
        return sds.score_distillation(
            perfect, latents, noise, jnp.int32(300), jnp.float32(ALPHAS[300]),
            classifier_free.without_and_with(context), camera,
            parameterization=parameterization, kind=kind,
        )[0]  # fmt: skip

    assert float(jnp.abs(jax.grad(loss)(latents)).max()) < 1e-5


def test_unconditional_branch_comes_first_and_sees_zeros():
    z_t, camera = jnp.ones((1, 2, 2, 2, 1)), jnp.zeros((1, 2, 16))

    def denoise(z_t, t, context, camera):
        return z_t * context[:, :, None, None, :1]

    contexts = classifier_free.without_and_with(jnp.full((1, 1, 4), 7.0))
    without, with_ = classifier_free.predict_both(denoise, z_t, jnp.int32(3), contexts, camera)
    assert jnp.all(without == 0) and jnp.all(with_ == 7)


def test_unknown_loss_is_refused():
    z = jnp.zeros((1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="x0, sds"):
        sds.guidance_loss(z, z, z, z, jnp.float32(0.5), "l1")


def numbers(seed, *shape):
    """Normal numbers, float64."""
    return np.random.default_rng(seed).normal(size=shape)


def by_hand(uncond, cond, z_t, alpha_bar, parameterization, scale, rescale):
    """Guided noise and x0, group after group, in float64."""
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    eps, x0 = [], []
    for u, c, z in zip(uncond, cond, z_t, strict=True):
        both = c + (scale - 1) * (c - u)
        if parameterization == "eps":
            noise, clean, conditional = both, (z - sigma * both) / signal, (z - sigma * c) / signal
        else:
            noise = signal * both + sigma * z
            clean, conditional = signal * z - sigma * both, signal * z - sigma * c
        factor = conditional.std(ddof=1) / clean.std(ddof=1)
        eps.append(noise)
        x0.append((1 - rescale) * clean + rescale * factor * clean)
    return np.stack(eps), np.stack(x0)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_each_group_of_views_is_rescaled_by_itself(parameterization):
    """Groups of few elements and unlike sizes: the unbiased deviation matters."""
    group = np.array([1.0, 5.0])[:, None, None, None, None]
    uncond, cond, z_t = (numbers(k, 2, 3, 1, 2, 1) * group for k in range(3))
    for scale, rescale in ((3.0, 0.25), (0.5, 1.0), (7.0, 0.0)):
        eps, x0 = sds.guided_x0(
            *map(jnp.asarray, (uncond, cond, z_t)), jnp.float32(0.3),
            parameterization=parameterization, scale=scale, rescale=rescale,
        )  # fmt: skip
        want = by_hand(uncond, cond, z_t, np.float64(0.3), parameterization, scale, rescale)
        np.testing.assert_allclose(eps, want[0], atol=1e-4)
        np.testing.assert_allclose(x0, want[1], rtol=1e-4, atol=1e-4)


def test_losses_are_divided_by_the_views_of_all_groups():
    latents, noise, eps, x0 = (numbers(k, 2, 3, 2, 2, 1) for k in range(4))
    given = [jnp.asarray(x) for x in (latents, noise, eps, x0)]
    value, slope = jax.value_and_grad(sds.guidance_loss)(*given, 0.3, "x0")
    np.testing.assert_allclose(value, 0.5 * np.sum((latents - x0) ** 2) / 6, rtol=1e-5)
    np.testing.assert_allclose(slope, (latents - x0) / 6, rtol=1e-4, atol=1e-6)
    assert sds.guidance_loss(*given, 0.3) == value  # x0 where nothing is said
    value, slope = jax.value_and_grad(sds.guidance_loss)(*given, 0.3, "sds")
    np.testing.assert_allclose(slope, 0.7 * (eps - noise) / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, 0.5 * 0.49 * np.sum((eps - noise) ** 2) / 6, rtol=1e-4)
    given[2] = given[2].at[0, 0, 0, 0].set(jnp.nan)  # as in the released code: no pull there
    slope = jax.grad(sds.guidance_loss)(*given, 0.3, "sds")
    assert slope[0, 0, 0, 0, 0] == 0 and jnp.isfinite(slope).all()


def test_one_evaluation_asks_the_denoiser_once_and_differentiates_around_it():
    """A denoiser that depends on all it is given, and on the noisy latents most of all."""
    latents, noise = numbers(0, 2, 3, 2, 2, 1), numbers(1, 2, 3, 2, 2, 1)
    context, camera = numbers(2, 2, 1, 4), numbers(3, 2, 3, 16)
    alpha_bar, calls = 0.36, []

    def answer(z_t, t, context, camera):
        token, row = context[:, :, None, None, :1], camera[:, :, None, None, :1]
        return 3.0 * z_t + token + 2.0 * row + 0.01 * t[:, :, None, None, None]

    def denoise(z_t, t, context, camera):
        calls.append((z_t, t, context, camera))
        return answer(z_t, t, context, camera).astype(jnp.bfloat16)

    def loss(latents, **keys):
        return sds.score_distillation(
            denoise, latents, jnp.asarray(noise), jnp.int32(300), jnp.float32(alpha_bar),
            classifier_free.without_and_with(jnp.asarray(context)), jnp.asarray(camera), **keys,
        )  # fmt: skip

    given = dict(parameterization="v", scale=2.5, rescale=0.25, kind="x0")
    (value, x0), slope = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(latents), **given)
    z_t = 0.6 * latents + 0.8 * noise
    t = np.full((2, 3), 300)
    outputs = [np.asarray(jnp.asarray(answer(z_t, t, c, camera)).astype(jnp.bfloat16), np.float64)
               for c in (0 * context, context)]  # fmt: skip
    _, want = by_hand(*outputs, z_t, alpha_bar, "v", 2.5, 0.25)
    assert len(calls) == 1
    np.testing.assert_array_equal(calls[0][1], np.full((4, 3), 300))
    np.testing.assert_allclose(x0, want, rtol=1e-4, atol=2e-2)  # the network rounds to bfloat16
    assert x0.dtype == jnp.float32
    x0 = np.asarray(x0, np.float64)
    np.testing.assert_allclose(value, 0.5 * np.sum((latents - x0) ** 2) / 6, rtol=1e-4)
    np.testing.assert_allclose(slope, (latents - x0) / 6, rtol=1e-4, atol=1e-6)

    by_default, _ = loss(jnp.asarray(latents), parameterization="eps")
    eps, want = by_hand(*outputs, z_t, alpha_bar, "eps", 10.0, 0.5)  # released
    np.testing.assert_allclose(by_default, 0.5 * np.sum((latents - want) ** 2) / 6, rtol=2e-2)
    slope = jax.grad(lambda x: loss(x, parameterization="eps", kind="sds")[0])(jnp.asarray(latents))
    np.testing.assert_allclose(slope, 0.64 * (eps - noise) / 6, rtol=2e-2, atol=5e-2)
