"""The autoencoder of principal components."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.data.colour import weighed_axes
from iso3d_jax.models.vae import fold
from iso3d_jax.tiny.patch_autoencoder import PatchAutoencoder, PatchAutoencoderConfig
from iso3d_jax.tiny.tasks.autoencoder import COLOUR_WEIGHT
from tests.networks import drawn


@pytest.fixture
def vae():
    config = PatchAutoencoderConfig(components=5, ch=8, ch_mult=(1, 1), num_groups=4, patch=2)
    vae = drawn(lambda: PatchAutoencoder(config, rngs=nnx.Rngs(0)))
    last = vae.decoder.network.conv_out  # zero at birth: the network adds nothing
    last.kernel[...], last.bias[...] = 0 * last.kernel[...], 0 * last.bias[...]
    return vae


def pictures(n, rank, seed=0):
    """Pictures whose 4x4 patches are sums of `rank` patterns, on white."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).normal(size=(rank, 4, 4, 3))
    weights = rng.normal(size=(n, 3, 3, rank))
    patches = np.einsum("nhwk,kabc->nhawbc", weights, patterns)
    return (1.0 + 0.1 * patches.reshape(n, 12, 12, 3)).astype(np.float32)


def fitted(vae, images, colours):
    vae.set_components(np.asarray(fold(jnp.asarray(images), 4)).reshape(-1, 48), colours)
    return vae


@pytest.mark.parametrize("colours", [np.eye(3), weighed_axes(COLOUR_WEIGHT)])
def test_pictures_of_few_patterns_come_back_from_components_alone(vae, colours):
    fitted(vae, pictures(20, rank=5), colours)
    new = pictures(3, rank=5, seed=1)
    mean, logvar = vae.encode(new)
    assert mean.shape == (3, 3, 3, 5) and logvar.shape == mean.shape
    np.testing.assert_allclose(vae.decode(mean), new, atol=1e-4)


def test_white_is_the_latent_zero_and_latents_have_about_unit_size(vae):
    images = pictures(40, rank=9)
    fitted(vae, images, np.eye(3))
    np.testing.assert_allclose(vae.encode(np.ones((1, 12, 12, 3)))[0], 0.0, atol=1e-5)
    assert np.sqrt((vae.encode(images)[0] ** 2).mean()) == pytest.approx(1.0, rel=1e-3)


def test_no_other_plane_of_five_dimensions_keeps_more(vae):
    images = pictures(200, rank=12)
    fitted(vae, images, np.eye(3))
    error = ((vae.decode(vae.encode(images)[0]) - images) ** 2).mean()
    patches = np.asarray(fold(jnp.asarray(images), 4)).reshape(-1, 48) - 1.0
    singular = np.linalg.svd(patches, compute_uv=False)
    least = (singular[5:] ** 2).sum() / patches.size
    assert float(error) == pytest.approx(least, rel=1e-3)


def test_the_network_adds_what_a_place_sees_of_its_neighbours(vae):
    fitted(vae, pictures(20, rank=5), np.eye(3))
    kernel = vae.decoder.network.conv_out.kernel
    kernel[...] = 0.1 * jax.random.normal(jax.random.key(0), kernel[...].shape)
    z = jnp.zeros((1, 3, 3, 5))
    changed = vae.decode(z.at[0, 0, 0].set(1.0)) - vae.decode(z)
    assert float(jnp.abs(changed[0, 4:8, 4:8]).max()) > 1e-4
