"""An object's views as bytes of a record: one picture a view, so that some are decoded alone.

A row of a batch shows five views of twenty-four, and decoding is what reading pictures costs. So
the bytes are a table of contents and then each view's own file, of the box in which it is not all
zeros:

    MARK, count, height, width                    little-endian, 16 bytes
    count times: y, x, height, width, length      of the box and its file; zeros of an empty view
    the files one after another

A file is lossless WebP, which is smaller than PNG, read in three quarters of the time and written
in half of it; of 16 bits, which WebP has not, PNG. Views are RGBA, RGB, or grey of 16 bits. Where
it is asked for, WebP loses something of the colours, for data that have to be small
(`data/packed.py`).
`decode_views` also reads PNG of any view, and the strips of before, one PNG with all views side by
side.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from iso3d_jax.core.images import find_occupied, open_as
from iso3d_jax.data.layers import LAYERS

MARK = b"I3V1"
_HEAD = struct.Struct("<4sIII")
_ENTRY = struct.Struct("<IIIII")
MODES = {"RGBA": ((4,), np.uint8), "RGB": ((3,), np.uint8), "I;16": ((), np.uint16)}
_PNG = b"\x89PNG"
# `exact` keeps colours under no alpha. More effort takes ten times as long for a tenth of the size.
_WEBP: dict[str, Any] = dict(lossless=True, exact=True, method=0, quality=80)
_LOSSY: dict[str, Any] = dict(method=4, alpha_quality=100)


def encode_views(
    images: UInt8[np.ndarray, "N H W C"] | UInt16[np.ndarray, "N H W"],
    png: bool = False,
    quality: int | None = None,
) -> bytes:
    """Views of straight RGBA, RGB or 16 bits, lossless to the last byte.

    Args:
      png: as PNG in any case.
      quality: of WebP that loses something of the colours, 0 to 100; alpha is kept. None is
        lossless.
    """
    webp = _WEBP if quality is None else _LOSSY | {"quality": quality}
    png = png or images.dtype != np.uint8
    entries, pictures = [], []
    for view in images:
        seen = view.any(-1) if view.ndim == 3 else view > 0
        rows, columns = find_occupied(seen)
        if not rows.stop:
            entries.append((0, 0, 0, 0, 0))
            continue
        buffer, cut = io.BytesIO(), np.ascontiguousarray(view[rows, columns])
        picture = Image.fromarray(cut)
        if png:
            picture.save(buffer, "PNG")
        else:
            picture.save(buffer, "WEBP", **webp)
        pictures.append(buffer.getvalue())
        entries.append((rows.start, columns.start, *cut.shape[:2], len(pictures[-1])))
    head = _HEAD.pack(MARK, *images.shape[:3])
    return b"".join([head, *(_ENTRY.pack(*entry) for entry in entries), *pictures])


def decode_views(
    data: bytes, count: int, views: Sequence[int] | None = None, mode: str = "RGBA"
) -> np.ndarray:
    """Some views of an object.

    Args:
      data: what `encode_views` gave, or a strip of before.
      count: how many views the object has.
      views: which; all if None. Of a strip all are decoded in any case.
      mode: what they are, by Pillow's name, a key of `MODES`.

    Returns:
      As `encode_views` takes them.

    Raises:
      ValueError, OSError, SyntaxError: damaged bytes.
    """
    views = range(count) if views is None else views
    if data[:4] == _PNG:
        strip = np.asarray(open_as(io.BytesIO(data), ["PNG"]).convert("RGBA"))
        height, width = strip.shape[0], strip.shape[1] // count
        return np.ascontiguousarray(strip.reshape(height, count, width, 4).swapaxes(0, 1)[views])
    if len(data) < _HEAD.size + count * _ENTRY.size:
        raise ValueError("the views' table of contents is cut off")
    mark, there, height, width = _HEAD.unpack_from(data)
    if mark != MARK or there != count:
        raise ValueError("the bytes are no views of this object")
    entries = [_ENTRY.unpack_from(data, _HEAD.size + k * _ENTRY.size) for k in range(count)]
    starts = np.cumsum([_HEAD.size + count * _ENTRY.size] + [entry[-1] for entry in entries])
    tail, dtype = MODES[mode]
    out = np.zeros((len(views), height, width, *tail), dtype)
    for row, view in zip(out, views, strict=True):
        y, x, h, w, length = entries[view]
        if not length:
            continue
        start = int(starts[view])
        picture = open_as(io.BytesIO(data[start : start + length]), ["WEBP", "PNG"])
        if mode == "RGBA" and picture.mode == "RGB" and picture.format == "WEBP":
            picture = picture.convert("RGBA")  # WebP keeps no alpha that is 255 everywhere
        if picture.mode != mode or picture.size != (w, h):
            raise ValueError(f"view {view} has a picture of another kind or size")
        row[y : y + h, x : x + w] = np.asarray(picture)
    return out


def read_stored(dataset: Any, index: int) -> dict[str, Any]:
    """A record of `open_dataset` with its views as they are stored, under `strip`; no layers.

    Raises:
      whatever the file's reader raises on damaged bytes.
    """
    stored = dict(dataset._source[int(index)])
    strip = stored.pop("strip")
    return {
        key: value.decode() if isinstance(value, bytes) else np.asarray(value)
        for key, value in stored.items()
        if key not in LAYERS
    } | {"strip": strip}
