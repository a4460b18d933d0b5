"""Attention blocks of the UNet. Explicit Multi-view Attention (EMA) lives here.

The paper's EMA is the multi-view self-attention itself, run over the noisy views together with
the noise-free reference view: the reference is one more view whose timestep is 0, so its tokens
join every other view's keys and values (paper, Figures 2 and 3). Nothing in the block changes:
`JointAttentionBlock` sees V + 1 views in stage 2 and V at inference.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models import kernels, splash
from iso3d_jax.models.layers import GroupNorm, LayerOptions

CORE_BLOCK = 128  # queries; at 4096 keys a block of scores is 2 MB


def attend(
    q: Float[Array, "N L H D"], k: Float[Array, "N M H D"], v: Float[Array, "N M H D"]
) -> Float[Array, "N L H D"]:
    """softmax(q k^T / sqrt(D)) v by the kernel that `kernels.choose` names."""
    (n, length, heads, width), keys = q.shape, k.shape[1]
    shape = kernels.Shape(q.dtype, n, length, keys, heads, width)
    kernel = kernels.choose(shape)
    if kernel == "splash":
        return splash.attend(q, k, v)
    if kernel == "cores":
        return attend_by_cores(q, k, v)
    if kernel == "queries":
        return attend_by_queries(q, k, v, block=kernels.block_of_queries(shape))
    return jax.nn.dot_product_attention(
        q, k, v, implementation="cudnn" if kernel == "cudnn" else "xla"
    )


def attend_by_queries(
    q: Float[Array, "N L H D"],
    k: Float[Array, "N M H D"],
    v: Float[Array, "N M H D"],
    *,
    block: int,
) -> Float[Array, "N L H D"]:
    """`attend`, `block` queries of all rows and heads at a time.

    The backward pass computes a block's scores again instead of keeping them all.
    """
    n, length, heads, width = q.shape
    blocks = -(-length // block)
    q = jnp.pad(q, ((0, 0), (0, blocks * block - length), (0, 0), (0, 0)))
    q = jnp.moveaxis(q.reshape(n, blocks, block, heads, width), 1, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one_block(queries):
        return jax.nn.dot_product_attention(queries, k, v, implementation="xla")

    out = jnp.moveaxis(jax.lax.map(one_block, q), 0, 1)  # [N, blocks, block, H, D]
    return out.reshape(n, blocks * block, heads, width)[:, :length]


def attend_by_cores(
    q: Float[Array, "N L H D"], k: Float[Array, "N M H D"], v: Float[Array, "N M H D"]
) -> Float[Array, "N L H D"]:
    """`attend`, one head and `CORE_BLOCK` queries at a time; scores and softmax in float32.

    The backward pass computes a block's scores again instead of keeping them all.
    """
    (n, length, heads, dim), m = q.shape, k.shape[1]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    blocks, scale = -(-length // CORE_BLOCK), dim**-0.5
    q = jnp.pad(q, ((0, 0), (0, blocks * CORE_BLOCK - length), (0, 0), (0, 0)))
    q = q.swapaxes(1, 2).reshape(n * heads, blocks, CORE_BLOCK, dim)
    k = k.transpose(0, 2, 3, 1).reshape(n * heads, dim, m)
    v = v.swapaxes(1, 2).reshape(n * heads, m, dim)

    def one_head(qkv):
        queries, keys, values = qkv  # [blocks, CORE_BLOCK, D], [D, M], [M, D]

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def one_block(block):
            scores = jnp.matmul(block, keys, preferred_element_type=wide) * scale  # [block, M]
            p = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
            out = jnp.matmul(p.astype(values.dtype), values, preferred_element_type=wide)
            return (out / p.sum(-1, keepdims=True)).astype(values.dtype)

        return jax.lax.map(one_block, queries)

    out = jax.lax.map(one_head, (q, k, v)).reshape(n, heads, blocks * CORE_BLOCK, dim)
    return out[:, :, :length].swapaxes(1, 2)


class Attention(nnx.Module):
    """Multi-head attention with bias-free projections and a biased output (CrossAttention)."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        inner = num_heads * head_dim
        self.num_heads, self.head_dim = num_heads, head_dim
        self.to_q = nnx.Linear(dim, inner, use_bias=False, **kwargs)
        self.to_k = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_v = nnx.Linear(context_dim, inner, use_bias=False, **kwargs)
        self.to_out = nnx.Linear(inner, dim, **kwargs)

    def __call__(self, x: Float[Array, "N L C"], context: Float[Array, "N M E"] | None = None):
        """Self-attention without `context`, cross-attention with it."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        heads = (self.num_heads, self.head_dim)
        q, k, v = (a.reshape(*a.shape[:2], *heads) for a in (q, k, v))
        out = attend(q, k, v)
        return self.to_out(out.reshape(*out.shape[:2], -1))

    def attend_one_token(self, token: Float[Array, "N 1 E"]) -> Float[Array, "N 1 C"]:
        """What cross-attention to a single token gives every query: W_o W_v c + b_o.

        The softmax over one key is 1, whatever the query. `to_q` and `to_k` are then dead weights,
        kept for the layout's sake.
        """
        return self.to_out(self.to_v(token))


class GEGLUFeedForward(nnx.Module):
    """Linear to 2 x 4C, x * gelu(gate) with the exact erf gelu, linear back (attention.py:56)."""

    def __init__(
        self,
        dim: int,
        mult: int = 4,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.proj_in = nnx.Linear(dim, 2 * mult * dim, **kwargs)
        self.proj_out = nnx.Linear(mult * dim, dim, **kwargs)

    def __call__(self, x):
        value, gate = jnp.split(self.proj_in(x), 2, -1)
        return self.proj_out(value * jax.nn.gelu(gate, approximate=False))


class JointAttentionBlock(nnx.Module):
    """Self-attention over all views' tokens, cross-attention to the context, feed-forward.

    Source: BasicTransformerBlock3D, isotropic/ldm/modules/attention.py:343-354. The views are
    unfolded into one sequence, b (v l) c, around the self-attention alone.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.attn1 = Attention(dim, dim, num_heads, head_dim, **kwargs)
        self.attn2 = Attention(dim, context_dim, num_heads, head_dim, **kwargs)
        self.ff = GEGLUFeedForward(dim, **kwargs)
        self.norm1 = nnx.LayerNorm(dim, epsilon=1e-5, **kwargs)
        self.norm2 = nnx.LayerNorm(dim, epsilon=1e-5, **kwargs)
        self.norm3 = nnx.LayerNorm(dim, epsilon=1e-5, **kwargs)

    def __call__(
        self,
        x: Float[Array, "BV L C"],
        context: Float[Array, "BV M E"] | None,
        constant: Float[Array, "BV 1 C"] | None,
        num_views: int,
    ):
        """One of `context` (tokens) and `constant` (the folded cross-attention) is given."""
        n, length, dim = x.shape
        joint = x.reshape(n // num_views, num_views * length, dim)  # [B, V*L, C]
        joint = joint + self.attn1(self.norm1(joint))
        x = joint.reshape(n, length, dim)  # [B*V, L, C]
        x = x + (self.attn2(self.norm2(x), context) if constant is None else constant)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """GroupNorm, linear in, transformer blocks over the pixels, linear out, residual."""

    def __init__(
        self,
        channels: int,
        context_dim: int,
        num_heads: int,
        head_dim: int,
        depth: int,
        *,
        num_groups: int = 32,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        inner = num_heads * head_dim
        self.norm = GroupNorm(channels, num_groups, epsilon=1e-6, **kwargs)
        self.proj_in = nnx.Linear(channels, inner, **kwargs)
        self.blocks = nnx.List(
            [
                JointAttentionBlock(inner, context_dim, num_heads, head_dim, **kwargs)
                for _ in range(depth)
            ]
        )
        # Zero at birth, as in the released code: a fresh transformer is the identity.
        self.proj_out = nnx.Linear(inner, channels, kernel_init=nnx.initializers.zeros, **kwargs)

    def fold(self, token: Float[Array, "N 1 E"]) -> tuple[Float[Array, "N 1 C"], ...]:
        """The cross-attention of each block, for a context of one token."""
        return tuple(block.attn2.attend_one_token(token) for block in self.blocks)

    def __call__(
        self,
        x: Float[Array, "BV H W C"],
        context: Float[Array, "BV M E"] | tuple[Float[Array, "BV 1 C"], ...],
        num_views: int,
    ):
        """`context` is tokens, or the folded cross-attention of each block."""
        n, height, width, _ = x.shape
        h = self.proj_in(self.norm(x)).reshape(n, height * width, -1)  # [B*V, L, C]
        for i, block in enumerate(self.blocks):
            if isinstance(context, tuple):
                h = block(h, None, context[i], num_views)
            else:
                h = block(h, context, None, num_views)
        return x + self.proj_out(h).reshape(x.shape)
