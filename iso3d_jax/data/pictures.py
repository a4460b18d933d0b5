"""Pictures from people: read them, refuse the hopeless ones kindly, and fit them to the model.

`load_picture` gives RGBA, whatever the file held. A picture without transparency on a plain
background (a studio shot, a catalogue picture) gets its background removed here; on a busy
background it is refused, because a guess at what the object is would be wrong too often.

`prepare_picture` gives what the image encoder sees. Four ways:
  'centred': the object's bounding box, centred, its longer side at 0.85 of the frame. What the
      models trained here use for people's pictures.
  'framed': the picture as it is framed, with white added to make it square. For pictures by a
      camera like the data sets', which shows the unit sphere: how much of the frame an object
      fills then says how deep it is, so a part of the training references is of this kind.
  'launch': what the released `launch.py` does (area averaging of RGBA, then white).
  'i2i': what the released `scripts/i2i.py` does (white first, then bicubic).
The released two keep the picture's own framing, and stretch it to a square.
"""

import io
import math
import os
import warnings
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.background import remove_plain_background

SMALLEST = 16  # pixels; below that there is nothing to see
LARGEST = 4096  # longer side; larger pictures are reduced when they are read
LARGEST_PLAIN = 2048  # the same where the background has to be removed
FILL = 0.85  # of the frame, for 'centred'
VISIBLE = 25  # alpha above this (of 255) counts as part of the object
MODES = ("centred", "framed", "launch", "i2i")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


PictureSource: TypeAlias = str | os.PathLike | bytes | Image.Image | np.ndarray


def load_picture(picture: PictureSource) -> np.ndarray:
    """Reads a picture of one object as RGBA.

    Args:
      picture: a file that Pillow can read (PNG, JPEG, WebP and others, of any mode), its bytes, a
        Pillow image, or an array [H, W], [H, W, 3] or [H, W, 4] of uint8 or of floats in [0, 1].

    Returns:
      uint8 [H, W, 4], upright, sRGB, colours not multiplied by alpha.

    Raises:
      UserError: no such file, not a picture, damaged, too small, nothing visible in it, or a
        background that cannot be removed.
    """
    path = picture if isinstance(picture, str | os.PathLike) else "the picture"
    image = _to_eight_bits(_open(picture), path)
    if min(image.size) < SMALLEST:
        width, height = image.size
        raise UserError(
            f"{path} is only {width}x{height} pixels: use a picture of at least "
            f"{SMALLEST}x{SMALLEST}, and better 256x256 or more"
        )
    rgba = np.asarray(_limit(image.convert("RGBA"), LARGEST))
    alpha = rgba[..., 3]
    if alpha.max() <= VISIBLE:
        raise UserError(f"{path} is fully transparent: there is no object to see in it")
    if (alpha < 128).mean() < 0.01:
        plain = _limit(Image.fromarray(rgba).convert("RGB"), LARGEST_PLAIN)
        rgba = remove_plain_background(np.asarray(plain), name=str(path))
    x0, y0, x1, y1 = visible_box(rgba[..., 3])
    if max(x1 - x0, y1 - y0) < SMALLEST:
        raise UserError(
            f"the visible part of {path} is only {x1 - x0}x{y1 - y0} pixels: the object must be "
            f"at least {SMALLEST} pixels large"
        )
    return np.ascontiguousarray(rgba)


def find_pictures(path: str | os.PathLike) -> list[Path]:
    """The picture itself, or all pictures of a folder in the order of their names."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"the folder {path} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def prepare_picture(rgba: np.ndarray, resolution: int, mode: str = "centred") -> np.ndarray:
    """Fits a picture to the model's frame, on white.

    Args:
      rgba: uint8 [H, W, 4].
      resolution: the frame's side in pixels.
      mode: one of `MODES`; see the module's docstring.

    Returns:
      float32 [resolution, resolution, 3] in [0, 1].
    """
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise ValueError(f"expected uint8 [H, W, 4], got {rgba.dtype} {list(rgba.shape)}")
    if mode in ("centred", "framed"):
        box = visible_box(rgba[..., 3]) if mode == "centred" else (0, 0, *rgba.shape[1::-1])
        return _cut(rgba, box, FILL if mode == "centred" else 1.0, resolution)
    if mode == "launch":
        small = area_resize(rgba, resolution).astype(np.float32) / 255
        return small[..., :3] * small[..., 3:] + (1 - small[..., 3:])
    if mode == "i2i":
        image = Image.fromarray(_on_white(rgba)).resize((resolution,) * 2, Image.Resampling.BICUBIC)
        return np.asarray(image, np.float32) / 255
    raise ValueError(f"unknown picture preparation '{mode}': one of {', '.join(MODES)}")


def visible_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box x0, y0, x1, y1 (exclusive) of what is visible in uint8 alpha [H, W]."""
    seen = alpha > VISIBLE
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    if not columns.size:
        raise UserError("the picture is fully transparent: there is no object to see in it")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cut(
    rgba: np.ndarray, box: tuple[int, int, int, int], fill: float, resolution: int
) -> np.ndarray:
    """A square about a box's centre, of which its longer side is the share `fill`.

    Compositing on white and resampling are both linear, so white comes first; this is the same
    as resampling colours multiplied by alpha. The frame is cut at fractions of a pixel.
    """
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) / fill
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    # The whole pixels that the frame touches, and those of them that the picture has.
    fx0, fy0 = math.floor(left), math.floor(top)
    fx1, fy1 = math.ceil(left + side), math.ceil(top + side)
    height, width = rgba.shape[:2]
    cx0, cy0, cx1, cy1 = max(fx0, 0), max(fy0, 0), min(fx1, width), min(fy1, height)
    canvas = np.full((fy1 - fy0, fx1 - fx0, 3), 255, np.uint8)
    canvas[cy0 - fy0 : cy1 - fy0, cx0 - fx0 : cx1 - fx0] = _on_white(rgba[cy0:cy1, cx0:cx1])
    frame = (left - fx0, top - fy0, left - fx0 + side, top - fy0 + side)
    image = Image.fromarray(canvas).resize((resolution,) * 2, Image.Resampling.BICUBIC, box=frame)
    return np.asarray(image, np.float32) / 255


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """RGBA uint8 [H, W, 4] on white, uint8 [H, W, 3], rounded to the nearest level."""
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def area_resize(image: np.ndarray, resolution: int) -> np.ndarray:
    """OpenCV's `cv2.resize(image, (n, n), interpolation=cv2.INTER_AREA)` for uint8.

    Shrinking is the mean over the area that a pixel covers, fractions of pixels included. Where
    either side grows, OpenCV interpolates between two neighbours instead, with weights of eleven
    bits.

    Equal to OpenCV where it shrinks, but for exact halves, which may round by one level; where it
    grows, a tenth of the values differ by one level, from OpenCV's truncated sums.

    Args:
      image: uint8 [H, W, C]; alpha is averaged like any channel, colours are not multiplied by it.
      resolution: the result's height and width.

    Returns:
      uint8 [resolution, resolution, C].
    """
    height, width, _ = image.shape
    weights = _area_weights if min(height, width) >= resolution else _growing_weights
    rows, columns = weights(height, resolution), weights(width, resolution)
    result = np.einsum("yh,hwc->ywc", rows, image.astype(np.float64), optimize=True)
    result = np.einsum("xw,ywc->yxc", columns, result, optimize=True)
    # OpenCV rounds halves to even, but up where it halves the picture.
    halved = height == width == 2 * resolution
    return np.clip(np.floor(result + 0.5) if halved else np.rint(result), 0, 255).astype(np.uint8)


def _area_weights(source: int, target: int) -> np.ndarray:
    """[target, source]: the share of each source pixel in each target pixel."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0, None) * (target / source)


def _growing_weights(source: int, target: int) -> np.ndarray:
    """[target, source]: what INTER_AREA does where it cannot average."""
    scale = source / target
    positions = np.arange(target)
    first = np.floor(positions * scale).astype(int)
    share = positions + 1 - (first + 1) / scale
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    share = np.rint(share * 2048) / 2048
    weights = np.zeros((target, source))
    np.add.at(weights, (positions, np.minimum(first, source - 1)), 1 - share)
    np.add.at(weights, (positions, np.minimum(first + 1, source - 1)), share)
    return weights


def _open(picture: PictureSource) -> Image.Image:
    """Opens and decodes a picture, upright."""
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    if isinstance(picture, bytes):
        return _decode(io.BytesIO(picture), "the picture")
    path = Path(picture).expanduser()
    if not path.exists():
        raise UserError(f"picture not found: {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a picture")
    try:
        with open(path, "rb") as file:
            return _decode(file, path)
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None


def _from_array(picture: np.ndarray) -> Image.Image:
    """An array of 8-bit levels, or of floats in [0, 1], as a picture."""
    plain = picture.ndim == 2 or picture.ndim == 3 and picture.shape[2] in (1, 3, 4)
    if picture.dtype != np.uint8:
        plain = plain and np.issubdtype(picture.dtype, np.floating)
        plain = plain and bool(picture.size and picture.min() >= 0 and picture.max() <= 1)
    if not plain:
        raise UserError(
            f"the picture is an array {picture.dtype} {list(picture.shape)}: give [H, W], "
            "[H, W, 3] or [H, W, 4] of uint8, or of floats between 0 and 1"
        )
    if picture.dtype != np.uint8:
        picture = np.rint(picture * 255).astype(np.uint8)
    return Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)


def _decode(file: IO[bytes], path: str | os.PathLike) -> Image.Image:
    """What an open file holds, upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on size and metadata
            image = Image.open(file)
            image.draft("RGB", (LARGEST, LARGEST))
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise UserError(
            f"{path} is not a picture: it is empty, text, or in a format that is not supported "
            "(use PNG, JPEG or WebP)"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels: reduce it to {LARGEST} a side") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}): save it again") from None


def _to_eight_bits(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """Any mode to 8 bits a channel in sRGB: L, LA, RGB or RGBA."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"{path} holds values that are not numbers")
        largest = 1.0 if values.max() <= 1 and image.mode == "F" else 255.0
        largest = 65535.0 if values.max() > 255 else largest
        return Image.fromarray(to_uint8(values / largest))
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        image = _to_srgb(image, profile)
    if image.mode == "P" or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("PA", "La", "RGBa"):
        return image.convert("RGBA" if image.mode != "La" else "LA").convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Applies an embedded colour profile; a profile that makes no sense is left out."""
    try:
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
            outputMode=mode,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def _limit(image: Image.Image, largest: int) -> Image.Image:
    """Reduces a picture whose longer side is above `largest` (Pillow multiplies by alpha)."""
    if max(image.size) <= largest:
        return image
    image = image.copy()
    image.thumbnail((largest, largest), Image.Resampling.BICUBIC)
    return image
