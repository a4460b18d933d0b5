"""How pictures are fitted to the frame reaches the image encoder and the picture that is shown."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax import sampling
from iso3d_jax.data.pictures import MODES, prepare_picture


@pytest.fixture
def picture():
    """A thing at the upper right of a frame that is wider than high."""
    rgba = np.zeros((80, 120, 4), np.uint8)
    rgba[10:40, 70:110] = np.random.default_rng(0).integers(0, 256, (30, 40, 4))
    rgba[10:40, 70:110, 3] = 255
    return rgba


@pytest.mark.parametrize("mode", MODES)
def test_each_way_of_preparing_is_what_the_encoder_sees(random_model, picture, monkeypatch, mode):
    want = prepare_picture(picture, 64, mode)
    np.testing.assert_array_equal(sampling.prepare_all(random_model, [picture], mode)[0], want)
    seen = []
    size = random_model.config.latent_size
    monkeypatch.setattr(sampling, "_embed", lambda clip, x: seen.append(x) or jnp.zeros((1, 24)))
    monkeypatch.setattr(
        sampling, "sample_latents", lambda *a, **k: np.zeros((1, 4, size, size, 8), np.float32)
    )
    monkeypatch.setattr(sampling, "decode_views", lambda vae, z: z)
    sampling.sample_views(random_model, [picture], prepare=mode)
    np.testing.assert_array_equal(seen[0][0], want)


def test_the_models_own_way_is_used_where_none_is_named(random_model, picture):
    own = sampling.prepare_all(random_model, [picture])
    assert random_model.config.picture == "centred"
    np.testing.assert_array_equal(own[0], prepare_picture(picture, 64, "centred"))
    # What is prepared already stays as it is.
    np.testing.assert_array_equal(sampling.prepare_all(random_model, [own[0]], "framed")[0], own[0])


def test_pictures_are_prepared_as_the_model_or_the_call_says(random_model, monkeypatch):
    asked = []

    def prepare_picture(picture, resolution, mode):
        asked.append((resolution, mode))
        return np.full((resolution, resolution, 3), 0.25, np.float32)

    monkeypatch.setattr(sampling, "prepare_picture", prepare_picture)
    raw, ready = np.zeros((9, 7, 4), np.uint8), np.full((64, 64, 3), 0.75, np.float64)
    prepared = sampling.prepare_all(random_model, [raw, ready])
    np.testing.assert_array_equal(prepared[:, 0, 0, 0], [0.25, 0.75])
    assert prepared.dtype == np.float32
    sampling.prepare_all(random_model, [raw], "released")
    assert asked == [(64, "centred"), (64, "released")]
