"""What records may carry of each view beside its picture: depth, normals and albedo.

Depth is kept as 16 bits of where between the planes that touch the unit sphere a surface lies, so
to 1/30,000 of an object's radius; normals as 8 bits of each coordinate, so to half a degree.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from iso3d_jax.data.names import check_names

LAYERS = ("depth", "normals", "albedo")
_REACH = 1.05  # from the middle of the object
_MOST = 65534  # of depth; 0 is nothing


def check_layers(names: Collection[str]) -> tuple[str, ...]:
    """Names of layers, in their order.

    Raises:
      UserError: there is none of such a name.
    """
    return check_names("layer", names, LAYERS)


def encode_normals(normals: Float[np.ndarray, "*S 3"]) -> UInt8[np.ndarray, "*S 3"]:
    """Unit vectors as bytes, and zeros as zeros."""
    seen = normals.any(-1, keepdims=True)
    return np.where(seen, np.rint(127.5 * (normals + 1)), 0).astype(np.uint8)


def decode_normals(codes: UInt8[np.ndarray, "*S 3"]) -> Float[np.ndarray, "*S 3"]:
    """The inverse of `encode_normals`, of unit length."""
    vectors = codes.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(codes.any(-1, keepdims=True), vectors / np.maximum(length, 1e-6), 0)


def encode_depth(
    depth: Float[np.ndarray, "N H W"], distance: Float[np.ndarray, " N"]
) -> UInt16[np.ndarray, "N H W"]:
    """Depths as 16 bits; 0 is nothing.

    Args:
      distance: of the cameras from the object's middle.
    """
    share = (depth.astype(np.float64) - distance[:, None, None] + _REACH) / (2 * _REACH)
    codes = 1 + np.rint(np.clip(share, 0, 1) * _MOST)
    return np.where(depth > 0, codes, 0).astype(np.uint16)


def decode_depth(
    codes: UInt16[np.ndarray, "N H W"], distance: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N H W"]:
    """The inverse of `encode_depth`."""
    share = (codes.astype(np.float64) - 1) / _MOST
    depth = distance.astype(np.float64)[:, None, None] + _REACH * (2 * share - 1)
    return np.where(codes > 0, depth, 0).astype(np.float32)
