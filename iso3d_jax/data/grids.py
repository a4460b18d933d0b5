"""Pictures side by side, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from iso3d_jax.core.images import to_uint8

GAP = 4  # pixels of white between pictures


def tile(rows: Sequence[Sequence[np.ndarray]], cell: int | None = None) -> Image.Image:
    """Lays pictures out in rows.

    Args:
      rows: pictures [H, W, 3], float in [0, 1] or uint8, all square; rows may differ in length.
      cell: side of each picture in the result; the pictures' own if None.

    Returns:
      An RGB image.
    """
    side: int = cell or max(picture.shape[0] for row in rows for picture in row)
    columns = max(len(row) for row in rows)
    size = (columns * (side + GAP) + GAP, len(rows) * (side + GAP) + GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            image = to_image(picture)
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(image, (GAP + x * (side + GAP), GAP + y * (side + GAP)))
    return sheet


def untile(sheet: Image.Image, cell: int) -> list[list[np.ndarray]]:
    """The pictures [cell, cell, 3], uint8, of a sheet from `tile`; short rows end in white."""
    pixels = np.asarray(sheet.convert("RGB"))
    starts = [range(GAP, size - cell, cell + GAP) for size in pixels.shape[:2]]
    return [[pixels[y : y + cell, x : x + cell] for x in starts[1]] for y in starts[0]]


def to_image(picture: np.ndarray) -> Image.Image:
    """[H, W, 3], float in [0, 1] or uint8, to an RGB image."""
    return Image.fromarray(to_uint8(picture))
