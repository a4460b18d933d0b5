"""Reading whatever people have: each kind of file makes its own input here."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import picture_files
from iso3d_jax.data.picture_files import read_image
from tests.data.conftest import YCBCR

RED = (200, 30, 40)


def square(mode="RGB", ground=255, size=40):
    """A dark square, left of the middle, on a light ground."""
    image = Image.new("L", (size, size), ground)
    image.paste(60, (5, 10, 25, 30))
    return image.convert(mode)


def refusal(picture):
    with pytest.raises(UserError) as caught:
        read_image(picture, 4096)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width, height, bits, colour_type, rows, transparency):
    """A PNG byte by byte, for what Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), (b"tRNS", transparency), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# What is opened at all.


def test_only_named_formats_are_tried_and_no_other_program_is_started(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def ghostscript(*args, **kwargs):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    for format in ("EPS", "DDS", "ICNS", "PCX", "TGA"):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(square(), format))
        assert "is not a picture" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names on Unix only")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe or a device" in refusal(tmp_path / "pipe.png")
    assert "is a pipe or a device" in refusal("/dev/zero")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    assert "is a pipe or a device" in refusal(tmp_path / "link.png")


def test_paths_that_no_file_can_have(tmp_path):
    assert "cannot be read" in refusal(tmp_path / ("x" * 300 + ".png"))
    assert "cannot be read" in refusal("a\0b.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "loop.png" in refusal(tmp_path / "loop.png")
    assert "not found" in refusal(tmp_path / "no" / "x.png")
    (tmp_path / "file").touch()
    assert "not found" in refusal(tmp_path / "file" / "x.png")


def test_a_file_of_a_name_that_is_no_text_is_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"st\xfchl.png")
    try:
        with open(path, "wb") as file:
            file.write(encoded(square(), "PNG"))
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    assert read_image(os.fsdecode(path), 4096).size == (40, 40)


def test_what_is_no_picture_at_all_is_refused_by_its_type():
    assert "not NoneType" in refusal(None)
    assert "is an array uint8 [0, 5, 3]" in refusal(np.zeros((0, 5, 3), np.uint8))
    assert "is an array int64" in refusal(np.zeros((50, 50), np.int64))


def test_files_of_many_gigabytes_are_not_opened(tmp_path):
    with open(tmp_path / "x.webp", "wb") as file:
        file.truncate(picture_files.MOST_BYTES + 1)  # a hole, not data
    assert "a file of 1.0 GB" in refusal(tmp_path / "x.webp")


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP", "JPEG"])
def test_sizes_are_refused_before_anything_is_decoded(monkeypatch, format):
    data = encoded(square(size=100), format)
    for limit in ("MOST_PIXELS", "MOST_PIXELS_JPEG"):
        monkeypatch.setattr(picture_files, limit, 9_999)

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    assert "too many pixels (100x100)" in refusal(data)


def test_a_declared_size_that_is_not_there(tmp_path):
    """A PNG and a GIF of 60,000 pixels a side in a few bytes."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    data += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 0) + b"IDAT"
    assert "too many pixels" in refusal(data + struct.pack(">I", zlib.crc32(b"IDAT")))
    gif = bytearray(encoded(square("P"), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    assert "too many pixels" in refusal(bytes(gif))


def test_a_length_that_is_not_there_takes_no_memory(tmp_path):
    """A PNG whose pixels are whole, in a chunk that says it has four gigabytes."""
    data = bytearray(encoded(square(), "PNG"))
    at = data.index(b"IDAT")
    data[at - 4 : at] = b"\xff\xff\xff\xf0"
    (tmp_path / "long.png").write_bytes(data)
    tracemalloc.start()
    try:
        read_image(tmp_path / "long.png", 4096)
        assert tracemalloc.get_traced_memory()[1] < 1e8
    finally:
        tracemalloc.stop()


# Whatever a decoder raises.


@pytest.mark.parametrize(
    "error",
    [TypeError("a tag"), RuntimeError("AVIF"), NotImplementedError("DDS"), struct.error("short"),
     KeyError(3), IndexError("x"), OverflowError("x"), AssertionError(), ZeroDivisionError("x"),
     Image.DecompressionBombError("x"), RecursionError("x"),
     UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
     ValueError("two\nlines\x1b[31m" + "x" * 500)],
)  # fmt: skip
def test_every_failure_of_a_decoder_is_one_sentence(monkeypatch, error):
    def load(self):
        raise error

    data = encoded(square(), "PNG")
    monkeypatch.setattr(Image.core, "new", load)  # fails below whatever plugin it is
    from PIL import PngImagePlugin

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    message = refusal(data)
    assert len(message) < 250 and ("damaged" in message or "too many pixels" in message)


def test_memory_that_is_not_there_is_one_sentence(monkeypatch):
    from PIL import PngImagePlugin

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert "needs more memory" in refusal(encoded(square(), "PNG"))


def test_a_tag_of_the_wrong_type_in_a_tiff():
    """The strips' place as a rational number: Pillow raises a TypeError."""
    data = bytearray(encoded(square(), "TIFF"))
    (at,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[at : at + 2])
    for k in range(count):
        entry = at + 2 + 12 * k
        if struct.unpack("<H", data[entry : entry + 2]) == (273,):
            value = len(data)
            data[entry : entry + 12] = struct.pack("<HHII", 273, 5, 1, value)
            data += struct.pack("<II", 8, 1)
    assert "damaged or cut short" in refusal(bytes(data))


def test_a_profile_that_makes_any_trouble_is_left_out(monkeypatch):
    data = encoded(Image.new("RGB", (40, 40), RED), "PNG", icc_profile=b"x" * 200)

    def convert(*args, **kwargs):
        raise TypeError("a tag")

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", convert)
    assert read_image(data, 4096).getpixel((3, 3)) == RED


# What comes out.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF palette", "TIFF profile"])
def test_every_orientation_is_made_upright(orientation, kind):
    """The eight ways a camera may be held; what is drawn is the stored picture turned back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(square()).copy()
    upright[:4] = 120  # no symmetry is left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    image, options = Image.fromarray(np.ascontiguousarray(stored)), {"exif": exif}
    if kind == "TIFF palette":
        image = image.quantize(8)
    if kind == "TIFF profile":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        options["icc_profile"] = profile.tobytes()
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    found = read_image(encoded(image, kind.split()[0], **options), 4096).convert("RGB")
    assert np.abs(np.asarray(found).astype(int) - upright).mean() < 3


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_png_names_its_transparent_level_in_its_own_bits(bits):
    """Levels of few bits are spread over a byte; the level of tRNS is not."""
    top = 2**bits - 1
    values = np.full((32, 32), top, np.uint8)
    values[8:24, 4:20] = 0
    packed = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(32, -1)
    rows = [np.packbits(row).tobytes() for row in packed]
    found = np.asarray(
        read_image(png(32, 32, bits, 0, rows, struct.pack(">H", top)), 4096).convert("RGBA")
    )
    assert (found[8:24, 4:20, 3] == 255).all() and found[..., 3].sum() == 256 * 255
    assert (found[8:24, 4:20, :3] == 0).all()


def test_sixteen_bit_pngs_name_their_transparent_colour_in_sixteen_bits():
    grey = np.full((32, 32), 65535, ">u2")
    grey[8:24, 4:20] = 0x3C3C
    key = struct.pack(">H", 65535)
    found = read_image(png(32, 32, 16, 0, [row.tobytes() for row in grey], key), 4096)
    found = np.asarray(found.convert("RGBA"))
    assert found[0, 0, 3] == 0 and found[10, 10].tolist() == [60, 60, 60, 255]
    rgb = np.stack([grey, grey, np.full_like(grey, 0x1234)], -1).astype(">u2")
    key = struct.pack(">HHH", 65535, 65535, 0x1234)
    found = read_image(png(32, 32, 16, 2, [row.tobytes() for row in rgb], key), 4096)
    found = np.asarray(found.convert("RGBA"))
    assert found[0, 0, 3] == 0 and found[10, 10].tolist() == [60, 60, 0x12, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", YCBCR,
                                  "LAB", "I", "F", "I;16", "I;16B"])  # fmt: skip
def test_every_mode_of_tiff(mode):
    grey = np.asarray(square("L"))
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            square(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode=mode
        )
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode.startswith("I;16"):
        image = Image.fromarray(grey.astype(mode[4:] and ">u2" or "<u2") * np.uint16(257))
    elif mode == "PA":
        image = square("RGBA").convert("PA")
    else:
        image = (
            square("L").point(lambda v: 255 * (v > 127)).convert(mode)
            if mode == "1"
            else square(mode)
        )
    found = np.asarray(read_image(encoded(image, "TIFF"), 4096).convert("RGB")).astype(int)
    want = 0 if mode == "1" else 60
    assert np.abs(found[12:28, 7:23] - want).max() <= 3 and found[0, 0].min() >= 252


def test_cmyk_of_adobe_is_not_a_negative():
    found = read_image(encoded(square("CMYK"), "JPEG", quality=95), 4096)
    assert found.mode == "RGB" and found.getpixel((0, 0))[0] > 250
    assert abs(found.getpixel((15, 20))[0] - 60) <= 4


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_many_pictures_in_a_file_the_first_is_taken(format):
    frames = [square(), Image.new("RGB", (40, 40), (255, 255, 255))]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert read_image(data, 4096).convert("RGB").getpixel((15, 20))[0] < 75


def test_palettes_with_several_transparent_levels():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([255, 255, 255, 200, 30, 40, 0, 0, 255])
    image.paste(1, (5, 10, 25, 30))
    image.paste(2, (5, 10, 10, 15))
    found = read_image(encoded(image, "PNG", transparency=bytes([0, 255, 128])), 4096)
    assert [found.getpixel(at) for at in ((0, 0), (20, 20), (7, 12))] == [
        (255, 255, 255, 0), (200, 30, 40, 255), (0, 0, 255, 128)]  # fmt: skip


def test_floats_that_are_no_numbers_are_refused():
    values = np.full((40, 40), np.nan, np.float32)
    assert "not numbers" in refusal(encoded(Image.fromarray(values), "TIFF"))


def test_a_given_image_is_not_changed():
    image = square(size=100)
    assert read_image(image, 50).size == (50, 50) and image.size == (100, 100)


def test_large_jpegs_are_reduced_while_they_are_decoded(monkeypatch):
    data = encoded(square(size=1600), "JPEG")
    sizes = []
    load = Image.Image.convert
    monkeypatch.setattr(
        picture_files, "_to_channels", lambda image, name: sizes.append(image.size) or image
    )
    assert read_image(data, 400).size == (400, 400) and sizes == [(400, 400)]
    assert load is Image.Image.convert
