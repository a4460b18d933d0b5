"""Textures: sizes, limits and the sRGB curve."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data import textures
from iso3d_jax.data.textures import BadTexture, Textures


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def load(data, linear=False):
    return Textures(linear).get("x", lambda: data)


def test_textures_are_reduced_to_their_largest_side(monkeypatch):
    monkeypatch.setattr(textures, "LARGEST_SIDE", 4)
    pixels = np.arange(8 * 4 * 3).reshape(4, 8, 3)
    small = load(png(pixels))
    assert small.shape == (2, 4, 4) and (small[..., 3] == 255).all()
    mean = pixels.reshape(2, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(small[..., :3], mean, atol=1)
    assert load(png(pixels[:, :4])).shape == (4, 4, 4)
    assert load(png(np.zeros((1, 40, 3)))).shape == (1, 4, 4)


def test_the_srgb_curve():
    found = textures.linear_to_srgb([-1.0, 0.001, 0.0031308, 0.2158605, 0.5, 2.0])
    want = [0.0, 0.01292, 0.04045, 0.502, 0.7353570, 1.0]
    np.testing.assert_allclose(found, want, atol=2e-4)
    np.testing.assert_allclose(
        textures.srgb_to_linear(found),
        np.clip([-1, 0.001, 0.0031308, 0.2158605, 0.5, 2], 0, 1),
        atol=1e-6,
    )


def test_means_of_linear_light_are_brighter(monkeypatch):
    monkeypatch.setattr(textures, "LARGEST_SIDE", 1)
    board = np.array([[[0, 0, 0, 255], [255, 255, 255, 255]]])
    assert load(png(board))[0, 0].tolist() == [128, 128, 128, 255]
    assert load(png(board), linear=True)[0, 0].tolist() == [188, 188, 188, 255]


def bomb(side):
    """A PNG of side x side in a few bytes."""
    head = struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


@pytest.mark.parametrize("side", [60_000, 12_000, 8_200])
def test_a_texture_is_refused_by_its_declared_size(side):
    with pytest.raises(BadTexture, match="pixels"):
        load(bomb(side))


def test_all_textures_of_an_object_share_a_budget_and_each_is_decoded_once(monkeypatch):
    monkeypatch.setattr(textures, "MOST_PIXELS_IN_ALL", 10)
    some, asked = Textures(), []
    data = png(np.zeros((2, 2, 3)))
    for key in "aab":
        some.get(key, lambda: asked.append(1) or data)
    assert len(asked) == 2
    with pytest.raises(BadTexture, match="more than 10 pixels"):
        some.get("c", lambda: data)
    monkeypatch.setattr(textures, "MOST_KEPT", 15)
    with pytest.raises(BadTexture, match="more than 15 bytes"):
        Textures().get("a", lambda: data)


def test_what_is_no_picture_is_one_sentence():
    whole = png(np.arange(48).reshape(4, 4, 3))
    for data in (b"", b"no picture", whole[:40], whole[:50], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(BadTexture, match="not a picture that can be read"):
            load(data)
    with pytest.raises(BadTexture, match="it is a KTX2 picture, which is not read"):
        load(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(60))


def test_sixteen_bits_of_grey_are_not_cut_off():
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(buffer, "PNG")
    assert load(buffer.getvalue())[0, :, 0].tolist() == [0, 128, 255]
