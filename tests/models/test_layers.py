"""Our layers against flax's own, and the autoencoder's folding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.models import device, layers, vae
from iso3d_jax.models.clip import bicubic_matrix


@pytest.mark.parametrize("side", [1, 2, 3])
def test_small_map_convolution_is_flax_convolution(side):
    ours = layers.conv(3, 5, rngs=nnx.Rngs(0))
    plain = nnx.Conv(3, 5, (3, 3), padding=1, rngs=nnx.Rngs(0))
    plain.kernel, plain.bias = ours.kernel, nnx.Param(jnp.arange(5.0))
    ours.bias = plain.bias
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)
    np.testing.assert_allclose(ours(x), plain(x), atol=1e-5)


def test_group_norm_is_flax_group_norm():
    rng = np.random.default_rng(0)
    ours = layers.GroupNorm(12, 4, epsilon=1e-5, rngs=nnx.Rngs(0))
    ours.scale, ours.bias = (
        nnx.Param(jnp.asarray(rng.normal(size=12), jnp.float32)) for _ in range(2)
    )
    plain = nnx.GroupNorm(12, 4, epsilon=1e-5, rngs=nnx.Rngs(0))
    plain.scale, plain.bias = ours.scale, ours.bias
    x = jnp.asarray(rng.normal(size=(2, 5, 3, 12)) * 3 + 1, jnp.float32)
    np.testing.assert_allclose(ours(x), plain(x), atol=1e-5)


def test_group_norm_of_large_maps_is_laid_out_narrow_on_tpus(monkeypatch):
    """The barrier keeps XLA from widening first; it changes neither a value nor a gradient."""
    norm = layers.GroupNorm(8, 4, epsilon=1e-5, rngs=nnx.Rngs(0))

    def fenced(side):
        trace = jax.make_jaxpr(lambda x: norm(x))(jnp.zeros((1, side, side, 8), jnp.bfloat16))
        return "optimization_barrier" in str(trace)

    def value_and_slope(x):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(norm(x))))(x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 8)), jnp.float32)
    plain = value_and_slope(x)
    assert not fenced(64)
    monkeypatch.setattr(device, "platform", lambda: "tpu")
    assert fenced(64) and fenced(256) and not fenced(32)
    for found, wanted in zip(value_and_slope(x), plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_folding_is_undone_by_unfolding():
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3)).astype(np.float32)
    folded = vae.fold(x, 2)
    assert folded.shape == (2, 4, 2, 12)
    np.testing.assert_array_equal(folded[0, 0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(vae.unfold(folded, 2), x)


def test_posterior_sample_has_the_posterior_moments():
    mean, logvar = jnp.full((20000,), 3.0), jnp.full((20000,), np.log(4.0))
    sample = vae.sample_posterior(mean, logvar, np.random.default_rng(0).normal(size=20000))
    assert abs(sample.mean() - 3.0) < 0.06 and abs(sample.std() - 2.0) < 0.06


def test_bicubic_keeps_constants_and_corners():
    matrix = bicubic_matrix(256, 224)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    picture = np.random.default_rng(0).random(256)
    resized = matrix @ picture
    np.testing.assert_allclose(resized[[0, -1]], picture[[0, -1]], atol=1e-6)


def test_wide_convolution_on_a_small_map_is_flax_convolution():
    """Two maps and a few outputs, but the channels that choose the matrix product on a CPU."""
    rng = np.random.default_rng(0)
    ours = layers.conv(layers.WIDE, 3, rngs=nnx.Rngs(0))
    plain = nnx.Conv(layers.WIDE, 3, (3, 3), padding=1, rngs=nnx.Rngs(0))
    plain.kernel, plain.bias = ours.kernel, nnx.Param(jnp.arange(3.0))
    ours.bias = plain.bias
    x = jnp.asarray(rng.normal(size=(2, 4, 8, layers.WIDE)), jnp.float32)
    assert "conv_general_dilated" not in jax.jit(ours).lower(x).as_text("hlo")
    np.testing.assert_allclose(ours(x), plain(x), atol=1e-4)
