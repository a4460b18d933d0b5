"""Pictures: the one place where floats become bytes, and where files of strangers are opened."""

import io
import os
from collections.abc import Sequence
from typing import IO

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image


class PictureFile(io.BufferedReader):
    """A file that is asked for no more bytes than it has.

    Decoders read as many as a length in the file says, and for those Python takes memory before
    it looks for them: four gigabytes for a flipped bit.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def find_occupied(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Rows and columns from the first to the last that have anything; empty of an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def open_as(file: IO[bytes] | io.BytesIO, formats: Sequence[str]) -> Image.Image:
    """What an open file says that it holds; little is decoded yet.

    Args:
      formats: Pillow's names of those that are tried, but for what Pillow was built without.

    Raises:
      whatever Pillow and its decoders raise on damaged files.
    """
    Image.init()
    return Image.open(file, formats=[name for name in formats if name in Image.OPEN])


def to_uint8(picture) -> UInt8[np.ndarray, "..."]:
    """Values in [0, 1], or beyond and then clipped, to the nearest of 256; bytes stay as they are.

    Args:
      picture: an array of any shape, NumPy's or JAX's.
    """
    picture = np.asarray(picture)
    if picture.dtype == np.uint8:
        return picture
    exact = np.promote_types(picture.dtype, np.float32)  # of bfloat16 the products are not
    return np.rint(np.clip(picture.astype(exact, copy=False), 0, 1) * 255).astype(np.uint8)
