"""Timestep and camera embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from iso3d_jax.models.layers import LayerOptions


def timestep_embedding(t: Real[Array, "..."], dim: int) -> Float[Array, "... dim"]:
    """[cos | sin] of t at frequencies exp(-ln(1e4) i / (dim / 2)), float32.

    Source: ldm/modules/diffusionmodules/util.py:176-180.
    """
    half = dim // 2
    freqs = np.exp(-np.log(10000.0) * np.arange(half, dtype=np.float32) / half).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[..., None] * freqs
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class EmbeddingMLP(nnx.Module):
    """Linear - SiLU - Linear, as the released time and camera embeddings.

    The camera's is kept float32 whatever the compute type (reference: openaimodel.py:1197-1200;
    in bfloat16 the released camera vectors lose the azimuth).
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.linear_in = nnx.Linear(in_dim, dim, **kwargs)
        self.linear_out = nnx.Linear(dim, dim, **kwargs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        return self.linear_out(jax.nn.silu(self.linear_in(x)))
