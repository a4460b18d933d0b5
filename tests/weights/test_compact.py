"""A model of a byte a weight: small, near the original, read by every command."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.presets import common
from iso3d_jax.weights import bundle, compact, exporting
from iso3d_jax.weights.model_spec import ModelSpec


def unpacked(stored, path):
    return compact.unpack(np.asarray(stored[path]), np.asarray(stored[path + compact.SCALE]))


def test_channels_are_rounded_to_their_own_largest_weight():
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((3, 3, 64, 32)).astype(np.float32) * np.geomspace(0.01, 10, 32)
    weight[..., 5] = 0.0
    stored = compact.pack("unet/conv/kernel", weight)
    assert {name: (type(x), x.dtype) for name, x in stored.items()} == {
        "unet/conv/kernel": (np.ndarray, np.int8),
        "unet/conv/kernel:scale": (np.ndarray, np.float32),
    }
    again = unpacked(stored, "unet/conv/kernel")
    error = np.abs(again - weight).max((0, 1, 2))
    assert (error <= np.abs(weight).max((0, 1, 2)) / 127 * 0.501).all()


@pytest.mark.parametrize("path, shape", [("unet/norm/scale", (20_000,)), ("vae/small", (9, 9)),
                                         ("unet/camera_embed/0/kernel", (128, 128))])  # fmt: skip
def test_small_ones_and_the_cameras_stay_floats(path, shape):
    stored = compact.pack(path, np.ones(shape))
    assert {k: v.dtype for k, v in stored.items()} == {path: jnp.bfloat16}


def test_a_folder_becomes_smaller_and_stays_the_model(tmp_path):
    draw = np.random.default_rng(1)
    config = bundle.make_config(ModelSpec.read(common.tiny_model().to_dict()))
    names = ("vae", "clip")
    weights = {
        name: {
            path: draw.standard_normal(shape.shape).astype(np.float32)
            for path, shape in bundle.abstract_network(name, config)[1].items()
        }
        for name in names
    }
    bundle.save_bundle(tmp_path / "whole", config, weights)
    (note,) = exporting.export_compact(tmp_path / "whole", tmp_path / "small")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("whole", "small")]
    assert note.startswith("vae, clip") and sizes[1] < 0.53 * sizes[0]
    small = bundle.load_weights(tmp_path / "small", names)
    for name in names:
        assert small[name].keys() == weights[name].keys()
        for path, value in weights[name].items():
            np.testing.assert_allclose(small[name][path], value, atol=0.02 * np.abs(value).max())
    bundle.load_model(tmp_path / "small", networks=names)  # every shape fits

    with pytest.raises(UserError, match="a byte a weight"):
        exporting.export_torch(tmp_path / "small", tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="another folder"):
        exporting.export_compact(tmp_path / "small", tmp_path / "small")


def test_bytes_and_scales_by_hand():
    """Two output channels, 63.5 and 0.127 their largest weights; and the limit of 5,000 weights."""
    weight = np.zeros((4096, 2), np.float32)
    weight[:4] = [[-63.5, 0.127], [31.6, -0.0636], [0.26, 0.0004], [0.24, 0.0006]]
    stored = compact.pack("unet/x/kernel", weight)
    assert set(stored) == {"unet/x/kernel", "unet/x/kernel:scale"}
    np.testing.assert_allclose(stored["unet/x/kernel:scale"], [0.5, 0.001], rtol=1e-5)
    whole = np.asarray(stored["unet/x/kernel"])
    assert whole.dtype == np.int8 and stored["unet/x/kernel:scale"].dtype == np.float32
    np.testing.assert_array_equal(whole[:4], [[-127, 127], [63, -64], [1, 0], [0, 1]])
    again = unpacked(stored, "unet/x/kernel")
    want = [[-63.5, 0.127], [31.5, -0.064], [0.5, 0.0], [0.0, 0.001]]
    np.testing.assert_allclose(again[:4], want, rtol=1e-5, atol=1e-9)
    assert again.dtype == np.float32
    few = compact.pack("unet/x/kernel", weight[:2499])
    assert set(few) == {"unet/x/kernel"} and few["unet/x/kernel"].dtype == jnp.bfloat16
    camera = compact.pack("unet/camera_embed/linear_in/kernel", weight)
    assert camera["unet/camera_embed/linear_in/kernel"].dtype == jnp.bfloat16
    empty = compact.pack("x", np.zeros((4096, 2)))
    np.testing.assert_array_equal(empty["x:scale"], 1.0)
