"""Pictures to latents within score distillation, in either way of saving memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.reconstruction.losses import encode

IMAGES = np.random.default_rng(0).random((3, 4, 6, 3)).astype(np.float32)


class Vae:
    """Every second pixel: means are red and green, log-variances chosen ones."""

    def __init__(self, *logvar):
        self.logvar = jnp.array(logvar)

    def encode(self, x):
        mean = x[:, ::2, 1::2, :2]
        return mean, jnp.broadcast_to(self.logvar, mean.shape)


@pytest.mark.parametrize("memory", ["low", "normal"])
def test_latents_are_a_scaled_sample_of_the_posterior_of_pictures_in_minus_1_to_1(memory):
    """Log-variance 0 is a deviation of 1, ln 16 one of 4; the released code clips at -30 and 20."""
    noise = np.asarray(jax.random.normal(jax.random.key(2), (3, 2, 3, 2)), np.float64)
    mean = (IMAGES.astype(np.float64) * 2 - 1)[:, ::2, 1::2, :2]
    for logvar, std in (((0.0, 0.0), (1.0, 1.0)), ((np.log(16.0), -2.0), (4.0, np.exp(-1.0))),
                        ((40.0, -90.0), (np.exp(10.0), np.exp(-15.0)))):  # fmt: skip
        found = encode(Vae(*logvar), jnp.asarray(IMAGES), jax.random.key(2), 0.5, memory)
        np.testing.assert_allclose(
            found, 0.5 * (mean + np.array(std) * noise), rtol=1e-5, atol=1e-6
        )


def test_low_memory_has_the_same_gradient():
    def total(images, memory):
        return (encode(Vae(0.0, 1.0), images, jax.random.key(2), 0.5, memory) ** 2).sum()

    one, other = (jax.grad(total)(jnp.asarray(IMAGES), memory) for memory in ("low", "normal"))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one[:, ::2, 1::2, :2]).min() > 0 and not one[..., 2].any()
