"""Networks that see the picture's latents beside every view (the ablation CCR)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax import sampling
from iso3d_jax.training.one_step_x0 import Probe
from iso3d_jax.weights import bundle
from tests.conftest import SMALL_MODEL
from tests.networks import drawn


@pytest.fixture(scope="module")
def model(random_model):
    """The random model with a smaller UNet that has channels for the reference."""
    numbers = dataclasses.replace(
        random_model.config.unet, model_channels=16, channel_mult=(1,), attention_resolutions=(1,),
        num_groups=4, num_head_channels=8, reference_channels=8,
    )  # fmt: skip
    config = dataclasses.replace(random_model.config, unet=numbers)
    assert SMALL_MODEL["unet"]["in_channels"] == 8
    unet = drawn(lambda: bundle.build_network("unet", config))
    return dataclasses.replace(random_model, config=config, unet=unet)


def test_the_network_is_shown_the_pictures_latents(model):
    rng = np.random.default_rng(1)
    picture = rng.random((64, 64, 3)).astype(np.float32)
    network = sampling.network_for(model, picture)
    encode = jax.jit(lambda vae, x: vae.encode(x))
    latent = encode(model.vae, picture[None] * 2 - 1)[0] * model.config.scale_factor
    z_t = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 8)), jnp.float32)
    t, camera = jnp.full((2, 4), 500), jnp.asarray(rng.normal(size=(2, 4, 16)), jnp.float32)
    context = jnp.asarray(rng.normal(size=(2, 1, 24)), jnp.float32)
    run = jax.jit(lambda network, *args: network(*args))
    got = run(network, z_t, t, context, camera)
    folded = jax.jit(lambda network, context: network.fold_context(context))(network, context)
    np.testing.assert_allclose(run(network, z_t, t, folded, camera), got, atol=1e-4)
    reference = jnp.broadcast_to(latent, (2, 1, 8, 8, 8))
    want = run(model.unet, z_t, t, context, camera, reference)
    np.testing.assert_allclose(got, want, atol=1e-4)
    without = run(model.unet, z_t, t, context, camera)
    assert np.abs(without - want).max() > 1e-3


def test_views_follow_the_picture_beside_the_embedding(model):
    """Every picture is drawn with its own reference, in a batch as alone."""
    pictures = [np.full((64, 64, 3), value, np.float32) for value in (0.2, 0.9)]
    both = sampling.sample_views(model, pictures, steps=1, num_views=2, seed=3)
    alone = sampling.sample_views(model, pictures[1:], steps=1, num_views=2, seed=3)
    np.testing.assert_array_equal(both[1:], alone)
    assert np.abs(both[0] - both[1]).max() > 0
    probe = Probe.make(model, np.stack(pictures), np.ones((2, 1, 64, 64, 3)), *np.zeros((4, 2, 1)))
    assert probe.references.shape == (2, 8, 8, 8)
    assert probe.network(model.unet, 1).reference.get_value().shape == (1, 1, 8, 8, 8)


def test_other_networks_are_left_as_they_are(random_model):
    assert sampling.network_for(random_model, np.ones((64, 64, 3))) is random_model.unet


def test_each_picture_of_a_batch_is_drawn_with_every_option(model, monkeypatch):
    options = dict(
        num_views=3, elevation_deg=5.0, azimuth_deg=30.0, steps=2, guidance_scale=4.0, eta=0.5,
        temperature=0.25, seed=9,
    )  # fmt: skip
    seen = []

    def sample_latents(unet, context, camera, alphas, key, **given):
        given = {name: given[name] for name in ("steps", "guidance_scale", "eta", "temperature")}
        seen.append((given, np.asarray(camera), jax.random.key_data(key).tolist()))
        return np.zeros((1, 3, 8, 8, 8), np.float32)

    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    monkeypatch.setattr(sampling, "decode_views", lambda vae, z: z)
    pictures = [np.full((64, 64, 3), value, np.float32) for value in (0.2, 0.9)]
    assert sampling.sample_views(model, pictures, **options).shape[0] == 2
    sampling.sample_views(model, pictures[:1], **options)
    for given, camera, key in seen:
        assert given == dict(steps=2, guidance_scale=4.0, eta=0.5, temperature=0.25)
        np.testing.assert_array_equal(camera, seen[-1][1])
        assert key == seen[-1][2]
