"""The image tower's step, disturbances and batches, on networks that one can work out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from iso3d_jax.data.colour import change_colours
from iso3d_jax.data.table import MultiViewTable, prepare_references
from iso3d_jax.models.params import split_params
from iso3d_jax.presets import image_tower as preset
from iso3d_jax.tiny.tasks import image_tower
from iso3d_jax.training.spec import make_spec
from iso3d_jax.training.state import create_state

disturb = jax.jit(image_tower.disturb)


def config(**changes):
    numbers = dict(
        seed=5, batch_size=64, front_share=0.5, drawn_views=3, pictures=("framed", "centred"),
        colour_strength=0.0, photo_strength=0.0, embedding_noise=0.0, edge_weight=0.5,
        size_weight=0.25, ema_decay=0.9,
        model=dict(camera_encoding="mvdream", clip=dict(image_size=16)),
    )  # fmt: skip
    cfg = preset.get_config()
    cfg.update(numbers | changes)
    return make_spec(image_tower.ImageTowerSpec, cfg)


def pictures(n=200, size=6):
    """An object with edges on white."""
    rng = np.random.default_rng(0)
    images = np.ones((n, size, size, 3), np.float32)
    images[:, 1:4, 2:5] = rng.uniform(0.1, 0.9, (n, 3, 3, 3))
    return images


def test_without_strength_a_picture_stays_as_it_is():
    images = pictures(3)
    np.testing.assert_allclose(disturb(jax.random.key(0), images, 0.0), images, atol=1e-6)


def test_photos_differ_by_light_contrast_blur_and_grain_picture_by_picture():
    """Light and contrast act on what is not white; half are blurred, half have grain."""
    images = np.full((400, 3, 4, 3), 0.5)
    images[:, 2], images[:, :, 3] = 1.0, 0.75
    strength, shape = 0.8, (400, 1, 1, 1)
    found = np.asarray(disturb(jax.random.key(1), jnp.asarray(images, jnp.float32), strength))
    keys = jax.random.split(jax.random.key(1), 5)
    gain, bend, mix, size = (
        np.asarray(jax.random.uniform(keys[k], shape), np.float64) for k in (0, 1, 2, 4)
    )
    gain = np.exp(strength * (0.4 * gain - 0.2))  # between 0.85 and 1.17 at this strength
    bend = np.exp(strength * (0.5 * bend - 0.25))
    mix = strength * np.where(mix < 0.5, mix, 0.0)
    sharp = (1 - np.clip((1 - images) * gain, 0, 1)) ** bend
    turned = [np.roll(sharp, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    size = np.maximum(0.08 * size - 0.04, 0.0)  # none, or up to 0.04
    grain = size * strength * np.asarray(jax.random.normal(keys[3], images.shape), np.float64)
    want = np.clip(sharp + mix * (np.mean(turned, 0) - sharp) + grain, 0, 1)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert 0.4 < (mix == 0).mean() < 0.6 and found.max() == 1.0
    assert 0.4 < (size == 0).mean() < 0.6
    clean = ((size == 0) & (mix == 0)).ravel()
    np.testing.assert_array_equal(found[clean][:, 2, :3], 1.0)  # an even white
    for one, other in ((gain, bend), (gain, mix), (bend, mix), (size, mix), (size, gain)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


def test_white_stays_white_and_nothing_leaves_its_range():
    white = np.ones((50, 4, 4, 3), np.float32)
    found = np.asarray(disturb(jax.random.key(2), white, 1.0))
    assert found.max() == 1.0 and found.mean() > 0.985  # grain below white is left


def test_losses_of_drawings_are_of_values_and_of_neighbours_in_both_directions():
    target = np.zeros((1, 2, 2, 3, 4))
    drawn = np.random.default_rng(0).normal(size=target.shape)
    drawing, edges = image_tower.drawing_losses(jnp.asarray(drawn), jnp.asarray(target))
    np.testing.assert_allclose(drawing, (drawn**2).mean(), rtol=1e-5)
    down = (drawn[:, :, 1] - drawn[:, :, 0]) ** 2
    across = (drawn[:, :, :, 1:] - drawn[:, :, :, :-1]) ** 2
    np.testing.assert_allclose(edges, down.mean() + across.mean(), rtol=1e-5)


class Tower(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.array([[0.5, -1.0], [0.25, 2.0], [1.0, 0.5]]))

    def embed(self, picture):
        return picture[:, 1, 2] @ self.weight[...] + picture.mean((1, 2)) @ self.weight[...]


class Decoder(nnx.Module):
    def __init__(self):
        self.bias = nnx.Param(jnp.array([0.1, 0.2, -0.3, 0.4]))

    def __call__(self, embedding, camera):
        level = embedding @ jnp.array([1.0, 0.5])  # [B]
        row = level[:, None, None, None, None] * camera[..., :1, None, None]
        return row + self.bias[...] + jnp.zeros((1, 1, 16, 16, 1))


def make_batch():
    rng = np.random.default_rng(3)
    return {
        "reference": rng.integers(0, 256, (4, 5, 5, 4)).astype(np.uint8),
        "views": rng.integers(0, 256, (4, 2, 16, 16, 4)).astype(np.uint8),
        "camera": rng.normal(size=(4, 2, 16)).astype(np.float32),
    }


def stepped(cfg, batch, step=3):
    graphdef, params = split_params(image_tower.TowerWithDecoder(Tower(), Decoder()))
    state = create_state(params, optax.sgd(0.1), cfg.seed).replace(step=jnp.int32(step))
    run = functools.partial(image_tower.train_step, graphdef=graphdef, tx=optax.sgd(0.1), cfg=cfg)
    return params, *jax.jit(run)(state, batch)


def by_hand(params, picture, target, cfg, camera, noise=0.0):
    weight = np.asarray(params["tower/weight"], np.float64)
    embedding = picture[:, 1, 2] @ weight + picture.mean((1, 2)) @ weight
    level = ((embedding + noise) @ [1.0, 0.5])[:, None] * camera[..., 0]
    drawn = level[..., None, None, None] + np.asarray(params["decoder/bias"], np.float64)
    error = drawn - target
    edges = np.mean((error[:, :, 1:] - error[:, :, :-1]) ** 2)
    edges += np.mean((error[:, :, :, 1:] - error[:, :, :, :-1]) ** 2)
    drawing, size = np.mean(error**2), np.mean(embedding**2)
    loss = drawing + cfg.edge_weight * edges + cfg.size_weight * (size - 1) ** 2
    return dict(loss=loss, drawing=drawing, edges=edges, embedding_size=size), error


def test_a_step_draws_premultiplied_views_from_the_pictures_on_white():
    cfg, batch = config(), make_batch()
    params, state, metrics = stepped(cfg, batch)
    reference, views = batch["reference"] / 255.0, batch["views"] / 255.0
    picture = reference[..., :3] * reference[..., 3:] + 1 - reference[..., 3:]
    target = np.concatenate([views[..., :3] * views[..., 3:], views[..., 3:]], -1)
    want, error = by_hand(params, picture, target, cfg, batch["camera"])
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    # A bias moves all pixels alike, so differences between neighbours do not pull at it.
    gradient = 2 * error.mean((0, 1, 2, 3)) / 4
    moved = np.asarray(params["decoder/bias"]) - 0.1 * gradient
    np.testing.assert_allclose(state.params["decoder/bias"], moved, atol=1e-5)
    assert np.abs(state.params["tower/weight"] - params["tower/weight"]).min() > 1e-5
    old, new = np.asarray(params["decoder/bias"]), np.asarray(state.params["decoder/bias"])
    np.testing.assert_allclose(  # (1 + 3) / (10 + 3) is below 0.9
        state.ema_params["decoder/bias"], old * 4 / 13 + new * 9 / 13, rtol=1e-5
    )


def test_a_step_changes_picture_and_views_by_the_same_colours_and_adds_noise_by_other_keys():
    cfg, batch = config(colour_strength=1.0, photo_strength=1.0, embedding_noise=0.5), make_batch()
    params, _, metrics = stepped(cfg, batch)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(5), 3), 3)
    both = [batch[k][..., :3].reshape(4, -1, 3) / 255.0 for k in ("reference", "views")]
    rgb = jnp.asarray(np.concatenate(both, 1), jnp.float32)
    rgb = jax.jit(change_colours, static_argnums=2)(keys[0], rgb, 1.0)
    rgb = np.asarray(rgb, np.float64)
    reference, views = batch["reference"][..., 3:] / 255.0, batch["views"][..., 3:] / 255.0
    picture = rgb[:, :25].reshape(4, 5, 5, 3) * reference + 1 - reference
    picture = disturb(keys[1], jnp.asarray(picture, jnp.float32), 1.0)
    target = np.concatenate([rgb[:, 25:].reshape(4, 2, 16, 16, 3) * views, views], -1)
    noise = 0.5 * np.asarray(jax.random.normal(keys[2], (4, 2)), np.float64)
    want, _ = by_hand(params, np.asarray(picture, np.float64), target, cfg, batch["camera"], noise)
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-3, err_msg=name)
    again = stepped(cfg, batch, step=4)[2]
    assert abs(again["loss"] - metrics["loss"]) > 1e-3


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (4, 8, 16, 16, 4)).astype(np.uint8)
    images[..., 3] = 255
    images[:, :, :3] = images[:, :, :, 12:] = 0
    azimuth = (rng.uniform(0, 360, (4, 2, 1)) + np.arange(4) * 90).reshape(4, 8) % 360
    azimuth[3] = np.linspace(100, 250, 8)  # nothing of this one faces the camera
    elevation = rng.uniform(0, 30, (4, 8))
    fov, distance = rng.uniform(15, 60, (4, 8)), rng.uniform(2, 8, (4, 8))
    return MultiViewTable(images, azimuth, elevation, fov, distance, list("abcd"))


def found_in(images, picture):
    """(object, view, mirrored) of a picture, none or one, among [N, M, H, W, 4]."""
    hits = [
        (i, m, mirror)
        for i, m in np.ndindex(images.shape[:2])
        for mirror in (False, True)
        if np.abs((images[i, m][:, ::-1] if mirror else images[i, m]) - picture.astype(int)).mean()
        < 3
    ]
    return hits


def test_rows_have_the_cameras_of_their_views_as_seen_from_their_picture(table):
    batches = image_tower.Batches(config(), table, [4])
    batch = batches(0)
    assert batches.branch(0) == "views" and batch["views"].shape == (64, 3, 16, 16, 4)
    prepared = [prepare_references(table.images, mode) for mode in ("framed", "centred")]
    modes, flips, pairs = set(), set(), set()
    for row in range(64):
        both = [found_in(images, batch["reference"][row]) for images in prepared]
        ((mode, (i, r, mirror)),) = [(k, hit[0]) for k, hit in enumerate(both) if hit]
        modes.add(mode)
        flips.add(mirror)
        seen = [found_in(table.images[i : i + 1], view)[0] for view in batch["views"][row]]
        assert len({m for _, m, _ in seen}) == 3 and {f for *_, f in seen} == {mirror}
        pairs.add((i, r))
        for (_, m, _), camera in zip(seen, batch["camera"][row], strict=True):
            azimuth = table.azimuth_deg[i, m] - table.azimuth_deg[i, r]
            azimuth, elevation = np.radians([-azimuth if mirror else azimuth,
                                             table.elevation_deg[i, m]])  # fmt: skip
            at = [np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth),
                  np.sin(elevation)]  # fmt: skip
            np.testing.assert_allclose(camera.reshape(4, 4)[:3, 3], at, atol=1e-5)
    assert modes == {0, 1} and flips == {False, True} and len(pairs) > 20
    assert batch["camera"].dtype == np.float32
    second = batches(1)
    assert not np.array_equal(second["camera"], batch["camera"])
    np.testing.assert_array_equal(
        image_tower.Batches(config(), table, [4])(1)["views"], second["views"]
    )
    other = image_tower.Batches(config(seed=6), table, [4])(1)
    assert not np.array_equal(other["camera"], second["camera"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pictures_face_the_front_as_often_as_the_config_says(table, share):
    cfg = config(front_share=share, pictures=("framed",), drawn_views=99, batch_size=200)
    batches = image_tower.Batches(cfg, table, [4])
    facing = np.abs((table.azimuth_deg + 180) % 360 - 180) <= 90
    batch = batches(0)
    assert batch["views"].shape[1] == 8  # no more than there are
    rows = [found_in(table.images, picture)[0][:2] for picture in batch["reference"]]
    front = [facing[i, r] for i, r in rows if i < 3]
    assert all(front) if share else 0.3 < np.mean(front) < 0.7
    assert len({r for i, r in rows if i == 3}) > 4  # any, where none faces the camera


def test_views_are_told_their_lenses(table):
    cfg = config(model=dict(camera_encoding="harmonics_lens", clip=dict(image_size=16)))
    batch = image_tower.Batches(cfg, table, [4])(0)
    for views, camera in zip(batch["views"][:8], batch["camera"][:8], strict=True):
        for view, told in zip(views, camera, strict=True):
            ((i, m, _),) = found_in(table.images, view)
            tangent = np.tan(np.radians(table.fov_deg[i, m]) / 2)
            shown = np.log(table.distance[i, m] * tangent)
            want = (tangent - 0.35) / 0.13, (shown - 0.07) / 0.04
            np.testing.assert_allclose(told[-2:], want, rtol=1e-4)


@pytest.mark.parametrize("weights, shares", [((), (0.25, 0.75)), ((3.0, 1.0), (0.75, 0.25))])
def test_sets_are_drawn_by_their_weights_or_by_their_objects(table, weights, shares):
    cfg = config(batch_size=800, pictures=("framed",), data_weights=weights)
    batch = image_tower.Batches(cfg, table, [1, 3])(0)
    objects = [found_in(table.images, picture)[0][0] for picture in batch["reference"]]
    assert np.mean(np.array(objects) == 0) == pytest.approx(shares[0], abs=0.06)
    assert {1, 2, 3} <= set(objects)
