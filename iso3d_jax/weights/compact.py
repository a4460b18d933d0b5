"""Weights a byte each: what a small package, or a slow line, wants.

A matrix or convolution becomes whole numbers from -127 to 127 and one float32 scale per output
channel (its last axis), 127 being the channel's largest weight. What is small anyway (biases,
norms, the camera's MLP and other matrices of few weights) is bfloat16. Networks compute in float
as ever.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

SCALE = ":scale"  # after the path of a weight that is stored as bytes
_FEW = 5000  # matrices of fewer weights are not worth the error


def pack(path: str, weight: Array | np.ndarray) -> dict[str, np.ndarray]:
    """A weight as it is stored: {path: bytes, path:scale: float32}, or {path: bfloat16}.

    On the host, where no shape of a weight is a program to compile.
    """
    weight = np.asarray(weight, np.float32)
    if weight.ndim < 2 or weight.size < _FEW or "/camera_embed/" in path:
        return {path: weight.astype(jnp.bfloat16)}
    largest = np.abs(weight).max(tuple(range(weight.ndim - 1)))
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    return {path: np.rint(weight / scale).astype(np.int8), path + SCALE: scale}


def unpack(whole: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A weight stored as bytes, int8 [..., C] and float32 [C], as float32 again."""
    return whole.astype(np.float32) * scale
