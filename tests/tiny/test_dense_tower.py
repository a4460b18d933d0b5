"""The small dense image tower and its place in a model folder."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import merge_params, split_params
from iso3d_jax.tiny import dense_tower
from iso3d_jax.tiny.dense_tower import DenseTower, DenseTowerConfig, feature_weights
from iso3d_jax.weights import bundle, exporting
from iso3d_jax.weights.model_spec import ModelSpec

SECTION = dict(image_size=16, hidden=12, layers=2, output_dim=6)


@pytest.fixture(scope="module")
def tower():
    return DenseTower(DenseTowerConfig(**SECTION), rngs=nnx.Rngs(0))


def test_pictures_of_any_size_are_embedded_alone_as_in_a_batch(tower):
    images = np.random.default_rng(0).random((3, 48, 40, 3)).astype(np.float32)
    together = tower.embed(images)
    assert together.shape == (3, 6) and together.dtype == jnp.float32
    np.testing.assert_allclose(tower.embed(images[1:2]), together[1:2], atol=1e-5)


def test_where_a_thing_is_changes_the_embedding(tower):
    """A mark at the left and one at the right are told apart."""
    picture = np.ones((1, 32, 32, 3), np.float32)
    picture[:, 8:16, 4:10] = 0.0
    left, right = tower.embed(picture), tower.embed(picture[:, :, ::-1])
    assert np.abs(left - right).max() > 1e-2 * np.abs(left).max()


def test_a_model_folder_knows_which_tower_it_has(tower, tmp_path):
    config = ModelSpec.read(dict(clip=SECTION))
    bundle.save_bundle(tmp_path, config, {"clip": split_params(tower)[1]}, dtype=None)
    again = bundle.load_model(tmp_path, networks=("clip",)).clip
    picture = np.random.default_rng(1).random((1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.embed(picture), tower.embed(picture))
    with pytest.raises(UserError, match="dense image tower"):
        exporting.export_torch(tmp_path, tmp_path / "out.ckpt")


@pytest.fixture(scope="module")
def seeing():
    """A tower that reads features at 48 pixels, and its parts."""
    numbers = DenseTowerConfig(**SECTION, features_at=48, components=5)
    return numbers, DenseTower(numbers, rngs=nnx.Rngs(0))


def test_features_are_seen_place_by_place_beside_the_pixels(seeing):
    """By hand: components of what the encoder makes of the enlarged picture."""
    numbers, tower = seeing
    images = np.random.default_rng(3).random((2, 32, 32, 3)).astype(np.float32)
    got = jax.jit(lambda tower, x: tower.embed(x))(tower, images)
    large = jnp.clip(jax.image.resize(images, (2, 48, 48, 3), "cubic"), 0, 1)
    seen = jax.jit(lambda tower, x: tower.encoder(x))(tower, large)
    assert numbers.places == 9 and seen.shape == (2, 3, 3, 112)
    parts = seen @ tower.components.kernel[...] + tower.components.bias[...]
    pixels = dense_tower.take_apart(dense_tower._shrink(large, 16))
    x = jnp.concatenate([pixels, parts.reshape(2, 45)], -1)
    h = tower.first(x)
    for layer in tower.layers:
        h = h + layer(jax.nn.silu(h))
    want = tower.out(jax.nn.silu(h)) + tower.direct(x)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_components_are_the_principal_ones_of_all_places(seeing):
    """Uncorrelated, largest first, without their mean, together as strong as the pixels."""
    numbers, tower = seeing
    graphdef, params = split_params(tower)
    encoder = {k.removeprefix("encoder/"): w for k, w in params.items() if k.startswith("encoder/")}
    images = np.random.default_rng(4).random((30, 32, 32, 3)).astype(np.float32)
    weights = feature_weights(numbers, encoder, images)
    assert set(weights) == {k for k in params if k.startswith(dense_tower.FEATURES)}
    whole = merge_params(graphdef, params | weights)

    def look(tower, images):
        large = tower.preprocess(images)
        return tower.components(tower.encoder(large)), dense_tower._shrink(images, 16)

    parts, small = jax.jit(look)(whole, images)
    flat = np.asarray(parts, np.float64).reshape(-1, 5)
    spread = np.cov(flat.T)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-3 * flat.std())
    assert (np.diff(np.diag(spread)) < 0).all()
    np.testing.assert_allclose(spread - np.diag(np.diag(spread)), 0, atol=1e-3 * spread[0, 0])
    pixels = dense_tower.take_apart(small)
    assert (flat**2).sum() / len(images) == pytest.approx(
        float((pixels**2).sum(-1).mean()), rel=1e-3
    )


def test_the_features_of_a_tower_are_not_trained():
    from iso3d_jax.tiny.tasks.image_tower import ImageTowerTask

    paths = [
        "tower/encoder/stem/bias",
        "tower/components/kernel",
        "tower/first/kernel",
        "decoder/x",
    ]
    task = object.__new__(ImageTowerTask)
    assert task.trained(paths) == ["decoder/x", "tower/first/kernel"]


def test_a_tower_begins_with_features_of_its_own_training_pictures(monkeypatch):
    from iso3d_jax.tiny.tasks import image_tower

    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3, 2, 6, 6, 4)).astype(np.uint8)
    seen = []

    def weights_of(config, encoder, pictures):
        seen.append((config, encoder, pictures))
        return {"encoder/x": 1, "components/y": 2}

    monkeypatch.setattr(image_tower, "MOST_PICTURES", 5)
    monkeypatch.setattr(image_tower, "load_encoder", lambda: "of the package")
    monkeypatch.setattr(image_tower, "feature_weights", weights_of)
    task = object.__new__(image_tower.ImageTowerTask)
    task._encoder = None
    task.cfg = SimpleNamespace(seed=1, model=SimpleNamespace(network=lambda name: name))
    task.batches = SimpleNamespace(table=SimpleNamespace(images=images))
    assert task._features() == {"tower/encoder/x": 1, "tower/components/y": 2}
    ((config, encoder, pictures),) = seen
    assert (config, encoder, pictures.shape) == ("clip", "of the package", (5, 6, 6, 3))
    flat = images.reshape(6, 6, 6, 4) / 255
    white = flat[..., :3] * flat[..., 3:] + 1 - flat[..., 3:]
    distance = np.abs(pictures[:, None] - white[None]).max((2, 3, 4))
    assert (distance.min(1) < 1e-5).all() and len(set(distance.argmin(1))) == 5
    task._encoder = {"given": 1}
    task._features()
    assert seen[1][1] == {"given": 1}
