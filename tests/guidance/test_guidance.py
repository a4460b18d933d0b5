"""Score distillation against the released code's printed numbers, and its invariants."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import schedule
from iso3d_jax.guidance import annealing, regularisers, sds

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
            perfect, latents, noise, jnp.int32(300), jnp.float32(ALPHAS[300]), context, camera,
            parameterization=parameterization, kind=kind,
        )[0]  # fmt: skip

    assert float(jnp.abs(jax.grad(loss)(latents)).max()) < 1e-5


def test_pixel_loss_pulls_renders_to_the_decoded_picture_and_nowhere_else():
    key = jax.random.key(0)
    wanted = jax.random.uniform(key, (2, 4, 4, 3))
    mask = jnp.zeros((2, 4, 4)).at[:, 1:3].set(1.0)
    opacity = jnp.clip(mask, 1e-3, 1 - 1e-3)

    def loss(rgb, opacity, wanted):
        return sds.pixel_loss(rgb, opacity, wanted, mask, mask_weight=0.5, size=512)

    of_rgb, of_wanted = jax.grad(loss, (0, 2))(wanted, opacity, wanted)
    assert jnp.all(of_rgb == 0) and jnp.all(of_wanted == 0)
    value = loss(wanted + 0.1, opacity, wanted) - loss(wanted, opacity, wanted)
    np.testing.assert_allclose(value, 0.5 * 512 * 0.01, rtol=1e-4)
    slope = jax.grad(loss, 1)(wanted, jnp.full_like(mask, 0.5), wanted)
    assert jnp.all(slope[:, 1:3] < 0) and jnp.all(slope[:, 3:] > 0)  # more inside, less outside


def test_unconditional_branch_comes_first_and_sees_zeros():
    z_t, camera = jnp.ones((1, 2, 2, 2, 1)), jnp.zeros((1, 2, 16))

    def denoise(z_t, t, context, camera):
        return z_t * context[:, :, None, None, :1]

    without, with_ = sds.predict_both(denoise, z_t, jnp.int32(3), jnp.full((1, 1, 4), 7.0), camera)
    assert jnp.all(without == 0) and jnp.all(with_ == 7)


def test_unknown_loss_is_refused():
    z = jnp.zeros((1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="x0, sds"):
        sds.guidance_loss(z, z, z, z, jnp.float32(0.5), "l1")


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


def test_timesteps_stay_in_their_annealed_range():
    low, high = (0, 0.98, 0.02, 8000), (0, 0.98, 0.50, 8000)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(annealing.draw_timestep, (0, None, None, None)), static_argnums=(2, 3))
    for step, first, last in ((0, 980, 980), (4000, 500, 740), (8000, 20, 500), (9999, 20, 500)):
        t = draw(keys, step, low, high)
        assert first <= int(t.min()) <= first + 5 and last - 5 <= int(t.max()) <= last


def test_orientation_loss_counts_only_what_faces_away():
    direction = jnp.array([[0, 0, 1.0]] * 3)
    normal = jnp.array([[0, 0, -1.0], [0, 0, 1.0], [1.0, 0, 0]])
    weights = jnp.array([0.9, 0.5, 0.7])
    away = regularisers.facing_away(normal, direction)
    loss = regularisers.orientation_loss(
        regularisers.orientation_sum(weights, away), jnp.float32(2)
    )
    np.testing.assert_allclose(loss, 0.25)
    slope = jax.grad(regularisers.orientation_sum)(weights, away)
    assert jnp.all(slope == 0)
    assert regularisers.opaque_loss(jnp.array([0.0, 1.0])) < regularisers.opaque_loss(
        jnp.array([0.5, 0.5])
    )
    assert regularisers.sparsity_loss(jnp.zeros(3)) < regularisers.sparsity_loss(jnp.ones(3))
