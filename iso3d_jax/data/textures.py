"""Pictures that lie on meshes: decoded within limits, never larger than the renderer needs.

A texture is refused by its declared size before a pixel of it is decoded, and only formats that
Pillow decodes by itself are tried.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Hashable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from iso3d_jax.core.images import open_as

LARGEST_SIDE = 512
MOST_PIXELS = 8192 * 8192
MOST_PIXELS_IN_ALL = 300_000_000  # decoded for one object
MOST_KEPT = 256_000_000  # bytes of one object's textures
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "DIB", "TGA", "TIFF", "GIF", "PPM", "DDS", "PCX")


class BadTexture(ValueError):
    """A texture that cannot be used; the message is the reason."""


def linear_to_srgb(x) -> Float[np.ndarray, "..."]:
    """The sRGB curve of IEC 61966-2-1, of linear light clipped to [0, 1]."""
    x = np.clip(np.asarray(x, np.float64), 0, 1)
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.where(x == 1, 1.0, curve)  # and not 1 less the last digit


def srgb_to_linear(x) -> Float[np.ndarray, "..."]:
    """The inverse of `linear_to_srgb`."""
    x = np.clip(np.asarray(x, np.float64), 0, 1)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


_LINEAR = srgb_to_linear(np.arange(256) / 255).astype(np.float32)


class Textures:
    """The textures of one object: each is decoded once, all of them within a budget.

    Args:
      linear: means of texels are those of linear light, as glTF says; else of sRGB values.
    """

    def __init__(self, linear: bool = False):
        self._linear = linear
        self._known: dict[Hashable, UInt8[np.ndarray, "h w 4"] | BadTexture] = {}
        self._pixels, self._kept = MOST_PIXELS_IN_ALL, MOST_KEPT

    def get(self, key: Hashable, read: Callable[[], bytes]) -> UInt8[np.ndarray, "h w 4"]:
        """The texture that is known by `key`; `read` gives the bytes of its file.

        Raises:
          BadTexture: not a picture, damaged, too large, or more than is decoded for one object.
        """
        if key not in self._known:
            try:
                self._known[key] = self._load(read())
            except BadTexture as e:
                self._known[key] = e
        found = self._known[key]
        if isinstance(found, BadTexture):
            raise found
        return found

    def _load(self, data: bytes) -> UInt8[np.ndarray, "h w 4"]:
        if data[1:7] == b"KTX 20":
            raise BadTexture("it is a KTX2 picture, which is not read")
        with _ours():
            picture = open_as(io.BytesIO(data), FORMATS)
            pixels = picture.width * picture.height
            if pixels > MOST_PIXELS:
                raise BadTexture(
                    f"it has {picture.width} x {picture.height} pixels, and the most is "
                    f"{MOST_PIXELS:,}"
                )
            self._pixels -= pixels
            if self._pixels < 0:
                raise BadTexture(f"the textures have more than {MOST_PIXELS_IN_ALL:,} pixels")
            texture = _reduced(_eight_bits(picture).convert("RGBA"), self._linear)
            self._kept -= texture.nbytes
            if self._kept < 0:
                raise BadTexture(f"the textures fill more than {MOST_KEPT:,} bytes")
            return texture


@contextlib.contextmanager
def _ours():
    """Pillow's decoders raise all sorts on damaged files; they become BadTexture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged by their numbers
            yield
    except BadTexture:
        raise
    except Image.DecompressionBombError:
        raise BadTexture(f"it has more than {MOST_PIXELS:,} pixels") from None
    except Exception as e:
        raise BadTexture(f"it is not a picture that can be read ({type(e).__name__})") from e


def _reduced(picture: Image.Image, linear: bool) -> UInt8[np.ndarray, "h w 4"]:
    """Box-filtered to at most `LARGEST_SIDE` pixels a side."""
    longest = max(picture.size)
    if longest <= LARGEST_SIDE:
        return np.asarray(picture)
    size = (
        max(1, round(picture.width * LARGEST_SIDE / longest)),
        max(1, round(picture.height * LARGEST_SIDE / longest)),
    )
    if linear:
        return _reduce_linear(picture, size)
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, which Pillow would cut off at 255."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    return picture


def _reduce_linear(picture: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 4"]:
    """Box-filtered means of linear light; alpha is linear as it is."""
    planes = []
    for k, band in enumerate(picture.split()):
        values = np.asarray(band)
        plane = _LINEAR[values] if k < 3 else values.astype(np.float32) / 255
        mean = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX))
        planes.append(linear_to_srgb(mean) if k < 3 else np.clip(mean, 0, 1))
    return np.round(255 * np.stack(planes, -1)).astype(np.uint8)
