"""Reading picture files: any mode, size and orientation to 8 bits, upright, in sRGB.

A picture comes from anywhere, so nothing in it is trusted: the formats that are tried are named
(Pillow knows forty, one of which starts another program), only plain files are opened, the size is
looked at before anything is decoded, and whatever a decoder raises becomes one sentence.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from iso3d_jax.core.errors import UserError, printable
from iso3d_jax.core.files import readable_name
from iso3d_jax.core.images import PictureFile, open_as, to_uint8

SMALLEST = 16  # pixels; below that there is nothing to see
# More is refused before it is decoded. A JPEG is reduced while it is decoded, the others are not.
MOST_PIXELS_JPEG = 110_000_000  # phones make 108 million
MOST_PIXELS = 64_000_000
MOST_BYTES = 1_000_000_000  # of a file
NO_MEMORY = "needs more memory than there is"
# Pillow's names.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")

PictureSource: TypeAlias = str | os.PathLike | bytes | Image.Image | np.ndarray

_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# What a level of the file is multiplied by where Pillow spreads few bits over a byte.
_SPREAD = {"L;2": 85, "L;4": 17}
# EXIF's orientation, and what makes it upright.
_ORIENTATION = 0x0112
_UPRIGHT = dict(
    zip(
        range(2, 9),
        [
            Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
        ],
        strict=True,
    )
)  # fmt: skip


def read_image(picture: PictureSource, largest: int) -> Image.Image:
    """Decodes a picture.

    Args:
      picture: see `pictures.load_picture`.
      largest: a longer side above it is reduced to it.

    Returns:
      An image of mode L, LA, RGB or RGBA, upright, in sRGB.

    Raises:
      UserError: no such file or not a plain one, not a picture, damaged, too small or too large.
    """
    name = picture_name(picture)
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if isinstance(picture, Image.Image):
        return _decode(picture.copy, name, largest)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _decode(lambda: open_as(io.BytesIO(picture), FORMATS), name, largest)
    if not isinstance(picture, str | os.PathLike):
        raise UserError(
            f"a picture is a path, its bytes, a Pillow image or an array, not "
            f"{type(picture).__name__}"
        )
    path = Path(picture).expanduser()
    _check_file(path, name)
    try:
        with PictureFile(path) as file:
            return _decode(lambda: open_as(file, FORMATS), name, largest)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {_reason(error)}") from None


def picture_name(picture: PictureSource) -> str:
    """What to call a picture in messages: its path, if it has one."""
    if not isinstance(picture, str | os.PathLike):
        return "the picture"
    return readable_name(picture)


def _check_file(path: Path, name: str) -> None:
    """Refuses what is no plain file: a pipe would wait for ever, a device never ends."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"picture not found: {name}") from None
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a zero byte
        raise UserError(f"{name} cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{name} is a folder, not a picture")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name} is a pipe or a device, not a file: save the picture to a file")
    if status.st_size > MOST_BYTES:
        raise UserError(
            f"{name} is a file of {status.st_size / 1e9:.1f} GB: save the picture as PNG or JPEG"
        )


def _from_array(picture: np.ndarray) -> Image.Image:
    """An array of 8-bit levels, or of floats in [0, 1], as a picture."""
    plain = picture.ndim == 2 or picture.ndim == 3 and picture.shape[2] in (1, 3, 4)
    plain = plain and picture.size > 0
    if picture.dtype != np.uint8:
        plain = plain and np.issubdtype(picture.dtype, np.floating)
        plain = plain and bool(picture.min() >= 0 and picture.max() <= 1)
    if not plain:
        raise UserError(
            f"the picture is an array {picture.dtype} {list(picture.shape)}: give [H, W], "
            "[H, W, 3] or [H, W, 4] of uint8, or of floats between 0 and 1"
        )
    picture = to_uint8(picture)
    return Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)


def _decode(opened: Callable[[], Image.Image], name: str, largest: int) -> Image.Image:
    """Opens and decodes; every failure on the way is the picture's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on size and metadata
            image = opened()
            _check_size(image.size, name, image.format)
            scale = min(1.0, largest / max(image.size))
            width, height = (max(1, round(side * scale)) for side in image.size)
            image.draft("RGB", (width, height))
            tiles = getattr(image, "tile", None) or [None]
            image.load()
            turned = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
            _spread_transparency(image, tiles[0])
            image = _limit(_to_channels(image, name), largest)
            image = _to_srgb(image)
            return image if turned is None else image.transpose(turned)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name} is not a picture: it is empty, text, or in a format that is not supported "
            "(use PNG, JPEG or WebP)"
        ) from None
    except Image.DecompressionBombError:
        most = MOST_PIXELS // 1_000_000
        raise UserError(
            f"{name} has too many pixels: reduce it to {most} megapixels or fewer"
        ) from None
    except MemoryError:
        raise UserError(f"{name} {NO_MEMORY}: reduce it") from None
    except Exception as error:
        # Decoders raise whatever they stumble over: TypeError from a tag of the wrong type,
        # struct.error, RuntimeError, NotImplementedError, KeyError. None of them is ours to mend.
        raise UserError(
            f"{name} is damaged or cut short ({_reason(error)}): save it again"
        ) from None


def _reason(error: BaseException) -> str:
    """An error's own words as a part of a sentence: one line, printable and short."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(printable(text, " ").split())
    return text if len(text) <= 120 else text[:117] + "..."


def _check_size(size: tuple[int, int], name: str, kind: str | None) -> None:
    width, height = size
    most = MOST_PIXELS_JPEG if kind in ("JPEG", "MPO") else MOST_PIXELS
    if min(size) < SMALLEST:
        raise UserError(
            f"{name} is only {width}x{height} pixels: use a picture of at least "
            f"{SMALLEST}x{SMALLEST}, and better 256x256 or more"
        )
    if width * height > most:
        raise UserError(
            f"{name} has too many pixels ({width}x{height}): reduce it to "
            f"{most // 1_000_000} megapixels or fewer"
        )


def _spread_transparency(image: Image.Image, tile) -> None:
    """The colour that a PNG names as transparent, in the levels that Pillow decoded to."""
    key = image.info.get("transparency")
    args = getattr(tile, "args", None)
    raw = args[0] if isinstance(args, tuple) and args else args
    if isinstance(key, int) and raw in _SPREAD:
        image.info["transparency"] = key * _SPREAD[raw]
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in key)


def _to_channels(image: Image.Image, name: str) -> Image.Image:
    """Any mode to L, LA, RGB, RGBA or CMYK of 8 bits; of the metadata the profile is kept."""
    key = image.info.pop("transparency", None)
    profile = image.info.get("icc_profile") if image.mode not in ("LAB", *_DEEP_MODES) else None
    if image.mode in _DEEP_MODES:
        result = _from_deep(np.asarray(image), key, name)
    elif image.mode in ("1", "L") and isinstance(key, int):
        grey = np.asarray(image.convert("L"))
        result = Image.fromarray(np.stack([grey, np.where(grey == key, 0, 255)], -1, dtype=np.uint8,
                                          casting="unsafe"))  # fmt: skip
    elif image.mode == "RGB" and isinstance(key, tuple) or image.mode == "P" and key is not None:
        image.info["transparency"] = key
        result = image.convert("RGBA")
    elif image.mode in (*_PLAIN_MODES, "CMYK"):
        return image
    elif image.mode == "La":
        result = image.convert("LA")
    elif image.mode == "LAB":
        result = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert result is not None
    elif image.mode == "1":
        result = image.convert("L")
    else:
        result = image.convert("RGBA" if image.mode in ("P", "PA", "RGBa") else "RGB")
    result.info = {} if profile is None else {"icc_profile": profile}
    return result


def _from_deep(values: np.ndarray, key, name: str) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, to 8; the level `key` is transparent."""
    alpha = np.where(values == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{name} holds values that are not numbers")
    most = values.max()
    ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    whole = next((top for top in ranges if most <= top), float(most))
    rows = [to_uint8(row.astype(np.float32) / np.float32(whole)) for row in values]
    grey = np.stack(rows)  # a row at a time: a hundred megapixels as floats take 400 MB
    return Image.fromarray(grey if alpha is None else np.stack([grey, alpha], -1))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Applies an embedded colour profile; a profile that makes no sense is left out."""
    profile = image.info.get("icc_profile")
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode=mode)
            if converted is not None:
                image = converted
        except Exception:  # a profile's tags are as little to be trusted as anything else
            pass
    return image.convert("RGB") if image.mode == "CMYK" else image


def _limit(image: Image.Image, largest: int) -> Image.Image:
    """Reduces a picture whose longer side is above `largest` (Pillow multiplies by alpha)."""
    if max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.BICUBIC)
    return image
