"""The small dense image tower and its place in a model folder."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import split_params
from iso3d_jax.tiny.dense_tower import DenseTower, DenseTowerConfig
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
