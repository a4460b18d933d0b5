"""Means of models by hand, and what makes models no two of a kind."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax.errors import UserError
from iso3d_jax.weights import averaging, bundle


@pytest.fixture
def stored(monkeypatch):
    """Folders by name: a config, and weights by network; and what is saved."""
    folders, saved = {}, []
    monkeypatch.setattr(averaging.bundle, "load_config", lambda name: folders[name][0])
    monkeypatch.setattr(
        averaging.bundle, "load_weights",
        lambda name, networks: {n: dict(folders[name][1].get(n, {})) for n in networks},
    )  # fmt: skip
    monkeypatch.setattr(averaging.bundle, "save_bundle", lambda *a, **how: saved.append((*a, how)))
    return folders, saved


def model(*values, name="small", shape=(2,)):
    unet = {
        "w": np.full(shape, values[0], np.float16),
        "v": jnp.full((3,), values[1], jnp.bfloat16),
    }
    return ConfigDict(dict(name=name)), {"unet": unet}


def test_the_mean_is_in_float32_of_what_there_is(stored, tmp_path):
    folders, saved = stored
    folders |= {"a": model(1.0, 256.0), "b": model(2.0, 258.0), "c": model(6.0, 1.0)}
    (note,) = averaging.average(["a", "b", "c"], tmp_path / "out")
    ((folder, config, mean, how),) = saved
    assert folder == tmp_path / "out" and config.name == "small" and how == {"dtype": jnp.float32}
    assert set(mean) == {"unet"} and set(mean["unet"]) == {"w", "v"}
    np.testing.assert_allclose(mean["unet"]["w"], 3.0)
    np.testing.assert_allclose(mean["unet"]["v"], 515 / 3, rtol=1e-6)
    assert all(w.dtype == jnp.float32 for w in mean["unet"].values())
    assert note == "the mean of 3 models: unet of small"


def test_one_model_another_config_and_other_shapes_are_refused(stored, tmp_path):
    folders, saved = stored
    folders |= {"a": model(1.0, 2.0), "b": model(1.0, 2.0, name="large")}
    folders["c"] = model(1.0, 2.0, shape=(4,))
    folders["d"] = (folders["a"][0], {"unet": {"w": folders["a"][1]["unet"]["w"]}})
    for names, words in (
        (["a"], "two or more"), (["a", "b"], "b has another config than a"),
        (["a", "c"], "'unet' in c do not fit a's"), (["a", "a", "d"], "'unet' in d do not fit"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            averaging.average(names, tmp_path)
    assert saved == [] and set(bundle.NETWORKS) >= {"unet", "vae", "clip"}
