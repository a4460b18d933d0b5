"""Colour profiles, kinds of numbers and sizes of people's pictures, and the exact frame."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import pictures
from iso3d_jax.data.pictures import load_picture, prepare_picture


def tags(profile):
    """{signature: (place of its entry in the table, offset, size)} of an ICC profile."""
    (count,) = struct.unpack(">I", profile[128:132])
    entries = {}
    for i in range(count):
        at = 132 + 12 * i
        name, offset, size = struct.unpack(">4sII", profile[at : at + 12])
        entries[name] = (at, offset, size)
    return entries


def srgb():
    return bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def swapped():
    """sRGB with its red and green primaries exchanged."""
    profile = srgb()
    red, green = (tags(profile)[name] for name in (b"rXYZ", b"gXYZ"))
    for entry, other in ((red, green), (green, red)):
        profile[entry[0] + 4 : entry[0] + 12] = struct.pack(">II", other[1], other[2])
    return bytes(profile)


def linear():
    """sRGB's primaries with light in proportion to the numbers."""
    profile = srgb()
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        _, offset, _ = tags(profile)[name]
        profile[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(profile)


def picture(mode="RGBA"):
    """Half a frame of one colour; the other half is transparent."""
    image = np.zeros((40, 30, 4), np.uint8)
    image[5:35, 4:20] = (200, 60, 20, 255)
    image[5:35, 18:20, 3] = 90
    return Image.fromarray(image).convert(mode)


def loaded(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return load_picture(tmp_path / name)


def test_colours_are_turned_to_srgb_and_alpha_is_left_alone(tmp_path):
    got = loaded(tmp_path, picture(), icc_profile=swapped())
    assert np.abs(got[20, 10].astype(int) - (60, 200, 20, 255)).max() <= 2
    np.testing.assert_array_equal(got[..., 3], np.asarray(picture())[..., 3])
    got = loaded(tmp_path, picture(), icc_profile=linear())
    light = np.array([200, 60, 20]) / 255
    want = 255 * np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(got[20, 10, :3] - want).max() <= 2


def test_a_picture_without_alpha_has_its_profile_applied_before_its_ground_is_removed(tmp_path):
    image = np.full((60, 60, 3), 250, np.uint8)
    image[20:45, 15:40] = (200, 60, 20)
    got = loaded(tmp_path, Image.fromarray(image), "x.jpg", icc_profile=swapped(), quality=98)
    assert np.abs(got[30, 25].astype(int) - (60, 200, 20, 255)).max() <= 6 and got[2, 2, 3] == 0


@pytest.mark.parametrize("kind", ["float", "float 255", "sixteen bits", "thirty-two bits"])
def test_numbers_of_every_kind_become_bytes(tmp_path, kind):
    """The largest value says of what the numbers are a share."""
    grey = np.full((40, 50), 255.0)
    grey[10:30, 12:40], grey[15:20, 20:30] = 64.0, 30.0
    image = {
        "float": Image.fromarray((grey / 255).astype(np.float32)),
        "float 255": Image.fromarray(grey.astype(np.float32)),
        "sixteen bits": Image.fromarray((grey * 257).astype(np.uint16)),
        "thirty-two bits": Image.fromarray(grey.astype(np.int32)),
    }[kind]
    got = loaded(tmp_path, image, "x.tif")
    assert np.abs(got[12, 15, :3].astype(int) - 64).max() <= 1
    assert np.abs(got[17, 25, :3].astype(int) - 30).max() <= 1 and got[2, 2, 3] == 0


def test_values_that_are_no_numbers_are_refused(tmp_path):
    values = np.full((40, 40), 0.5, np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match="holds values that are not numbers"):
        load_picture(tmp_path / "x.tif")


def test_sizes_at_the_limits(tmp_path, monkeypatch):
    for side, fine in ((16, True), (15, False)):
        image = Image.new("RGBA", (side, 40), (200, 30, 40, 255))
        image.putpixel((0, 0), (0, 0, 0, 0))
        for x in range(side):
            image.putpixel((x, 39), (0, 0, 0, 0))
        if fine:
            assert loaded(tmp_path, image).shape == (40, 16, 4)
        else:
            with pytest.raises(UserError, match="only 15x40 pixels"):
                loaded(tmp_path, image)
    # What is seen: its longer side counts.
    for long, fine in ((16, True), (15, False)):
        image = np.zeros((64, 64, 4), np.uint8)
        image[10 : 10 + long, 20:24] = 255
        if fine:
            loaded(tmp_path, Image.fromarray(image))
        else:
            with pytest.raises(UserError, match="is only 4x15 pixels"):
                loaded(tmp_path, Image.fromarray(image))
    monkeypatch.setattr(pictures, "LARGEST", 32)
    assert loaded(tmp_path, picture()).shape == (32, 24, 4)
    monkeypatch.setattr(pictures, "LARGEST", 40)
    assert loaded(tmp_path, picture()).shape == (40, 30, 4)


def test_alpha_that_hides_next_to_nothing_counts_as_none(tmp_path):
    """A thousandth of the pixels below half: less of it, and the ground is removed."""
    image = np.full((100, 100, 4), 255, np.uint8)
    image[30:70, 20:60, :3] = (30, 60, 90)
    image[0, :9, 3] = 0
    assert loaded(tmp_path, Image.fromarray(image))[50, 90, 3] == 0
    image[0, :10, 3] = 0
    assert loaded(tmp_path, Image.fromarray(image))[50, 90, 3] == 255


def test_faint_alpha_is_not_seen(tmp_path):
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., 3] = 25
    with pytest.raises(UserError, match="fully transparent"):
        loaded(tmp_path, Image.fromarray(image))
    image[10:50, 5:20, 3] = 26
    assert pictures.visible_box(loaded(tmp_path, Image.fromarray(image))[..., 3]) == (5, 10, 20, 50)


def test_the_centred_box_is_cut_out_to_the_pixel():
    """A box of 18 by 34 pixels fills 0.85 of a frame of 40; bytes come back as they are."""
    rgba = np.zeros((90, 70, 4), np.uint8)
    rgba[50:84, 3:21] = np.random.default_rng(0).integers(0, 256, (34, 18, 4))
    rgba[50:84, 3:21, 3] = 255
    want = np.ones((40, 40, 3))
    want[3:37, 11:29] = rgba[50:84, 3:21, :3] / 255
    np.testing.assert_allclose(prepare_picture(rgba, 40), want, atol=1e-6)
    # An odd box lies between pixels, in the middle all the same.
    rgba[50:84, 20:21, 3] = 0
    frame = 1.0 - prepare_picture(
        np.where(rgba[..., 3:] > 0, [0, 0, 0, 255], 0).astype(np.uint8), 40
    )
    assert frame[..., 0].sum() == pytest.approx(17 * 34, rel=1e-3)
    assert frame[..., 0].sum(0) @ (np.arange(40) - 19.5) == pytest.approx(0.0, abs=2.0)


def test_a_box_at_the_pictures_corner_has_white_around_it():
    rgba = np.full((34, 18, 4), 255, np.uint8)
    rgba[..., :3] = np.random.default_rng(1).integers(0, 256, (34, 18, 3))
    want = np.ones((40, 40, 3))
    want[3:37, 11:29] = rgba[..., :3] / 255
    np.testing.assert_allclose(prepare_picture(rgba, 40), want, atol=1e-6)
    # Framed: the whole picture, its longer side the frame's.
    want = np.ones((34, 34, 3))
    want[:, 8:26] = rgba[..., :3] / 255
    np.testing.assert_allclose(prepare_picture(rgba, 34, "framed"), want, atol=1e-6)


def test_what_is_seen_through_is_mixed_with_white_to_the_nearest_byte():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0], rgba[0, 1], rgba[1, 0] = (100, 0, 255, 128), (10, 20, 30, 0), (10, 20, 30, 255)
    want = np.array([[[177, 127, 255], [255, 255, 255]], [[10, 20, 30], [255, 255, 255]]])
    np.testing.assert_array_equal(pictures._on_white(rgba), want)


def test_shares_of_an_area_are_worked_out():
    """Five pixels to two: one and two and a half of the middle one for each."""
    weights = pictures._area_weights(5, 2)
    np.testing.assert_allclose(weights, np.array([[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]]) / 5)
    image = np.array([[[0], [10], [20], [30], [255]]] * 2, np.uint8)
    small = pictures.area_resize(image, 2)[..., 0]
    np.testing.assert_array_equal(small, [[8, 118]] * 2)  # (0 + 20 + 20) / 5, (20 + 60 + 510) / 5
