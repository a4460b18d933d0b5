"""One step of stages 1 and 2: latents, keys, noise levels, where the reference goes, the update."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from iso3d_jax.diffusion.schedule import make_schedule
from iso3d_jax.models.params import split_params
from iso3d_jax.training import sharding
from iso3d_jax.training.state import create_state
from iso3d_jax.training.tasks import denoiser

ALPHAS = make_schedule().astype(np.float64)


ROWS, VIEWS = 256, 3  # of one shape, so that what draws is compiled once


def make_batch(reference=True, logvar=0.0, mean=0.0):
    """Latents of a given log-variance; every camera and embedding is another."""
    rng = np.random.default_rng(0)

    def moments(views):
        shape = (ROWS, views, 2, 2, 2)
        means = mean * rng.normal(size=shape)
        return np.concatenate([means, np.full(shape, logvar)], -1).astype(np.float32)

    batch = {
        "moments": moments(VIEWS),
        "camera": rng.normal(size=(ROWS, VIEWS, 16)).astype(np.float32),
        "embedding": (1.0 + rng.random((ROWS, 3))).astype(np.float32),
    }
    if reference:
        batch["reference_moments"] = moments(1)
        batch["reference_camera"] = rng.normal(size=(ROWS, 1, 16)).astype(np.float32)
    return batch


def plain_config(make_stage, parameterization="eps", **changes):
    changes = dict(embedding_dropout=0.0) | changes
    return make_stage(model=dict(parameterization=parameterization), **changes)


def split_z_t(inputs):
    """(x0, noise) of inputs whose target is the noise."""
    noise = np.asarray(inputs["target"], np.float64)
    alpha = ALPHAS[np.asarray(inputs["t"])][:, None, None, None, None]
    return (np.asarray(inputs["z_t"]) - np.sqrt(1 - alpha) * noise) / np.sqrt(alpha), noise


def test_latents_are_the_mean_and_half_the_log_variances_exponential_times_the_scale():
    """Channels of the means first; a log-variance of ln 16 is a deviation of 4."""
    mean = np.array([[1.0, -2.0, 3.0]])
    logvar = np.array([[np.log(16.0), 0.0, -2 * np.log(2.0)]])
    moments = np.concatenate([mean, logvar], -1).astype(np.float16)
    noise = np.asarray(jax.random.normal(jax.random.key(5), mean.shape), np.float64)
    found = denoiser.to_latents(jax.random.key(5), moments, 0.5)
    want = 0.5 * (mean + np.array([[4.0, 1.0, 0.5]]) * noise)
    np.testing.assert_allclose(found, want, rtol=2e-3)
    assert found.dtype == jnp.float32


def test_the_steps_latents_have_the_posteriors_mean_deviation_and_scale(make_stage):
    batch = make_batch(mean=2.0, logvar=np.log(9.0))
    inputs = denoiser.make_inputs(batch, jax.random.key(0), plain_config(make_stage), 0.5)
    for found, name in ((split_z_t(inputs)[0], "moments"), (inputs["reference"],) * 2):
        name = name if isinstance(name, str) else "reference_moments"
        rest = np.asarray(found) - 0.5 * batch[name][..., :2]
        assert abs(rest.std() - 0.5 * 3.0) < 0.1 and abs(rest.mean()) < 0.1, name


def test_noise_is_added_and_predicted_as_the_schedule_says(make_stage):
    """v-prediction, and the noise of eps-prediction by the same key."""
    batch = make_batch(logvar=-30.0, mean=1.0)
    eps = denoiser.make_inputs(batch, jax.random.key(3), plain_config(make_stage), 0.5)
    v = denoiser.make_inputs(batch, jax.random.key(3), plain_config(make_stage, "v"), 0.5)
    x0, noise = 0.5 * batch["moments"][..., :2], np.asarray(eps["target"], np.float64)
    alpha = ALPHAS[np.asarray(eps["t"])][:, None, None, None, None]
    np.testing.assert_allclose(
        eps["z_t"], np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * noise, atol=1e-5
    )
    np.testing.assert_array_equal(eps["z_t"], v["z_t"])
    want = np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * x0
    np.testing.assert_allclose(v["target"], want, atol=1e-5)
    np.testing.assert_array_equal(eps["camera"], batch["camera"])
    np.testing.assert_array_equal(eps["reference_camera"], batch["reference_camera"])
    np.testing.assert_allclose(eps["context"], batch["embedding"][:, None])


def streams(batch, key, cfg):
    """The first numbers of all that a step draws, as many as rows."""
    inputs = denoiser.make_inputs(batch, key, cfg, 1.0)
    posterior, noise = split_z_t(inputs)
    return {
        "posterior": posterior.reshape(-1)[: len(posterior)],
        "noise": noise.reshape(-1)[: len(noise)],
        "reference": np.asarray(inputs["reference"]).reshape(-1)[: len(noise)],
        "t": np.asarray(inputs["t"], np.float64),
        "dropout": np.asarray(inputs["context"]).any((1, 2)).astype(np.float64),
    }


def test_everything_random_in_a_step_is_drawn_apart(make_stage):
    """Two draws by one key would be equal number by number, or one a function of the other."""
    cfg = plain_config(make_stage, embedding_dropout=0.5)
    batch = make_batch()
    first = streams(batch, jax.random.key(0), cfg)
    second = streams(batch, jax.random.key(1), cfg)
    for (a, one), (b, two) in itertools.combinations(first.items(), 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.25, (a, b)
    for name, one in first.items():
        assert abs(np.corrcoef(one, second[name])[0, 1]) < 0.25, name
        assert len(set(one.tolist())) > (1 if name == "dropout" else 200), name


def test_views_and_rows_are_noised_apart_and_an_objects_views_have_one_level(make_stage):
    inputs = denoiser.make_inputs(make_batch(), jax.random.key(0), plain_config(make_stage), 1.0)
    for drawn in split_z_t(inputs):
        assert abs(drawn.std() - 1.0) < 0.03
        for axis in range(5):  # the same number for all rows, views, pixels or channels
            first, second = (np.take(drawn, i, axis).reshape(-1) for i in (0, 1))
            limit = 4.5 / np.sqrt(first.size)
            assert abs(np.corrcoef(first, second)[0, 1]) < max(limit, 0.15), axis
    assert inputs["t"].shape == (ROWS,)


def test_the_noise_offset_is_a_number_a_view_and_channel_and_drawn_apart(make_stage):
    batch = make_batch()
    plain = denoiser.make_inputs(batch, jax.random.key(4), plain_config(make_stage), 1.0)
    cfg = plain_config(make_stage, noise_offset=0.5)
    moved = denoiser.make_inputs(batch, jax.random.key(4), cfg, 1.0)
    offset = np.asarray(moved["target"] - plain["target"]) / 0.5
    np.testing.assert_allclose(
        offset, np.broadcast_to(offset[:, :, :1, :1], offset.shape), atol=1e-5
    )
    offset = offset[:, :, 0, 0].reshape(-1)
    assert abs(offset.std() - 1.0) < 0.1
    posterior, noise = split_z_t(plain)
    for other in (posterior, noise, np.asarray(plain["reference"])):
        other = other.reshape(-1)
        size = min(len(other), len(offset))
        assert abs(np.corrcoef(offset[:size], other[:size])[0, 1]) < 0.15


@pytest.mark.parametrize("bias", [0.0, 1.0, 3.0])
def test_noise_levels_have_a_density_that_grows_with_t_to_the_power_of_the_bias(make_stage, bias):
    """All of 0 to 999; of a bias of 1 a quarter lies below the middle, of 3 a sixteenth."""
    cfg = plain_config(make_stage, timestep_bias=bias)
    batch = make_batch(reference=False)
    drawn = [denoiser.make_inputs(batch, jax.random.key(i), cfg, 1.0)["t"] for i in range(40)]
    t = np.concatenate(drawn)
    below = [(t < 1000 * share).mean() for share in (0.25, 0.5, 0.75, 0.9, 0.99)]
    want = [share ** (1 + bias) for share in (0.25, 0.5, 0.75, 0.9, 0.99)]
    np.testing.assert_allclose(below, want, atol=0.02)
    assert t.min() >= 0 and t.max() == 999 and (bias or t.min() == 0)


class Recorder:
    """A network that notes what it is given and answers with zeros."""

    def __call__(self, *arguments):
        self.seen = [np.asarray(a) for a in arguments]
        return jnp.zeros_like(arguments[0])


def test_the_reference_is_the_first_view_with_its_own_camera_at_timestep_0(make_stage):
    cfg, net = plain_config(make_stage), Recorder()
    inputs = denoiser.make_inputs(make_batch(), jax.random.key(0), cfg, 1.0)
    inputs = {name: value[:2] for name, value in inputs.items()} | {"t": jnp.array([17, 940])}
    denoiser.loss_of_inputs(net, inputs, cfg)
    z_t, t, context, camera = net.seen
    for found, first, rest in (
        (z_t, inputs["reference"], inputs["z_t"]),
        (camera, inputs["reference_camera"], inputs["camera"]),
    ):
        np.testing.assert_array_equal(found[:, :1], first)
        np.testing.assert_array_equal(found[:, 1:], rest)
    np.testing.assert_array_equal(t, [[0, 17, 17, 17], [0, 940, 940, 940]])
    np.testing.assert_array_equal(context, inputs["context"])
    # Without a reference the views are alone.
    alone = {k: v for k, v in inputs.items() if not k.startswith("reference")}
    denoiser.loss_of_inputs(net, alone, cfg)
    np.testing.assert_array_equal(net.seen[0], inputs["z_t"])
    np.testing.assert_array_equal(net.seen[1], [[17] * 3, [940] * 3])
    np.testing.assert_array_equal(net.seen[3], inputs["camera"])


def test_a_reference_in_the_channels_is_handed_over_or_zeros(make_stage):
    cfg, net = plain_config(make_stage, reference="channels"), Recorder()
    inputs = denoiser.make_inputs(make_batch(), jax.random.key(0), cfg, 1.0)
    denoiser.loss_of_inputs(net, inputs, cfg)
    assert net.seen[0].shape[1] == VIEWS and net.seen[1].shape == (ROWS, VIEWS)
    np.testing.assert_array_equal(net.seen[3], inputs["camera"])
    np.testing.assert_array_equal(net.seen[4], inputs["reference"])
    del inputs["reference"]
    denoiser.loss_of_inputs(net, inputs, cfg)
    assert net.seen[4].shape == (ROWS, 1, 2, 2, 2) and not net.seen[4].any()


def test_the_loss_is_the_mean_square_weighed_by_its_row_and_high_noise_is_from_800(make_stage):
    rng = np.random.default_rng(0)
    inputs = {
        "z_t": np.zeros((4, 2, 2, 3, 2), np.float32),
        "target": (rng.normal(size=(4, 2, 2, 3, 2)) * [[[[[1, 2]]]]]).astype(np.float32),
        "t": jnp.array([799, 800, 0, 999]),
        "context": np.zeros((4, 1, 3), np.float32),
        "camera": np.zeros((4, 2, 16), np.float32),
    }
    rows = (inputs["target"].astype(np.float64) ** 2).reshape(4, -1).mean(1)
    loss, extra = denoiser.loss_of_inputs(Recorder(), inputs, plain_config(make_stage))
    np.testing.assert_allclose(loss, rows.mean(), rtol=1e-5)
    np.testing.assert_allclose(extra["high_noise_sum"], rows[1] + rows[3], rtol=1e-5)
    assert extra["high_noise_count"] == 2
    alphas = ALPHAS[[799, 800, 0, 999]]
    snr = alphas / (1 - alphas)
    for kind, extra_one in (("eps", 0.0), ("v", 1.0)):
        cfg = plain_config(make_stage, kind, loss_weighting="min_snr", min_snr_gamma=0.05)
        weights = np.minimum(snr, 0.05) / (snr + extra_one)
        loss, extra = denoiser.loss_of_inputs(Recorder(), inputs, cfg)
        np.testing.assert_allclose(loss, (weights * rows).mean(), rtol=1e-4)
        np.testing.assert_allclose(
            extra["high_noise_sum"], weights[[1, 3]] @ rows[[1, 3]], rtol=1e-4
        )


class Mixer(nnx.Module):
    """The smallest network: channels mixed by one matrix, and a bias."""

    def __init__(self):
        self.mix = nnx.Param(jnp.array([[0.5, -1.0], [2.0, 0.25]]))
        self.bias = nnx.Param(jnp.array([0.1, -0.2]))

    def __call__(self, z_t, t, context, camera):
        return z_t @ self.mix[...] + self.bias[...]


def stepped(cfg, batch, step, trained=("mix", "bias"), tx=None):
    graphdef, params = split_params(Mixer())
    tx = tx or optax.sgd(0.3)
    state = create_state(params, tx, cfg.seed, trained).replace(step=jnp.int32(step))
    run = functools.partial(denoiser.train_step, graphdef=graphdef, tx=tx, cfg=cfg)
    return params, *run(state, batch)


@pytest.fixture
def small_rules(monkeypatch):
    monkeypatch.setattr(denoiser, "sharding_rules", lambda cfg: sharding.REPLICATED)


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_goes_down_the_gradient_of_the_inputs_that_its_own_key_draws(
    make_stage, small_rules, step
):
    cfg = plain_config(make_stage, seed=12, grad_clip=1.0)
    batch = make_batch(mean=1.0, reference=False)
    params, state, metrics = stepped(cfg, batch, step)
    key = jax.random.fold_in(jax.random.key(12), step)
    inputs = denoiser.make_inputs(batch, key, cfg, cfg.model.scale_factor)
    x = np.asarray(inputs["z_t"], np.float64).reshape(ROWS, -1, 2)
    target = np.asarray(inputs["target"], np.float64).reshape(ROWS, -1, 2)
    error = x @ np.asarray(params["mix"]) + np.asarray(params["bias"]) - target
    np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-5)
    by_row = (error**2).mean((1, 2))
    late = np.asarray(inputs["t"]) >= 800
    want = by_row[late].mean() if late.any() else 0.0
    np.testing.assert_allclose(metrics["loss_high_noise"], want, rtol=1e-5)
    gradients = {
        "mix": 2 * np.einsum("npi,npj->ij", x, error) / error.size,
        "bias": 2 * error.sum((0, 1)) / error.size,
    }
    for name, gradient in gradients.items():
        np.testing.assert_allclose(
            state.params[name], np.asarray(params[name]) - 0.3 * gradient, atol=1e-5
        )
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    assert int(state.step) == step + 1


def test_steps_draw_apart_and_weights_that_are_not_trained_stay(make_stage, small_rules):
    cfg = plain_config(make_stage)
    batch = make_batch(mean=1.0)
    losses = [float(stepped(cfg, batch, step)[2]["loss"]) for step in (0, 1, 2)]
    assert len(set(losses)) == 3
    params, state, _ = stepped(cfg, batch, 0, trained=("mix",))
    np.testing.assert_array_equal(state.params["bias"], params["bias"])
    assert np.abs(state.params["mix"] - params["mix"]).min() > 1e-4
    assert set(state.ema_params) == {"mix"}


def test_a_step_averages_with_the_configs_decay_and_hands_the_guard_the_loss(
    make_stage, small_rules
):
    from iso3d_jax.training.optimizer import guard

    cfg = plain_config(make_stage, ema_decay=0.75)
    tx = guard(optax.sgd(0.3), 2.0)
    params, state, metrics = stepped(cfg, make_batch(), 500, tx=tx)
    want = np.asarray(params["mix"]) * 0.75 + 0.25 * np.asarray(state.params["mix"])
    np.testing.assert_allclose(state.ema_params["mix"], want, rtol=1e-5)
    np.testing.assert_allclose(state.opt_state.mean, 0.02 * metrics["loss"], rtol=1e-5)


def test_weights_are_sent_in_the_type_that_the_network_uses_and_low_rank_ones_in_float32(
    make_stage,
):
    path = "middle_block/transformer/blocks/0/attn1/to_q/kernel"
    for changes, dtype in (
        (dict(dtype="bfloat16"), jnp.bfloat16),
        (dict(dtype="float32"), jnp.float32),
        (dict(dtype="bfloat16", trainable="lora"), jnp.float32),
    ):
        assert denoiser._gather_dtype(make_stage(**changes))(path) == dtype, changes
    assert denoiser.sharding_rules(make_stage()) == sharding.UNET_RULES
    rules = denoiser.sharding_rules(make_stage(trainable="lora"))
    assert rules == sharding.UNET_RULES + sharding.LORA_RULES
