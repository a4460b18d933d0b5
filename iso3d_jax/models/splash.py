"""Attention on TPUs by the splash kernel, which never writes the L x L logits to memory.

A kernel is opaque to the compiler's partitioner, so on a mesh it runs inside a `shard_map`: every
device attends for its own objects and heads, nothing is exchanged.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

SHORTEST = 1024  # below it the logits are small, and XLA's own attention does as well
_BLOCKS = (512, 256, 128)  # of queries and keys


def fits(length: int, keys: int) -> bool:
    """Whether sequences of these lengths are for the kernel."""
    return min(length, keys) >= SHORTEST and length % 128 == keys % 128 == 0


def _kernel(heads: int, length: int, keys: int, interpret: bool):
    """The kernel of one shape. Its masks become part of the trace it is made in."""
    block_q = next(n for n in _BLOCKS if length % n == 0)
    block_kv = next(n for n in _BLOCKS if keys % n == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    mask = splash_attention_mask.FullMask((length, keys))
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )


def attend(
    q: Float[Array, "N L H D"],
    k: Float[Array, "N M H D"],
    v: Float[Array, "N M H D"],
    *,
    interpret: bool = False,
) -> Float[Array, "N L H D"]:
    """softmax(q k^T / sqrt(D)) v for lengths that `fits` accepts.

    Args:
      q, k, v: queries, keys and values; the first axis is split over the mesh's `data` and `fsdp`,
        heads over `tensor` where it divides them.
      interpret: run the kernel's steps one by one, on any device (for tests).
    """

    def local(q, k, v):
        kernel = _kernel(q.shape[2], q.shape[1], k.shape[1], interpret)
        q = q * q.shape[-1] ** -0.5
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q, k, v))  # [N, H, L, D]
        out = cast(jax.Array, jax.vmap(kernel)(q, k, v))  # without residuals it is the array alone
        return jnp.swapaxes(out, 1, 2).astype(v.dtype)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(q, k, v)
    # Within a shard_map over the batch only the heads are left to split.
    left = set(mesh.axis_names) - set(mesh.manual_axes)
    rows = tuple(axis for axis in ("data", "fsdp") if axis in left)
    if not left:
        return local(q, k, v)
    heads = "tensor" if "tensor" in left and q.shape[2] % mesh.shape["tensor"] == 0 else None
    spec = P(rows or None, None, heads, None)
    # The kernel does not say over which axes its results vary; they do as its operands do.
    return jax.shard_map(
        local, in_specs=(spec,) * 3, out_specs=spec, axis_names=left, check_vma=False
    )(q, k, v)
