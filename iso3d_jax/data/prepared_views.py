"""Views of a data set prepared as people's pictures are, with their alpha, and fast.

`pictures.prepare_picture` composites on white. A view has to keep its alpha, since its colours are
changed before it is composited; what is transparent of the result is seen where the view painted
black is prepared too. Both are one resampling of four channels: on white, and 255 less alpha, which
is what black on white shows. What follows depends on two bytes alone, so it is a table. The bytes
are those that two calls of `prepare_picture` give (a test compares them), at a tenth of the time; a
view that a mode leaves as it is, is not resampled at all.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from iso3d_jax.core.images import find_occupied
from iso3d_jax.data.pictures import FILL, frame_about, prepare_picture, visible_box

LEAST = 127  # of alpha: a view without anything above it shows nothing


def prepare_views(images: UInt8[np.ndarray, "N H W 4"], mode: str) -> UInt8[np.ndarray, "N H H 4"]:
    """Straight RGBA of views as `mode` (`pictures.MODES`) prepares them; nothing stays nothing."""
    height, width = images.shape[1:3]
    square = height == width
    if mode == "framed" and square:
        return images.copy()
    out = np.zeros((len(images), height, height, 4), np.uint8)
    for view, prepared in zip(images, out, strict=True):
        if not (view[..., 3] > LEAST).any():
            continue
        if mode == "launch" and square:
            # Averages of single pixels; of what is transparent no colour is left.
            pixels = np.ascontiguousarray(view).view("<u4")
            np.multiply(pixels, pixels >> 24 > 0, out=prepared.view("<u4"))
        elif mode == "launch":
            prepared[:] = _by_two_pictures(view, height)
        else:
            prepared[:] = _resampled(view, height, mode)
    return out


def _resampled(view: UInt8[np.ndarray, "H W 4"], resolution: int, mode: str):
    """By Pillow's bicubic; 'CMYK' is four channels that it does not multiply by one of them."""
    height, width = view.shape[:2]
    if mode == "i2i":
        canvas, frame = _white_and_clear(view), (0, 0, width, height)
    else:
        box = visible_box(view[..., 3]) if mode == "centred" else (0, 0, width, height)
        canvas, frame = _framed(view, box, FILL if mode == "centred" else 1.0)
    rows, columns = canvas.shape[:2]
    picture = Image.frombuffer("CMYK", (columns, rows), canvas, "raw", "CMYK", 0, 1)
    size = (resolution, resolution)
    seen = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=frame))
    out = np.zeros_like(seen)
    part = find_occupied(seen[..., 3] < 255)  # elsewhere nothing is nothing
    clear = seen[part][..., 3]
    row = clear.astype(np.intp)[..., None] << 8
    out[part][..., :3] = _straight()[row | seen[part][..., :3]]
    np.subtract(255, clear, out=out[part][..., 3])
    return out


def _framed(view, box, fill: float):
    """What `pictures._cut` resamples of a view, and from where to where in it."""
    frame = frame_about(box, fill, *view.shape[:2])
    canvas = np.full((*frame.canvas, 4), 255, np.uint8)
    part, shown = canvas[frame.inside], view[frame.shown]
    occupied = find_occupied(shown[..., 3] > 0)  # the rest is white already
    part[occupied] = _white_and_clear(shown[occupied])
    return canvas, frame.box


def _white_and_clear(view: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 4"]:
    """RGB on white to the nearest level, as `pictures._on_white` rounds, and 255 less alpha."""
    out = np.empty(view.shape, np.uint8)
    np.subtract(255, view[..., 3], out=out[..., 3])
    alpha = view[..., 3:].astype(np.uint16)
    x = view[..., :3] * alpha
    x += 255 * (255 - alpha) + 128
    x += x >> 8  # and then by 256: a division by 255 to the nearest, in 16 bits
    out[..., :3] = x >> 8
    return out


@functools.cache
def _straight() -> UInt8[np.ndarray, " 65536"]:
    """Straight colour by 256 times (255 less alpha) and the colour on white.

    In float32 and in this order, as of a picture that `prepare_picture` gave.
    """
    share = np.arange(256, dtype=np.uint8).astype(np.float32) / 255
    alpha = (1.0 - share)[:, None]
    colour = share[None] - (1.0 - alpha)
    straight = np.where(alpha > 1e-3, colour / np.maximum(alpha, 1e-3), 0.0)
    return np.clip(straight * 255 + 0.5, 0, 255).astype(np.uint8).ravel()


def _by_two_pictures(view: UInt8[np.ndarray, "H W 4"], resolution: int):
    """A stretched view: `prepare_picture` of it and of it painted black."""
    black = np.concatenate([np.zeros_like(view[..., :3]), view[..., 3:]], -1)
    alpha = 1.0 - prepare_picture(black, resolution, "launch")[..., :1]
    colour = prepare_picture(view, resolution, "launch") - (1.0 - alpha)
    straight = np.where(alpha > 1e-3, colour / np.maximum(alpha, 1e-3), 0.0)
    return np.clip(np.concatenate([straight, alpha], -1) * 255 + 0.5, 0, 255).astype(np.uint8)
