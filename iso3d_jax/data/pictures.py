"""Pictures from people: read them, refuse the hopeless ones kindly, and fit them to the model.

`load_picture` gives RGBA, whatever the file held (picture_files.py); what is not transparent gets
its background removed (background.py).

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

import math
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import find_occupied
from iso3d_jax.data import background
from iso3d_jax.data.picture_files import SMALLEST, PictureSource, picture_name, read_image

LARGEST = 4096  # longer side; larger pictures are reduced when they are read
FILL = 0.85  # of the frame, for 'centred'
VISIBLE = 25  # alpha above this (of 255) counts as part of the object
SPECK = 0.01  # of the largest piece's area: a smaller one is dust
MODES = ("centred", "framed", "launch", "i2i")


def load_picture(
    picture: PictureSource, *, remove_background: str = "auto", matting_model: str | None = None
) -> np.ndarray:
    """Reads a picture of one object as RGBA.

    Args:
      picture: a file (PNG, JPEG, WebP and others, of any mode), its bytes, a Pillow image, or an
        array [H, W], [H, W, 3] or [H, W, 4] of uint8 or of floats in [0, 1].
      remove_background: how, a name of `data.background.BACKGROUNDS`.
      matting_model: an ONNX file, in place of that of the extra `matting`.

    Returns:
      uint8 [H, W, 4], upright, sRGB, colours not multiplied by alpha; specks of alpha beside the
      object are gone.

    Raises:
      UserError: no such file, not a picture, damaged, too small, nothing visible in it, or a
        background that cannot be removed.
    """
    if remove_background not in background.BACKGROUNDS:
        names = ", ".join(background.BACKGROUNDS)
        raise UserError(f"remove_background '{remove_background}': there are {names}")
    name = picture_name(picture)
    rgba = np.asarray(read_image(picture, LARGEST).convert("RGBA"))
    if rgba[..., 3].max() <= VISIBLE:
        raise UserError(f"{name} is fully transparent: there is no object to see in it")
    rgba = background.remove_background(
        rgba, remove_background, name=name, matting_model=matting_model
    )
    rgba = _without_specks(rgba)
    x0, y0, x1, y1 = visible_box(rgba[..., 3])
    if max(x1 - x0, y1 - y0) < SMALLEST:
        raise UserError(
            f"the visible part of {name} is only {x1 - x0}x{y1 - y0} pixels: the object must be "
            f"at least {SMALLEST} pixels large"
        )
    return np.ascontiguousarray(rgba)


def _without_specks(rgba: np.ndarray) -> np.ndarray:
    """Clears what lies outside the box of the object's pieces, which would make the frame larger.

    A piece below a hundredth of the largest one is a speck. Within the box it stays: there it
    costs nothing, and may be a button or a screw.
    """
    labels: np.ndarray = np.asarray(ndimage.label(rgba[..., 3] > VISIBLE, np.ones((3, 3)))[0])  # type: ignore[index]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= SPECK * sizes.max()
    if large[1:].all():
        return rgba
    x0, y0, x1, y1 = visible_box(np.where(np.take(large, labels), 255, 0))
    cleared = rgba.copy()
    cleared[..., 3] = 0
    cleared[y0:y1, x0:x1, 3] = rgba[y0:y1, x0:x1, 3]
    return cleared


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
        image = Image.fromarray(_on_white(rgba))
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
        return np.asarray(image, np.float32) / 255
    raise ValueError(f"unknown picture preparation '{mode}': one of {', '.join(MODES)}")


def visible_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box x0, y0, x1, y1 (exclusive) of what is visible in uint8 alpha [H, W]."""
    rows, columns = find_occupied(alpha > VISIBLE)
    if not columns.stop:
        raise UserError("the picture is fully transparent: there is no object to see in it")
    return columns.start, rows.start, columns.stop, rows.stop


class Frame(NamedTuple):
    """A square about a box, and the whole pixels that it touches, the canvas.

    Attributes:
      canvas: its height and width.
      inside: where of the canvas the picture is.
      shown: what of the picture is there.
      box: the square in the canvas, at fractions of a pixel: left, top, right, bottom.
    """

    canvas: tuple[int, int]
    inside: tuple[slice, slice]
    shown: tuple[slice, slice]
    box: tuple[float, float, float, float]


def frame_about(box: tuple[int, int, int, int], fill: float, height: int, width: int) -> Frame:
    """The square about a box's centre, of which its longer side is the share `fill`."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) / fill
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    fx0, fy0 = math.floor(left), math.floor(top)
    fx1, fy1 = math.ceil(left + side), math.ceil(top + side)
    cx0, cy0, cx1, cy1 = max(fx0, 0), max(fy0, 0), min(fx1, width), min(fy1, height)
    return Frame(
        (fy1 - fy0, fx1 - fx0),
        (slice(cy0 - fy0, cy1 - fy0), slice(cx0 - fx0, cx1 - fx0)),
        (slice(cy0, cy1), slice(cx0, cx1)),
        (left - fx0, top - fy0, left - fx0 + side, top - fy0 + side),
    )


def _cut(
    rgba: np.ndarray, box: tuple[int, int, int, int], fill: float, resolution: int
) -> np.ndarray:
    """A square about a box's centre, of which its longer side is the share `fill`.

    Compositing on white and resampling are both linear, so white comes first; this is the same
    as resampling colours multiplied by alpha. The frame is cut at fractions of a pixel.
    """
    frame = frame_about(box, fill, *rgba.shape[:2])
    canvas = np.full((*frame.canvas, 3), 255, np.uint8)
    canvas[frame.inside] = _on_white(rgba[frame.shown])
    image = Image.fromarray(canvas).resize(
        (resolution, resolution), Image.Resampling.BICUBIC, box=frame.box
    )
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
