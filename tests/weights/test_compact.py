"""A model of a byte a weight: small, near the original, read by every command."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from iso3d_jax.errors import UserError
from iso3d_jax.weights import bundle, compact, exporting


def test_channels_are_rounded_to_their_own_largest_weight():
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((3, 3, 64, 32)).astype(np.float32) * np.geomspace(0.01, 10, 32)
    weight[..., 5] = 0.0
    stored = compact.pack("unet/conv/kernel", weight)
    assert stored["unet/conv/kernel"].dtype == jnp.int8
    again = compact.unpack(stored)["unet/conv/kernel"]
    error = np.abs(again - weight).max((0, 1, 2))
    assert (error <= np.abs(weight).max((0, 1, 2)) / 127 * 0.501).all()


@pytest.mark.parametrize("path, shape", [("unet/norm/scale", (20_000,)), ("vae/small", (9, 9)),
                                         ("unet/camera_embed/0/kernel", (128, 128))])  # fmt: skip
def test_small_ones_and_the_cameras_stay_floats(path, shape):
    stored = compact.pack(path, np.ones(shape))
    assert {k: v.dtype for k, v in stored.items()} == {path: jnp.bfloat16}
    assert compact.unpack(stored).keys() == {path}


def test_a_folder_becomes_smaller_and_stays_the_model(tmp_path):
    draw = np.random.default_rng(1)
    config = bundle.make_config(common.tiny_model())
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
