"""Views as bytes: each by itself, and strips of before."""

import io

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data.multiview import open_dataset
from iso3d_jax.data.multiview.strips import MARK, decode_views, encode_views, read_stored


@pytest.fixture(scope="module")
def views():
    """Boxes of noise, among them colours under no alpha; nothing; and a full frame."""
    rng = np.random.default_rng(0)
    images = np.zeros((5, 9, 12, 4), np.uint8)
    images[0, 2:5, 3:4] = rng.integers(0, 256, (3, 1, 4))
    images[1] = rng.integers(0, 256, (9, 12, 4))
    images[1, 0, 0] = images[1, -1, -1] = 1
    images[3, 8, 11, 0] = 7  # no alpha
    images[4, :, 5:, :] = rng.integers(1, 256, (9, 7, 4))
    return images


@pytest.mark.parametrize("png", [False, True])
def test_views_come_back_to_the_last_byte_in_any_order(views, png):
    data = encode_views(views, png)
    np.testing.assert_array_equal(decode_views(data, 5), views)
    for some in ([3], [4, 0, 2], [1, 1], []):
        np.testing.assert_array_equal(decode_views(data, 5, some), views[some])


def test_strips_of_before_are_read(views):
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(views), axis=1)).save(buffer, "PNG")
    strip = buffer.getvalue()
    np.testing.assert_array_equal(decode_views(strip, 5), views)
    np.testing.assert_array_equal(decode_views(strip, 5, [4, 1]), views[[4, 1]])


def test_what_is_not_asked_for_is_not_decoded(views):
    data = bytearray(encode_views(views))
    second = bytes(data).index(b"RIFF", bytes(data).index(b"RIFF") + 1)
    data[second : second + 8] = bytes(8)
    np.testing.assert_array_equal(decode_views(bytes(data), 5, [0, 4]), views[[0, 4]])
    with pytest.raises(OSError):
        decode_views(bytes(data), 5, [1])


def test_a_small_box_is_a_small_picture(views):
    for png, mark, name in ((False, b"RIFF", "WEBP"), (True, b"\x89PNG", "PNG")):
        data = encode_views(views[:1], png)
        picture = Image.open(io.BytesIO(data[data.index(mark) :]))
        assert picture.size == (1, 3) and picture.format == name


def test_a_view_without_anything_transparent_keeps_its_alpha():
    """WebP drops an alpha of 255 everywhere, and colours with it would be another kind."""
    views = np.full((2, 3, 4, 4), 255, np.uint8)
    views[0, :, :, :3] = np.arange(36).reshape(3, 4, 3)
    np.testing.assert_array_equal(decode_views(encode_views(views), 2), views)
    with pytest.raises(ValueError, match="of another kind or size"):
        decode_views(encode_views(views[..., :3], png=True), 2)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda data: data[:60], "cut off"),
        (lambda data: b"XXXX" + data[4:], "no views of this object"),
        (lambda data: MARK + b"\x06" + data[5:], "no views of this object"),
        (lambda data: data[:24] + b"\x09" + data[25:], "another kind or size"),
    ],
)
def test_damaged_bytes_are_refused(views, change, words):
    data = change(encode_views(views))
    with pytest.raises(ValueError, match=words):
        decode_views(data, 5)


def test_a_stored_record_has_its_views_as_bytes():
    dataset = open_dataset("samples", "test")
    record, stored = dataset[1], read_stored(dataset, 1)
    assert stored["name"] == record["name"] and "images" not in stored
    np.testing.assert_array_equal(stored["azimuth_deg"], record["azimuth_deg"])
    np.testing.assert_array_equal(decode_views(stored["strip"], 24, [5]), record["images"][[5]])


def test_views_of_three_channels_or_of_sixteen_bits_come_back_too():
    rng = np.random.default_rng(1)
    for mode, shape, most in (("RGB", (3, 7, 9, 3), 256), ("I;16", (3, 7, 9), 65536)):
        images = np.zeros(shape, np.uint8 if most == 256 else np.uint16)
        images[0, 2:4, 5:] = rng.integers(0, most, images[0, 2:4, 5:].shape)
        images[2] = rng.integers(0, most, images[2].shape)
        found = decode_views(encode_views(images), 3, mode=mode)
        assert found.dtype == images.dtype
        np.testing.assert_array_equal(found, images)
        with pytest.raises(ValueError, match="of another kind or size"):
            decode_views(encode_views(images, png=True), 3)
