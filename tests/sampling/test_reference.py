"""Networks that see the picture's latents beside every view (the ablation CCR)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.evaluation.ablation import Probe
from iso3d_jax.weights import bundle
from tests.conftest import SMALL_MODEL


@pytest.fixture(scope="module")
def model(random_model):
    """The random model with a smaller UNet that has channels for the reference."""
    config = ConfigDict(random_model.config.to_dict())
    config.unet.update(
        model_channels=16, channel_mult=(1,), attention_resolutions=(1,), num_groups=4,
        num_head_channels=8, reference_channels=8,
    )  # fmt: skip
    assert SMALL_MODEL["unet"]["in_channels"] == 8
    unet = bundle.build_network("unet", config)
    draw = np.random.default_rng(0).standard_normal
    state = jax.tree.map(lambda x: x + 0.1 * draw(x.shape).astype(np.float32), unet)
    return dataclasses.replace(random_model, config=config, unet=state)


def test_the_network_is_shown_the_pictures_latents(model):
    rng = np.random.default_rng(1)
    picture = rng.random((64, 64, 3)).astype(np.float32)
    network = sampling.network_for(model, picture)
    latent = model.vae.encode(picture[None] * 2 - 1)[0] * model.config.scale_factor
    z_t = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 8)), jnp.float32)
    t, camera = jnp.full((2, 4), 500), jnp.asarray(rng.normal(size=(2, 4, 16)), jnp.float32)
    context = jnp.asarray(rng.normal(size=(2, 1, 24)), jnp.float32)
    got = network(z_t, t, network.fold_context(context), camera)
    reference = jnp.broadcast_to(latent, (2, 1, 8, 8, 8))
    want = model.unet(z_t, t, context, camera, reference)
    np.testing.assert_allclose(got, want, atol=1e-4)
    without = model.unet(z_t, t, context, camera)
    assert np.abs(without - want).max() > 1e-3


def test_views_follow_the_picture_beside_the_embedding(model):
    """Every picture is drawn with its own reference, in a batch as alone."""
    pictures = [np.full((64, 64, 3), value, np.float32) for value in (0.2, 0.9)]
    both = sampling.sample_views(model, pictures, steps=1, num_views=2, seed=3)
    alone = sampling.sample_views(model, pictures[1:], steps=1, num_views=2, seed=3)
    np.testing.assert_array_equal(both[1:], alone)
    assert np.abs(both[0] - both[1]).max() > 0
    probe = Probe.make(model, np.stack(pictures), np.ones((2, 1, 64, 64, 3)), *np.zeros((2, 2, 1)))
    assert probe.references.shape == (2, 8, 8, 8)
    assert probe.network(model.unet, 1).reference.get_value().shape == (1, 1, 8, 8, 8)


def test_other_networks_are_left_as_they_are(random_model):
    assert sampling.network_for(random_model, np.ones((64, 64, 3))) is random_model.unet
