"""Damaged pictures: small whole files of every format, and seeded mutations of them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import picture_files, pictures

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def cases(seed: int, n: int) -> Iterator[tuple[str, bytes, str]]:
    """`n` files, the same for the same seed: name, bytes, suffix. The first are not damaged."""
    rng = np.random.default_rng(seed)
    whole = list(_whole_files(rng))
    for k in range(n):
        name, data, suffix = whole[k % len(whole)]
        if k >= len(whole):
            data = _mutate(rng, data)
        yield f"{k:05d}_{name}", data, suffix


def attempt(path: str | os.PathLike) -> None:
    """Loads a picture as the commands do.

    Matting is named a file that is not there, so that a busy background is refused at once.

    Raises:
      UserError: it is refused.
      MemoryError: it needs more than there is, whatever the sentence about it.
      ValueError: what came out is no RGBA picture of the size that was asked for.
    """
    try:
        found = pictures.load_picture(path, matting_model="/nowhere.onnx")
    except UserError as error:
        if picture_files.NO_MEMORY in str(error):
            raise MemoryError(str(error)) from None
        raise
    if found.dtype != np.uint8 or found.shape[2:] != (4,) or max(found.shape) > pictures.LARGEST:
        raise ValueError(f"not RGBA: {found.dtype} {found.shape}")


def _picture(rng: np.random.Generator, side: int = 40) -> np.ndarray:
    """RGBA: a rectangle of noise on transparency."""
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[8:-8, 10:-10] = rng.integers(0, 256, (side - 16, side - 20, 4))
    rgba[8:-8, 10:-10, 3] = 255
    return rgba


def _whole_files(rng: np.random.Generator) -> Iterator[tuple[str, bytes, str]]:
    rgba = Image.fromarray(_picture(rng))
    rgb = Image.new("RGB", rgba.size, (250, 250, 250))
    rgb.paste(rgba, mask=rgba)
    grey, wide = rgb.convert("L"), np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    profile = _profile()
    frames = [rgb, rgb.transpose(Image.Transpose.ROTATE_90)]
    kinds = [
        ("rgba", rgba, "PNG", ".png", {}),
        ("rgb_icc", rgb, "PNG", ".png", {"icc_profile": profile, "exif": exif}),
        ("palette", rgb.quantize(16), "PNG", ".png", {"transparency": 0}),
        ("grey16", Image.fromarray(wide), "PNG", ".png", {"transparency": 65535}),
        ("bits", grey.convert("1"), "PNG", ".png", {}),
        ("la", rgba.convert("LA"), "PNG", ".png", {}),
        ("apng", frames[0], "PNG", ".png", {"save_all": True, "append_images": frames[1:]}),
        ("jpeg", rgb, "JPEG", ".jpg", {"exif": exif, "icc_profile": profile}),
        ("progressive", rgb, "JPEG", ".jpg", {"progressive": True}),
        ("cmyk", rgb.convert("CMYK"), "JPEG", ".jpg", {}),
        ("grey", grey, "JPEG", ".jpeg", {}),
        ("mpo", frames[0], "MPO", ".jpg", {"save_all": True, "append_images": frames[1:]}),
        ("lossy", rgba, "WEBP", ".webp", {"exif": exif, "icc_profile": profile}),
        ("lossless", rgba, "WEBP", ".webp", {"lossless": True}),
        ("animated", frames[0], "WEBP", ".webp", {"save_all": True, "append_images": frames[1:]}),
        ("bmp", rgb, "BMP", ".bmp", {}),
        ("bmp32", rgba, "BMP", ".bmp", {}),
        ("gif", rgb.quantize(16), "GIF", ".gif", {"transparency": 0}),
        ("gifs", frames[0], "GIF", ".gif", {"save_all": True, "append_images": frames[1:]}),
        ("tiff", rgba, "TIFF", ".tif", {"exif": exif, "icc_profile": profile}),
        ("lzw", rgb, "TIFF", ".tif", {"compression": "tiff_lzw"}),
        ("deflate", rgb, "TIFF", ".tiff", {"compression": "tiff_adobe_deflate"}),
        ("fax", grey.convert("1"), "TIFF", ".tif", {"compression": "group4"}),
        ("float", Image.fromarray(wide.astype(np.float32)), "TIFF", ".tif", {}),
        ("deep", Image.fromarray(wide), "TIFF", ".tif", {}),
        ("lab", _lab(rgb), "TIFF", ".tif", {}),
        ("ppm", rgb, "PPM", ".png", {}),
        ("dds", rgba, "DDS", ".png", {}),
        ("tga", rgba, "TGA", ".png", {}),
        ("eps", rgb, "EPS", ".png", {}),
        ("ico", rgba, "ICO", ".png", {}),
    ]
    if features.check("avif"):
        kinds.append(("avif", rgba, "AVIF", ".avif", {"exif": exif}))
    for name, image, format, suffix, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        yield name, buffer.getvalue(), suffix


def _profile() -> bytes:
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)  # when it was made
    return bytes(profile)


def _lab(rgb: Image.Image) -> Image.Image:
    from PIL import ImageCms

    target = ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(rgb, ImageCms.createProfile("sRGB"), target, outputMode="LAB")
    assert found is not None
    found.info.clear()  # its profile says when it was made
    return found


def _mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """One to four changes; a PNG's checksums are mended half the time, so that more is read."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        kind, size = rng.integers(7), len(found)
        # Headers decide most, so half of the changes fall among the first bytes.
        at = int(rng.integers(min(size, 200) if rng.random() < 0.5 else size))
        if kind == 0:
            found[at] = rng.integers(256)
        elif kind == 1:
            found[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            width = int(rng.choice([1, 2, 4]))
            value = int(rng.choice(_INTERESTING)) & (256**width - 1)
            order = "<" if rng.random() < 0.5 else ">"
            found[at : at + width] = struct.pack(order + {1: "B", 2: "H", 4: "I"}[width], value)
        elif kind == 3:
            del found[at : at + int(rng.integers(1, 30))]
        elif kind == 4:
            found[at:at] = rng.bytes(int(rng.integers(1, 30)))
        elif kind == 5:
            length, source = int(rng.integers(1, 40)), int(rng.integers(size))
            found[at : at + length] = found[source : source + length]
        else:
            found = found[: max(at, 8)]
        if len(found) < 8:
            break
    mended = rng.random() < 0.5 and found[:4] == b"\x89PNG"
    return _with_checksums(bytes(found)) if mended else bytes(found)


def _with_checksums(data: bytes) -> bytes:
    at, parts = 8, [data[:8]]
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        if len(body) < 4 + length or at + 12 + length > len(data):
            break
        parts.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + data[at:]
