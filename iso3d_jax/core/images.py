"""Pictures as numbers: the one place where floats become bytes."""

import numpy as np
from jaxtyping import UInt8


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
