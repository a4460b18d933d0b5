"""The decoder's losses and step by hand, and what is sampled for it: pictures and cameras."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from iso3d_jax import sampling
from iso3d_jax.data.table import MultiViewTable, prepare_references
from iso3d_jax.models.params import split_params
from iso3d_jax.presets import decoder as preset
from iso3d_jax.tiny.tasks import sampled_views
from iso3d_jax.training.spec import make_spec
from iso3d_jax.training.state import create_state
from iso3d_jax.weights.model_spec import ModelSpec

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def some_pictures(seed):
    """Objects of a few colours on white, [3, 5, 6, 3]."""
    rng = np.random.default_rng(seed)
    pictures = np.ones((3, 5, 6, 3))
    pictures[:, 1:4, 1:5] = rng.uniform(0.05, 0.95, (3, 3, 4, 3))
    return pictures


def overlap_by_hand(drawn, truth):
    mask = (1 - truth).max(-1) > 0.04
    soft = 1 / (1 + np.exp(-60 * ((1 - drawn).mean(-1) - 0.04)))
    both = (soft * mask).sum((1, 2))
    return both / np.maximum(soft.sum((1, 2)) + mask.sum((1, 2)) - both, 1.0)


def ink_by_hand(drawn, truth):
    ink, true = (np.maximum(1 - x.mean(-1), 0) for x in (drawn, truth))
    return np.minimum(ink, true).sum((1, 2)) / np.maximum(np.maximum(ink, true).sum((1, 2)), 0.04)


def chroma_by_hand(pictures, truth):
    found = []
    for picture, true in zip(pictures, truth, strict=True):
        pixels = picture[(1 - true).max(-1) > 0.04]
        found.append(((YIQ[1:] @ (pixels.sum(0) / max(len(pixels), 1))) ** 2).sum())
    return np.array(found)


def test_overlaps_and_colourfulness_of_any_pictures():
    drawn, truth = some_pictures(0), some_pictures(1)
    drawn[0] += 0.3  # whiter than white in places
    truth[2] = drawn[2] = 1.0  # nothing at all
    for ours, by_hand in (
        (sampled_views.mask_overlap, overlap_by_hand),
        (sampled_views.ink_overlap, ink_by_hand),
        (sampled_views.chroma, chroma_by_hand),
    ):
        found = ours(jnp.asarray(drawn), jnp.asarray(truth))
        np.testing.assert_allclose(found, by_hand(drawn, truth), rtol=2e-4, atol=1e-6)
    assert np.isfinite(found).all()


class Decoder(nnx.Module):
    def __init__(self):
        self.mix = nnx.Param(jnp.array([[0.9, 0.1, -0.1], [0.0, 0.8, 0.2], [0.1, -0.1, 1.1]]))
        self.shift = nnx.Param(jnp.array([0.05, -0.1, 0.02]))

    def decode(self, z):
        return (z @ self.mix[...] + self.shift[...]) * 2 - 1


def step_config(**changes):
    numbers = dict(
        seed=3, batch_size=4, chroma_weight=2.0, edge_weight=1.5, vividness_weight=50.0,
        mask_weight=0.4, ink_weight=0.1, ema_decay=0.95, colour_strength=0.0, objects=2,
        pictures=("centred",),
    )  # fmt: skip
    cfg = preset.get_config()
    cfg.update(numbers | changes)
    return make_spec(sampled_views.SampledViewsSpec, cfg)


def stepped(cfg, latents, views, trained=("mix", "shift")):
    graphdef, params = split_params(Decoder())
    tx = optax.sgd(1e-3)
    state = create_state(params, tx, cfg.seed, trained).replace(step=jnp.int32(1000))
    run = functools.partial(sampled_views.train_step, graphdef=graphdef, tx=tx, cfg=cfg)
    batch = {"latents": jnp.asarray(latents, jnp.float32), "views": views}
    return params, *jax.jit(run)(state, batch)


def loss_by_hand(params, latents, views, cfg):
    truth = views / 255.0
    drawn = latents @ np.asarray(params["mix"], np.float64) + np.asarray(params["shift"])
    drawn = np.clip(drawn, -0.2, 1.2)
    weighed = (drawn - truth) @ (YIQ * [[1], [cfg.chroma_weight], [cfg.chroma_weight]]).T
    loss = (weighed**2).mean()
    loss += cfg.edge_weight * ((weighed[:, 1:] - weighed[:, :-1]) ** 2).mean()
    loss += cfg.edge_weight * ((weighed[:, :, 1:] - weighed[:, :, :-1]) ** 2).mean()
    colourful, should = chroma_by_hand(drawn, truth), chroma_by_hand(truth, truth)
    loss += cfg.vividness_weight * ((colourful - should) ** 2).mean()
    overlap = overlap_by_hand(drawn, truth).mean()
    loss += cfg.mask_weight * (1 - overlap) + cfg.ink_weight * (
        1 - ink_by_hand(drawn, truth).mean()
    )
    return dict(
        loss=loss,
        psnr=-10 * np.log10(((drawn - truth) ** 2).mean()),
        mask_overlap=overlap,
        vividness=np.sqrt(colourful).mean() / max(np.sqrt(should).mean(), 1e-3),
    )


def test_a_steps_loss_has_each_part_with_its_weight():
    latents, views = some_pictures(4), (some_pictures(5) * 255).astype(np.uint8)
    latents[0, 0, 0] = 3.0  # what is far out of range is cut off, and pulls at nothing
    cfg = step_config()
    params, state, metrics = stepped(cfg, latents, views)
    for name, value in loss_by_hand(params, latents, views, cfg).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for key in params:  # down the gradient, found here by differences
        for index in list(np.ndindex(params[key].shape))[::2]:
            ends = []
            for sign in (1, -1):
                moved = {k: np.array(v, np.float64) for k, v in params.items()}
                moved[key][index] += sign * 1e-5
                ends.append(loss_by_hand(moved, latents, views, cfg)["loss"])
            slope = (ends[0] - ends[1]) / 2e-5
            change = float(state.params[key][index] - params[key][index])
            np.testing.assert_allclose(change, -1e-3 * slope, rtol=1e-2, atol=1e-6)
    old, new = np.asarray(params["mix"]), np.asarray(state.params["mix"])
    np.testing.assert_allclose(state.ema_params["mix"], 0.95 * old + 0.05 * new, atol=1e-6)
    only = stepped(cfg, latents, views, trained=("mix",))[1]
    np.testing.assert_array_equal(only.params["shift"], params["shift"])


def test_batches_are_views_and_their_own_latents_drawn_anew_each_step():
    latents = np.arange(50.0)[:, None, None, None]
    batches = sampled_views.Batches(step_config(batch_size=20), latents, latents.astype(np.uint8))
    drawn = [batches(step) for step in (0, 1, 0)]
    for batch in drawn:
        assert batch["latents"].shape == (20, 1, 1, 1)
        np.testing.assert_array_equal(batch["latents"], batch["views"])
    assert len(set(drawn[0]["views"].ravel())) > 10
    np.testing.assert_array_equal(drawn[0]["views"], drawn[2]["views"])
    assert not np.array_equal(drawn[0]["views"], drawn[1]["views"])
    other = sampled_views.Batches(step_config(batch_size=20, seed=4), latents, latents)(0)
    assert not np.array_equal(other["views"], drawn[0]["views"])
    assert batches.branch(5) == "views"


@pytest.fixture
def table():
    rng = np.random.default_rng(6)
    images = np.zeros((5, 8, 16, 16, 4), np.uint8)
    images[:, :, 3:15, 2:9] = rng.integers(0, 256, (5, 8, 12, 7, 4))
    images[:, :, 3:15, 2:9, 3] = 255
    base = rng.uniform(0, 360, (5, 2, 1))
    azimuth = (base + np.arange(4) * 90).reshape(5, 8) % 360
    ones = np.ones((5, 8))
    return MultiViewTable(images, azimuth, rng.uniform(0, 30, (5, 8)), ones, ones, list("abcde"))


@jax.tree_util.register_static
class Clip:
    def embed(self, pictures):
        return pictures.reshape(len(pictures), -1)


def sampled(monkeypatch, table, cfg):
    """What `draw_samples` hands to the sampler, object by object, and what it returns."""
    seen = []

    def sample_latents(unet, context, camera, alphas, key, **settings):
        note = lambda *a: seen.append([np.asarray(x) for x in a])  # noqa: E731
        jax.debug.callback(note, context, camera, jax.random.key_data(key))
        return camera[None, :, :8].reshape(1, 4, 2, 2, 2)

    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    model = types.SimpleNamespace(
        config=ModelSpec(scale_factor=0.5, camera_encoding="mvdream", latent_size=2),
        unet=0, clip=Clip(), alphas_cumprod=None,
    )  # fmt: skip
    monkeypatch.setattr(sampling, "settings", lambda config: {})
    latents, truth = sampled_views.draw_samples(model, table, cfg)
    jax.effects_barrier()
    return seen, latents, truth


def on_white(rgba):
    rgba = rgba / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def test_views_are_sampled_at_their_azimuths_from_the_picture_that_is_shown(monkeypatch, table):
    cfg = step_config(objects=4)
    seen, latents, truth = sampled(monkeypatch, table, cfg)
    assert latents.shape == (16, 2, 2, 2) and truth.shape == (16, 16, 16, 3)
    assert truth.dtype == np.uint8 and len(seen) == 4
    prepared = prepare_references(table.images, "centred")
    objects, starts = set(), set()
    for k, (context, camera, _) in enumerate(seen):
        views = truth[4 * k : 4 * k + 4].astype(int)
        hits = [
            (i, start)
            for i in range(5)
            for start in (0, 4)
            if np.abs(on_white(table.images[i, start : start + 4]) * 255 - views).max() < 0.51
        ]
        ((i, start),) = hits
        assert context.shape == (1, 1, 16 * 16 * 3)
        shown = context.reshape(16, 16, 3)
        (picture,) = [m for m in range(8) if np.abs(on_white(prepared[i, m]) - shown).max() < 1e-3]
        objects.add(i)
        starts.add(start)
        azimuth = np.radians(
            table.azimuth_deg[i, start : start + 4] - table.azimuth_deg[i, picture]
        )
        elevation = np.radians(table.elevation_deg[i, start : start + 4])
        at = [np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth),
              np.sin(elevation)]  # fmt: skip
        np.testing.assert_allclose(camera.reshape(4, 4, 4)[:, :3, 3], np.transpose(at), atol=1e-5)
        # Latents are given back without the autoencoder's scale.
        got = latents[4 * k : 4 * k + 4].reshape(4, 8)
        np.testing.assert_allclose(got, camera[:, :8] / 0.5, rtol=1e-6)
    assert len(objects) == 4 and starts == {0, 4}
    assert len({tuple(key.tolist()) for *_, key in seen}) == 4  # other noise for each


def test_colours_of_picture_and_views_change_together_by_a_key_of_their_own(monkeypatch, table):
    keys = []
    original = sampled_views.change_colours

    def change_colours(key, rgb, strength):
        jax.debug.callback(lambda k: keys.append(np.asarray(k)), jax.random.key_data(key))
        assert rgb.shape == (1, 5, 16, 16, 3) and strength in (0.0, 0.7)
        return original(key, rgb, strength)

    monkeypatch.setattr(sampled_views, "change_colours", change_colours)
    seen, _, truth = sampled(monkeypatch, table, step_config(objects=1, colour_strength=0.7))
    assert not np.array_equal(keys[0], seen[0][2])
    plain = sampled(monkeypatch, table, step_config(objects=1, colour_strength=0.0))[2]
    assert np.abs(truth.astype(int) - plain).max() > 10
