"""Winograd's convolution against the plain sum in float64, and where it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.core import flops
from iso3d_jax.models import device, layers, winograd


def convolve_in_float64(x, kernel):
    height, width = x.shape[1:3]
    x = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = ((a, b) for a in range(3) for b in range(3))
    return sum(x[:, a : a + height, b : b + width] @ kernel[a, b] for a, b in shifts)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Blocks of two maps; of six, all there are; of one and of three of a map's six rows of tiles.
@pytest.mark.parametrize(
    "shape, block",
    [
        ((4, 4, 6, 3), (2, 2)),
        ((6, 4, 2, 3), (6, 2)),
        ((2, 12, 24, 3), (1, 1)),
        ((2, 12, 8, 3), (1, 3)),
    ],
)
def test_convolution_and_gradients(monkeypatch, shape, block):
    monkeypatch.setattr(winograd, "TILES", 12)
    assert winograd._block(shape) == block
    x, kernel = draw(*shape), draw(3, 3, 3, 5, seed=1)
    cotangent = draw(*shape[:3], 5, seed=2)
    out, gradients = jax.vjp(winograd.convolve, x, kernel)
    np.testing.assert_allclose(out, convolve_in_float64(x, kernel), atol=1e-5)
    _, expected = jax.vjp(winograd.plain, x, kernel)
    for ours, plain in zip(gradients(cotangent), expected(cotangent), strict=True):
        np.testing.assert_allclose(ours, plain, atol=3e-5)


@pytest.mark.parametrize("channels", [128, 512])
def test_rounding_is_that_of_float32(channels):
    x, kernel = draw(1, 16, 16, channels), draw(3, 3, channels, 8, seed=1) / channels**0.5
    exact = convolve_in_float64(x, kernel)
    ours, plain = (
        np.square(np.asarray(jax.jit(f)(x, kernel)) - exact).mean() ** 0.5
        for f in (winograd.convolve, winograd.plain)
    )
    assert ours < 2.5 * plain and ours < 1e-6 * np.square(exact).mean() ** 0.5


def test_layer_takes_it_on_a_cpu_alone(monkeypatch):
    ours = layers.conv(128, 128, rngs=nnx.Rngs(0))
    ours.bias = nnx.Param(jnp.arange(128.0))
    plain = nnx.Conv(128, 128, (3, 3), padding=1, rngs=nnx.Rngs(0))
    plain.kernel, plain.bias = ours.kernel, ours.bias
    x = draw(1, 16, 16, 128)
    assert "convolution(" not in jax.jit(ours).lower(x).as_text("hlo")
    np.testing.assert_allclose(ours(x), plain(x), atol=1e-4)
    count, expected = (flops.count(jax.jit(f).trace(x).jaxpr) for f in (ours, plain))
    assert count == expected == flops.Flops(2.0 * 9 * 16 * 16 * 128 * 128)
    gradient, expected = (
        flops.count(jax.jit(jax.grad(lambda x, f=f: f(x).sum())).trace(x).jaxpr)
        for f in (ours, plain)
    )
    assert gradient.executed == expected.executed
    monkeypatch.setattr(device, "platform", lambda: "gpu")
    assert "convolution(" in jax.jit(lambda x: ours(x)).lower(x).as_text("hlo")


def test_where_it_fits(monkeypatch):
    def fits(shape=(1, 16, 16, 128), outputs=128, dtype=jnp.float32):
        return winograd.fits(shape, outputs, jnp.dtype(dtype))

    assert fits() and fits((1, 256, 256, 128)) and fits((8, 32, 32, 960), 320)
    assert not fits(dtype=jnp.bfloat16)
    assert not fits((1, 17, 16, 128)) and not fits((1, 16, 17, 128))  # no tiles of 2x2
    assert not fits((8, 8, 8, 1280), 1280)  # too small a map for transforming all weights
    assert not fits((1, 16, 16, 64)) and not fits(outputs=64)
    assert not fits((1, 62, 10, 128))  # 31 rows of 5 tiles: one at a time
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
        assert not fits()
    monkeypatch.setattr(device, "platform", lambda: "tpu")
    assert not fits()
