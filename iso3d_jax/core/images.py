"""Pictures: the one place where floats become bytes, and where files of strangers are opened."""

import io
from collections.abc import Sequence
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image


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
