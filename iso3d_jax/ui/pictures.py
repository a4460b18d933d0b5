"""Pictures that people upload: checked and cut out as every picture is, and mended by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import parse_json
from iso3d_jax.data import matting
from iso3d_jax.data.background import LARGEST
from iso3d_jax.data.picture_files import read_image
from iso3d_jax.data.pictures import load_picture

MOST_POINTS = 100_000  # of all strokes of a brush


def read_upload(file: Path, most_bytes: int) -> Image.Image:
    """The picture in a file that somebody uploaded: RGBA, at most 2048 pixels long.

    Raises:
      UserError: too large, or no picture.
    """
    try:
        size = file.stat().st_size
        data = file.read_bytes() if size <= most_bytes else b""
    except OSError as error:
        raise UserError(f"the picture cannot be read: {error.strerror}; give it again") from None
    if size > most_bytes:
        raise UserError(
            f"the picture is a file of {size / 1e6:.3g} MB, and {most_bytes / 1e6:.3g} MB are as "
            "much as may be: save it smaller, as JPEG for example"
        )
    return read_image(data, LARGEST).convert("RGBA")


def cut_out(
    original: Image.Image, background: str, matting_model: str | None = None
) -> UInt8[np.ndarray, "H W 4"]:
    """The object of a picture; see `data.pictures.load_picture`."""
    return load_picture(original, remove_background=background, matting_model=matting_model)


def can_matte(matting_model: str | None) -> bool:
    """Whether objects can be cut out of busy backgrounds here."""
    try:
        matting.find_model(matting_model)
    except UserError:
        return False
    return True


def brush(
    cutout: UInt8[np.ndarray, "H W 4"], original: Image.Image, strokes: Any
) -> UInt8[np.ndarray, "H W 4"]:
    """Takes away or brings back what a brush went over.

    Args:
      cutout: the object; what is transparent is the background.
      original: the picture as it was, from which is brought back; resized to the cut-out.
      strokes: from the page, JSON or what it says: a list of {"keep": bool, "size": of the brush
        as a share of the picture's width, "points": [[x, y], ...] as shares of width and height}.

    Raises:
      UserError: strokes that are none, or nothing that is left of the object.
    """
    height, width = cutout.shape[:2]
    mended = cutout.copy()
    source = np.asarray(original.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    for keep, size, points in _read_strokes(strokes):
        mask = Image.new("L", (width, height), 0)
        pen, radius = ImageDraw.Draw(mask), max(1.0, size * width / 2)
        path = [(x * width, y * height) for x, y in points]
        pen.line(path, 255, round(2 * radius), joint="curve")
        for x, y in path:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
        touched = np.asarray(mask) > 0
        if keep:
            back = touched & (mended[..., 3] < 255)
            mended[back, :3] = source[back]
        mended[touched, 3] = 255 if keep else 0
    if mended[..., 3].max() == 0:
        raise UserError("nothing of the object would be left: bring back what is to be seen")
    return mended


def _read_strokes(strokes: Any) -> list[tuple[bool, float, list[tuple[float, float]]]]:
    wrong = UserError("these strokes of the brush make no sense: draw them again")
    try:
        strokes = parse_json(strokes) if isinstance(strokes, str) else strokes
        json.dumps(strokes, allow_nan=False)
        found = []
        for stroke in strokes:
            points = [(float(x), float(y)) for x, y in stroke["points"]]
            size = float(stroke["size"])
            inside = all(-1 <= value <= 2 for point in points for value in point)
            if not inside or not 0 < size <= 1 or not math.isfinite(size) or not points:
                raise wrong
            found.append((bool(stroke["keep"]), size, points))
    except (ValueError, TypeError, KeyError):
        raise wrong from None
    if sum(len(points) for _, _, points in found) > MOST_POINTS:
        raise UserError("these are more strokes than a brush may make: press the button earlier")
    return found
