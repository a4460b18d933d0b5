"""What the small model's parts compute, written out in numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iso3d_jax.models import clip, splash
from iso3d_jax.models.vae import unfold
from iso3d_jax.tiny import frequencies
from iso3d_jax.tiny.dense_tower import DenseTower, DenseTowerConfig, take_apart
from iso3d_jax.tiny.patch_autoencoder import PatchAutoencoder, PatchAutoencoderConfig
from iso3d_jax.tiny.spatial_prior import Drawing
from tests.networks import drawn


def cosines(n):
    """Orthonormal DCT-II, [frequency, place]."""
    rows = [[np.cos(np.pi * f * (x + 0.5) / n) for x in range(n)] for f in range(n)]
    scale = [np.sqrt(1 / n)] + [np.sqrt(2 / n)] * (n - 1)
    return np.array(rows) * np.array(scale)[:, None]


def raised(n):
    """(1 + |f|) * 4 / n of each pair of frequencies."""
    return np.array([[(1 + np.hypot(f, g)) * 4 / n for g in range(n)] for f in range(n)])


def spectrum(picture):
    """[n, n, C] pixels to raised frequencies."""
    n = len(picture)
    c = cosines(n)
    return np.einsum("hwc,fh,gw->fgc", picture, c, c) * raised(n)[..., None]


def test_frequencies_are_raised_cosines():
    picture = np.random.default_rng(0).random((6, 6, 2))
    got = frequencies.to_frequencies(jnp.asarray(picture, jnp.float32))
    np.testing.assert_allclose(got, spectrum(picture), atol=1e-5)


def test_a_picture_is_taken_apart_into_outline_shading_and_colours():
    rng = np.random.default_rng(1)
    pixels = np.ones((1, 8, 8, 3))
    pixels[0, 2:7, 1:5] = rng.random((5, 4, 3)) * 0.9
    ink = 1 - pixels[0]
    outline = 1 / (1 + np.exp(-(ink.max(-1, keepdims=True) - 0.05) * 100))
    area = outline.mean() + 1e-3
    grey = ink.mean(-1, keepdims=True)
    grey = (grey - (grey * outline).mean() / area) * outline
    shading = grey / np.sqrt((grey**2).mean() / area + 0.02**2)
    colours = ink.reshape(4, 2, 4, 2, 3).mean((1, 3))
    want = [spectrum(part).ravel() for part in (outline - 0.25, 0.3 * shading, colours - 0.25)]
    got = take_apart(jnp.asarray(pixels, jnp.float32))
    np.testing.assert_allclose(got[0], np.concatenate(want), atol=2e-4)


def silu(x):
    return x / (1 + np.exp(-x))


def linear(module, x):
    return x @ np.asarray(module.kernel[...], np.float64) + np.asarray(module.bias[...])


def test_the_tower_adds_each_layer_and_a_direct_line():
    config = DenseTowerConfig(image_size=4, hidden=6, layers=2, output_dim=3)
    tower = drawn(lambda: DenseTower(config, rngs=nnx.Rngs(0)))
    pixels = np.random.default_rng(2).random((2, 4, 4, 3)).astype(np.float32)
    x = np.asarray(take_apart(jnp.asarray(pixels)), np.float64)
    h = linear(tower.first, x)
    for layer in tower.layers:
        h = h + linear(layer, silu(h))
    want = linear(tower.out, silu(h)) + linear(tower.direct, x)
    np.testing.assert_allclose(jax.jit(lambda t, x: t(x))(tower, pixels), want, atol=1e-4)


def test_a_drawing_is_the_embedding_scaled_and_shifted_by_the_camera():
    net = drawn(lambda: Drawing(4, 5, 16, width=6, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(3)
    token, camera = rng.normal(size=(2, 5)), rng.normal(size=(2, 3, 16))
    h = linear(net.embedding_in, token)
    h = (h + linear(net.embedding_hidden, silu(h)))[:, None]
    scale, shift = np.split(linear(net.turn_in, camera), 2, -1)
    h = h * (1 + scale) + shift
    scale, shift = np.split(linear(net.turn_hidden, silu(linear(net.camera_in, camera))), 2, -1)
    h = h + linear(net.hidden, silu(h * (1 + scale) + shift))
    waves = linear(net.draw, h).reshape(2, 3, 4, 4, 4) / raised(4)[..., None]
    want = np.einsum("bvfgc,fh,gw->bvhwc", waves, cosines(4), cosines(4))
    args = (jnp.asarray(a, jnp.float32) for a in (token, camera))
    got = jax.jit(lambda net, *args: net(*args))(net, *args)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_drawing_in_half_precision_computes_in_it():
    net = nnx.eval_shape(lambda: Drawing(4, 5, 16, width=6, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    assert {layer.dtype for _, layer in nnx.iter_modules(net) if isinstance(layer, nnx.Linear)} == {
        jnp.bfloat16
    }


def test_patches_and_network_are_added():
    config = PatchAutoencoderConfig(components=5, ch=8, ch_mult=(1, 1), num_groups=4, patch=2)
    decoder = drawn(lambda: PatchAutoencoder(config, rngs=nnx.Rngs(0))).decoder
    z = jnp.asarray(np.random.default_rng(4).normal(size=(1, 3, 3, 5)), jnp.float32)
    parts = jax.jit(lambda d, z: (d(z), unfold(d.patches(z), d.side), d.network(z)))(decoder, z)
    np.testing.assert_allclose(parts[0], parts[1] + parts[2], atol=1e-5)
    assert all(np.abs(part).max() > 1e-2 for part in parts[1:])


def test_both_lengths_are_long_enough_for_the_kernel():
    assert splash.fits(1024, 2048) and splash.fits(2048, 1024)
    assert not splash.fits(1024, 896) and not splash.fits(896, 1024)


def test_pictures_that_are_not_square_are_resized_on_each_axis():
    image = np.random.default_rng(5).random((1, 5, 7, 3)).astype(np.float32)
    rows, columns = clip.bicubic_matrix(5, 4), clip.bicubic_matrix(7, 4)
    want = np.einsum("yh,nhwc,xw->nyxc", rows, image, columns)
    got = clip.resize_and_normalise(jnp.asarray(image), 4)
    np.testing.assert_allclose(got, (want - clip.MEAN) / clip.STD, atol=1e-4)
