"""New shapes from rendered views: objects made narrower or flatter, in every view alike.

Views are rendered upright round the vertical axis from low elevations, so a picture squeezed
towards its vertical axis shows an object that is narrower in both horizontal directions, and one
squeezed towards its horizontal axis a flatter object; exactly so for far cameras at elevation 0,
and nearly so at those of the data sets (0 to 30 degrees).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def draw_stretch(rng: np.random.Generator, strength: float) -> tuple[float, float]:
    """Horizontal and vertical scale; one of them is 1, so that the object stays in the frame."""
    ratio = float(np.exp(rng.uniform(-strength, strength)))
    return (1.0, ratio) if ratio < 1.0 else (1.0 / ratio, 1.0)


def stretch_views(
    views: UInt8[np.ndarray, "M H W 4"], scale: tuple[float, float]
) -> UInt8[np.ndarray, "M H W 4"]:
    """Scales pictures about their centre by (horizontal, vertical) factors of at most 1.

    Straight alpha in and out; what comes in from outside the frame is transparent.
    """
    if max(scale) > 1.0 or min(scale) <= 0.0:
        raise ValueError(f"scales must lie in (0, 1], not {scale}")
    if scale == (1.0, 1.0):
        return views
    height, width = views.shape[1:3]
    around = np.asarray([width / scale[0] - width, height / scale[1] - height]) / 2
    left, top = (int(n) for n in np.ceil(around))
    box: Float[np.ndarray, "4"] = np.asarray(
        [left - around[0], top - around[1], left + width + around[0], top + height + around[1]]
    )
    out = np.empty_like(views)
    for i, view in enumerate(views):
        padded = Image.fromarray(np.pad(view, ((top, top), (left, left), (0, 0))))
        # Pillow resamples RGBA with colours multiplied by alpha.
        resized = padded.resize((width, height), Image.Resampling.BICUBIC, box=tuple(box))
        out[i] = np.asarray(resized)
    return out
