"""Filters of what is worth training on, and the likeness of pictures."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import quality


def views(colour, side=32):
    """Four views of a square of this colour, or of a picture."""
    images = np.zeros((4, side, side, 4), np.uint8)
    images[:, 8:24, 8:24, 3] = 255
    images[:, 8:24, 8:24, :3] = colour
    return images


def verdict(images, notes=(), filters=tuple(quality.FILTERS)):
    try:
        quality.judge(quality.measure(images), notes, filters)
    except quality.LowQuality as e:
        return e.filter
    return None


def test_each_filter_leaves_out_what_it_says():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    grey = noise[..., :1].repeat(3, -1)
    assert verdict(views(noise)) is None
    assert verdict(views(grey)) == "grey" and verdict(views(grey), filters=["detail"]) is None
    assert verdict(views((200, 40, 40))) == "detail"
    slope = np.arange(16)[None, :, None] * np.array([4, 0, 0]) + 60  # under four levels a pixel
    assert verdict(views(slope)) == "detail"
    assert verdict(views(slope), filters=quality.DEFAULT) is None
    small = views(noise)
    small[2] = 0
    small[2, 0, :5] = 255  # 5 of 1024
    assert verdict(small) == "coverage"
    small[2, 0, 5] = 255
    assert verdict(small) is None
    shards = np.zeros((4, 32, 32, 4), np.uint8)
    shards[:, 2:12, 2:12] = shards[:, 2:12, 16:19] = 255  # 100 and 30 pixels, four apart
    shards[..., :3] = np.random.default_rng(1).integers(0, 256, (32, 32, 3))
    assert verdict(shards) == "pieces" and verdict(shards, filters=quality.DEFAULT) is None
    shards[:, 2:12, 12:15, 3] = 255  # with a gap of one pixel they hang together
    assert verdict(shards) is None
    for note in (
        "no texture: a.png is not there",
        "the material 'x' is not there",
        "no materials: m.mtl is not there",
        "a texture has no coordinates (TEXCOORD_1)",
    ):
        assert verdict(views(noise), ["3 lines or points are not drawn", note]) == "textures"
    assert verdict(views(noise), ["3 lines or points are not drawn"]) is None


def test_measures_are_shares_of_what_is_covered():
    images = views((100, 100, 100))
    images[:, 8:24, 8:16] = [200, 100, 100, 255]
    found = quality.measure(images)
    assert found == {"coverage": 0.25, "coloured": 0.5, "edges": round(1 / 15, 5), "together": 1.0}
    images[1:3, :2, :2, 3] = 255  # 4 of 260 pixels of two views are apart
    together = quality.measure(images)["together"]
    assert together == round((2 + 2 * 256 / 260) / 4, 5)
    empty = np.zeros((4, 8, 8, 4), np.uint8)
    assert quality.measure(empty) == dict.fromkeys(found, 0.0)


def test_filters_are_told_by_name():
    assert quality.check_filters(["grey", "shape", "grey"]) == ("shape", "grey")
    with pytest.raises(
        UserError, match="--filters gray: there is no such filter; choose from shape"
    ):
        quality.check_filters(["gray"])


def bits(a, b):
    return (quality.hash_picture(a) ^ quality.hash_picture(b)).bit_count()


def test_pictures_of_the_same_object_have_hashes_alike():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    image = np.concatenate([coarse, np.full((64, 64, 1), 255, np.uint8)], -1)
    brighter = image.copy()
    brighter[..., :3] = brighter[..., :3] // 2 + 100
    assert bits(image, image[::2, ::2]) <= quality.ALIKE
    assert bits(image, image ^ np.uint8(1)) <= quality.ALIKE
    assert bits(image, brighter) <= 6
    assert bits(image, image[:, ::-1]) > 8
    recoloured = image[..., [2, 0, 1, 3]]
    assert bits(image, recoloured) > 5
    nothing = np.zeros((16, 16, 4), np.uint8)
    assert quality.hash_picture(nothing) == 0 and 0 <= quality.hash_picture(image) < 2**64


def test_duplicates_are_those_of_the_first():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 1000, np.uint64)
    hashes[700], hashes[300] = hashes[5], hashes[5] ^ np.uint64(1)
    hashes[800] = hashes[9] ^ np.uint64((1 << 63) | (1 << 20))  # two bits, of two thirds
    hashes[900] = hashes[9] ^ np.uint64(0b111 << 30)  # three
    found = quality.find_duplicates(hashes)
    assert found.later.tolist() == [300, 700, 800] and found.earlier.tolist() == [5, 5, 9]
    assert not len(quality.find_duplicates(hashes[:0]).later)
