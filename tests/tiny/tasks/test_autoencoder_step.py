"""The autoencoder's step and batches by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from iso3d_jax.data.colour import change_colours, on_white
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.models.params import split_params
from iso3d_jax.presets import autoencoder as preset
from iso3d_jax.tiny.patch_autoencoder import PatchAutoencoder, PatchAutoencoderConfig
from iso3d_jax.tiny.tasks import autoencoder
from iso3d_jax.training.spec import make_spec
from iso3d_jax.training.state import create_state


def config(**changes):
    cfg = preset.get_config()
    cfg.update(
        dict(seed=4, batch_size=32, colour_strength=0.0, background_weight=0.5, ema_decay=0.9)
        | changes
    )
    return make_spec(autoencoder.AutoencoderSpec, cfg)


class Part(nnx.Module):
    def __init__(self, value):
        self.kernel = nnx.Param(jnp.array(value))


class Vae(nnx.Module):
    """Channels mixed, with a log-variance of ln 4; the encoder is not trained."""

    def __init__(self):
        self.encoder, self.decoder = Part([0.5, 1.0, -1.0]), Part([2.0, 0.75, -0.5])
        self.quant_conv, self.post_quant_conv = Part([1.0]), Part([1.5])

    def encode(self, x):
        mean = x * self.encoder.kernel[...] * self.quant_conv.kernel[...]
        return mean, jnp.full_like(mean, jnp.log(4.0))

    def decode(self, z):
        return z * self.post_quant_conv.kernel[...] * self.decoder.kernel[...]


def stepped(cfg, rgba, step=2):
    graphdef, params = split_params(Vae())
    tx = optax.sgd(0.01)
    state = create_state(params, tx, cfg.seed, autoencoder.decoder_paths(params))
    run = functools.partial(autoencoder.train_step, graphdef=graphdef, tx=tx, cfg=cfg)
    return params, *jax.jit(run)(state.replace(step=jnp.int32(step)), {"rgba": rgba})


def test_a_step_decodes_samples_of_the_posterior_and_minds_the_background():
    rgba = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 4)).astype(np.uint8)
    rgba[:, :2, :, 3] = 0
    cfg = config()
    params, state, metrics = stepped(cfg, rgba)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(4), 2))
    images = rgba / 255.0
    images = (images[..., :3] * images[..., 3:] + 1 - images[..., 3:]) * 2 - 1
    noise = np.asarray(jax.random.normal(keys[1], images.shape), np.float64)
    z = images * [0.5, 1.0, -1.0] + 2.0 * noise
    error = z * 1.5 * [2.0, 0.75, -0.5] - images
    mse = (error**2).mean()
    shade = (np.abs(error) * (rgba[..., 3:] == 0)).mean()
    np.testing.assert_allclose(metrics["loss"], np.abs(error).mean() + mse + 0.5 * shade, rtol=1e-4)
    np.testing.assert_allclose(metrics["psnr"], -10 * np.log10(mse / 4), rtol=1e-4)
    pull = (np.sign(error) * (1 + 0.5 * (rgba[..., 3:] == 0)) + 2 * error) / error.size
    slope = (pull * z * 1.5).sum((0, 1, 2))
    moved = np.array([2.0, 0.75, -0.5]) - 0.01 * slope
    np.testing.assert_allclose(state.params["decoder/kernel"], moved, rtol=1e-4)
    for path in ("encoder/kernel", "quant_conv/kernel"):
        np.testing.assert_array_equal(state.params[path], params[path])
    assert set(state.ema_params) == {"decoder/kernel", "post_quant_conv/kernel"}
    average = 0.25 * np.array([2.0, 0.75, -0.5]) + 0.75 * moved  # (1 + 2) / (10 + 2)
    np.testing.assert_allclose(state.ema_params["decoder/kernel"], average, rtol=1e-4)
    assert float(stepped(cfg, rgba, step=3)[2]["loss"]) != float(metrics["loss"])


def test_colours_change_on_the_object_and_the_ground_stays_white():
    rgba = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 4)).astype(np.uint8)
    rgba[:, 0, :, 3] = 0
    recoloured = jax.jit(autoencoder._recoloured, static_argnums=2)
    found = np.asarray(recoloured(jax.random.key(2), rgba, 0.8))
    rgb = jnp.asarray(rgba[..., :3] / 255.0, jnp.float32)
    rgb = np.asarray(jax.jit(change_colours, static_argnums=2)(jax.random.key(2), rgb, 0.8))
    want = (rgb * (rgba[..., 3:] / 255.0) + 1 - rgba[..., 3:] / 255.0) * 2 - 1
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert (found[:, 0] == 1.0).all()


def a_table(objects=4, views=6, size=8):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (objects, views, size, size, 4)).astype(np.uint8)
    nothing = np.zeros((objects, views))
    return MultiViewTable(images, nothing, nothing, nothing, nothing, [""] * objects)


def test_batches_are_views_of_all_objects_half_of_them_mirrored():
    table = a_table()
    batches = autoencoder.Batches(config(batch_size=64), table)
    assert batches.branch(0) == "views"

    def found(picture):
        return [
            (i, m, flip)
            for i, m in np.ndindex(4, 6)
            for flip in (False, True)
            if np.array_equal(table.images[i, m][:, ::-1] if flip else table.images[i, m], picture)
        ][0]

    rows = [found(picture) for picture in batches(0)["rgba"]]
    assert {i for i, *_ in rows} == set(range(4)) and {m for _, m, _ in rows} == set(range(6))
    assert 0.25 < np.mean([flip for *_, flip in rows]) < 0.75 and len(set(rows)) > 30
    np.testing.assert_array_equal(batches(0)["rgba"], batches(0)["rgba"])
    assert not np.array_equal(batches(0)["rgba"], batches(1)["rgba"])
    other = autoencoder.Batches(config(batch_size=64, seed=5), table)
    assert not np.array_equal(other(0)["rgba"], batches(0)["rgba"])


def test_the_encoder_is_made_of_the_components_of_pictures_on_white(monkeypatch):
    """With as many components as a patch has numbers every picture comes back."""
    sizes = PatchAutoencoderConfig(components=12, ch=8, ch_mult=(1,), num_groups=4, patch=2)
    vae, table = PatchAutoencoder(sizes, rngs=nnx.Rngs(0)), a_table()
    quick = jax.jit(autoencoder._recoloured, static_argnums=2)
    monkeypatch.setattr(autoencoder, "_recoloured", quick)
    autoencoder.find_components(vae, table, config())
    images = on_white(table.images[1].astype(np.float32) / 255) * 2 - 1
    back = jax.jit(lambda vae, x: vae.decode(vae.encode(x)[0]))(vae, images)
    np.testing.assert_allclose(back, images, atol=2e-3)
    seen = []
    monkeypatch.setattr(vae.__class__, "set_components", lambda _, *a: seen.append(a))
    monkeypatch.setattr(autoencoder, "MOST_PICTURES", 5)
    autoencoder.find_components(vae, table, config())
    patches, axes = seen[0]
    assert patches.shape == (5 * 16, 12)
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    np.testing.assert_allclose(axes, yiq * [[1], [2], [2]], rtol=1e-6)
