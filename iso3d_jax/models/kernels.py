"""Which kernel computes which attention: one table, first match wins.

A kernel is chosen by what it can do: the device, the type, the width of a head, the lengths. What
no fused kernel takes goes to XLA, and where all scores at once would be large, in blocks of
queries.

==========  ========================================================================================
`splash`    TPUs, half precision, both lengths at least 1,024 and multiples of 128.
`cudnn`     NVIDIA GPUs of compute capability 8.0 and above, half precision, heads whose width is a
            multiple of 8, at most 128 and from capability 9.0 on at most 256. (jax's
            `check_is_flash_attention` has the same limits.)
`cores`     CPUs, one device: a head and a block of queries at a time, so that a block's scores
            stay in a core's cache.
`queries`   XLA, a block of queries of all heads at a time, where the scores would take more than
            `LARGE_SCORES` bytes of a device's memory.
`xla`       Everything else: all scores are written to memory.
==========  ========================================================================================
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from iso3d_jax.models import device, splash

CUDNN_WIDEST = {(8, 0): 128, (9, 0): 256}  # head, from this compute capability on
# On a CPU, attention of so many scores a head goes by blocks: more than three times as fast as the
# whole at 1024 tokens, four times at 4096, where the whole is read from memory at each step of the
# softmax.
LARGE_HEAD = 1 << 20
LARGE_SCORES = 1 << 28  # bytes of float32 scores of all heads at once
NAMES = ("splash", "cudnn", "cores", "queries", "xla")


class Shape(NamedTuple):
    """An attention: type, rows of the batch, queries, keys, heads and their width."""

    dtype: jnp.dtype
    rows: int
    length: int
    keys: int
    heads: int
    width: int

    @property
    def half(self) -> bool:
        """Whether the type is one that fused kernels take."""
        return self.dtype in (jnp.bfloat16, jnp.float16)

    @property
    def score_bytes(self) -> int:
        """Of all heads' scores in float32."""
        return 4 * self.rows * self.heads * self.length * self.keys


def choose(shape: Shape, target: device.Target | None = None, devices: int | None = None) -> str:
    """The kernel for an attention, one of `NAMES`.

    Args:
      shape: the attention's.
      target: what the program is for; what is being traced for if None.
      devices: that share the arrays; those of the mesh if None.
    """
    target = device.target() if target is None else target
    devices = jax.sharding.get_abstract_mesh().size if devices is None else devices
    if target.platform == "tpu" and shape.half and splash.fits(shape.length, shape.keys):
        return "splash"
    if shape.half and shape.width % 8 == 0 and shape.width <= widest_of_cudnn(target):
        return "cudnn"
    # The blocks are a loop over objects and heads, which a mesh would have divided among devices.
    if target.platform == "cpu":
        large = shape.length * shape.keys >= LARGE_HEAD
        return "cores" if large and (devices or 0) <= 1 else "xla"
    return "queries" if shape.score_bytes > LARGE_SCORES else "xla"


def widest_of_cudnn(target: device.Target) -> int:
    """The widest head that cuDNN's fused attention takes; 0 where there is none."""
    capability = target.capability
    if target.platform != "gpu" or capability is None:
        return 0
    fits = {least: width for least, width in CUDNN_WIDEST.items() if least <= capability}
    return max(fits.values(), default=0)


def block_of_queries(shape: Shape) -> int:
    """How many queries at a time keep the scores within `LARGE_SCORES`; a power of two >= 16."""
    one = 4 * shape.rows * shape.heads * shape.keys
    most = max(LARGE_SCORES // one, 16)
    return min(1 << (most.bit_length() - 1), shape.length)
