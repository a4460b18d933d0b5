"""The mean of models' weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax.errors import UserError
from iso3d_jax.models.params import split_params
from iso3d_jax.presets import common
from iso3d_jax.weights import bundle
from iso3d_jax.weights.averaging import average


def save(folder, seed, hidden=16):
    settings = ConfigDict(common.tiny_model().to_dict())
    settings.clip.update(image_size=16, hidden=hidden)
    params = split_params(bundle.build_network("clip", settings, seed))[1]
    bundle.save_bundle(folder, bundle.make_config(settings), {"clip": params}, dtype=jnp.float32)
    return params


def test_every_weight_is_the_mean_and_the_model_loads(tmp_path):
    models = [save(tmp_path / str(seed), seed) for seed in range(3)]
    average([tmp_path / str(seed) for seed in range(3)], tmp_path / "mean")
    found = bundle.load_weights(tmp_path / "mean", ("clip",))["clip"]
    assert found.keys() == models[0].keys()
    for path, value in found.items():
        np.testing.assert_allclose(value, sum(m[path] for m in models) / 3, atol=1e-6)
    assert bundle.load_model(tmp_path / "mean", networks=("clip",)).clip is not None


def test_what_does_not_fit_is_refused(tmp_path):
    save(tmp_path / "a", 0)
    save(tmp_path / "b", 1, hidden=24)
    with pytest.raises(UserError, match="two or more --from"):
        average([tmp_path / "a"], tmp_path / "mean")
    with pytest.raises(UserError, match="another config"):
        average([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
