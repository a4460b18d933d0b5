"""The CLIP vision tower (OpenCLIP's ViT; ViT-H/14 at full size) and its picture preparation.

Source: isotropic/ldm/modules/encoders/modules.py:259-420. The embedding is
ln_post(class token) @ proj, not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models.attention import attend
from iso3d_jax.models.layers import LayerOptions

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclass(frozen=True)
class CLIPConfig:
    """ViT-H/14, laion2b_s32b_b79k, unless told otherwise."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp_ratio: float = 4.0
    output_dim: int = 1024


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic kernel with PyTorch's a = -0.75."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] weights of PyTorch's bicubic resize with align_corners=True."""
    source = np.arange(size_out) * ((size_in - 1) / max(size_out - 1, 1))
    base = np.floor(source).astype(int)
    matrix = np.zeros((size_out, size_in))
    for offset in range(-1, 3):
        index = np.clip(base + offset, 0, size_in - 1)  # the border pixel repeats
        np.add.at(matrix, (np.arange(size_out), index), _cubic(source - (base + offset)))
    return matrix.astype(np.float32)


def resize_and_normalise(images: Float[Array, "N H W 3"], size: int) -> Float[Array, "N S S 3"]:
    """Pictures in [0, 1] resized bicubically in [-1, 1], then CLIP's mean and deviation."""
    rows = bicubic_matrix(images.shape[-3], size)
    columns = bicubic_matrix(images.shape[-2], size)
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("yh,nhwc->nywc", rows, images * 2.0 - 1.0, precision=exact)
    x = jnp.einsum("xw,nywc->nyxc", columns, x, precision=exact)
    return ((x + 1.0) / 2.0 - MEAN) / STD


class Block(nnx.Module):
    """Pre-norm attention and MLP with exact GELU."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, **kwargs: Unpack[LayerOptions]):
        self.heads = heads
        self.ln_1 = nnx.LayerNorm(width, epsilon=1e-5, **kwargs)
        self.qkv = nnx.Linear(width, 3 * width, **kwargs)
        self.out_proj = nnx.Linear(width, width, **kwargs)
        self.ln_2 = nnx.LayerNorm(width, epsilon=1e-5, **kwargs)
        self.c_fc = nnx.Linear(width, int(width * mlp_ratio), **kwargs)
        self.c_proj = nnx.Linear(int(width * mlp_ratio), width, **kwargs)

    def __call__(self, x: Float[Array, "N L C"]):
        n, length, width = x.shape
        qkv = self.qkv(self.ln_1(x)).reshape(n, length, 3, self.heads, width // self.heads)
        h = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape)
        x = x + self.out_proj(h)
        return x + self.c_proj(jax.nn.gelu(self.c_fc(self.ln_2(x)), approximate=False))


class ImageTower(nnx.Module):
    """What every image tower does: `__call__(pixels [N, S, S, 3]) -> embedding [N, D]`, float32."""

    config: Any
    dtype: Any

    def preprocess(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S S 3"]:
        """Pictures in [0, 1] on white as the tower takes them."""
        raise NotImplementedError

    def __call__(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N D"]:
        raise NotImplementedError

    def embed(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N D"]:
        """Pictures in [0, 1] on white to embeddings."""
        return self(self.preprocess(images))


class CLIPVisionTower(ImageTower):
    """`__call__(pixels [N, S, S, 3]) -> embedding [N, output_dim]`, float32."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        width, patch = config.width, config.patch_size
        self.config, self.dtype = config, dtype
        scale = width**-0.5
        tokens = (config.image_size // patch) ** 2 + 1
        normal = jax.random.normal
        self.conv1 = nnx.Conv(
            3, width, (patch, patch), strides=patch, padding="VALID", use_bias=False, **kwargs
        )
        self.class_embedding = nnx.Param(scale * normal(rngs.params(), (width,), param_dtype))
        self.positional_embedding = nnx.Param(
            scale * normal(rngs.params(), (tokens, width), param_dtype)
        )
        self.ln_pre = nnx.LayerNorm(width, epsilon=1e-5, **kwargs)
        self.blocks = nnx.List(
            [Block(width, config.heads, config.mlp_ratio, **kwargs) for _ in range(config.layers)]
        )
        self.ln_post = nnx.LayerNorm(width, epsilon=1e-5, **kwargs)
        self.proj = nnx.Param(
            scale * normal(rngs.params(), (width, config.output_dim), param_dtype)
        )

    def preprocess(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S S 3"]:
        """Pictures in [0, 1] on white to the tower's size and normalisation.

        Bicubic with align_corners=True and a = -0.75, as kornia's resize in the released code; its
        antialiasing blur is the identity from 256 to 224 (sigma 0.07).
        """
        return resize_and_normalise(images, self.config.image_size)

    def __call__(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N D"]:
        x = self.conv1(pixels.astype(self.dtype))
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [N, L, C]
        cls = jnp.broadcast_to(
            self.class_embedding[...].astype(self.dtype), (x.shape[0], 1, x.shape[-1])
        )
        x = jnp.concatenate([cls, x], 1) + self.positional_embedding[...].astype(self.dtype)
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        return (self.ln_post(x[:, 0]) @ self.proj[...].astype(self.dtype)).astype(jnp.float32)
