"""A small convolutional image tower, for models that have no CLIP to start from.

A vision transformer trained on a few hundred objects learns colours long before it sees which way
an object faces. Convolutions whose last map is flattened, not averaged, keep where things are in
the picture, which is what the pose is read from.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from iso3d_jax.models.clip import resize_and_normalise
from iso3d_jax.models.layers import GroupNorm, conv

COARSE = 8  # side of the picture whose pixels enter the embedding linearly


@dataclass(frozen=True)
class ConvTowerConfig:
    """Numbers of the tower; `widths` are the channels at 1/4, 1/8 and 1/16 of the picture."""

    image_size: int = 64
    patch_size: int = 4
    widths: tuple[int, ...] = (48, 96, 192)
    hidden: int = 384
    num_groups: int = 16
    output_dim: int = 128


class _Residual(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, width: int, num_groups: int, **kwargs):
        self.norm_in = GroupNorm(width, num_groups, epsilon=1e-5, **kwargs)
        self.conv_in = conv(width, width, **kwargs)
        self.norm_out = GroupNorm(width, num_groups, epsilon=1e-5, **kwargs)
        self.conv_out = conv(width, width, zero=True, **kwargs)

    def __call__(self, x):
        h = self.conv_in(jax.nn.silu(self.norm_in(x)))
        return x + self.conv_out(jax.nn.silu(self.norm_out(h)))


class ConvTower(nnx.Module):
    """`__call__(pixels [N, S, S, 3]) -> embedding [N, output_dim]`, float32."""

    def __init__(
        self, config: ConvTowerConfig, *, rngs: nnx.Rngs, dtype=jnp.float32, param_dtype=jnp.float32
    ):
        kwargs = dict(rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.config, self.dtype = config, dtype
        patch, groups = config.patch_size, config.num_groups
        self.stem = nnx.Linear(3 * patch**2, config.widths[0], **kwargs)
        levels, channels = [], config.widths[0]
        for i, width in enumerate(config.widths):
            if i:
                levels.append(conv(channels, width, stride=2, **kwargs))
            levels.append(_Residual(width, groups, **kwargs))
            channels = width
        self.levels = nnx.List(levels)
        self.norm = GroupNorm(channels, groups, epsilon=1e-5, **kwargs)
        side = config.image_size // patch // 2 ** (len(config.widths) - 1)
        self.hidden = nnx.Linear(side * side * channels, config.hidden, **kwargs)
        self.out = nnx.Linear(config.hidden, config.output_dim, **kwargs)
        self.layout = nnx.Linear(3 * COARSE**2, config.output_dim, **kwargs)

    def preprocess(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S S 3"]:
        """Pictures in [0, 1] on white to the tower's size and normalisation."""
        return resize_and_normalise(images, self.config.image_size)

    def __call__(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N D"]:
        n, size, _, channels = pixels.shape
        p = self.config.patch_size
        x = pixels.reshape(n, size // p, p, size // p, p, channels).swapaxes(2, 3)
        x = self.stem(x.reshape(n, size // p, size // p, -1).astype(self.dtype))
        for level in self.levels:
            x = level(x)
        x = jax.nn.silu(self.norm(x)).reshape(n, -1)
        x = self.out(jax.nn.silu(self.hidden(x)))
        coarse = pixels.reshape(n, COARSE, size // COARSE, COARSE, size // COARSE, channels)
        coarse = coarse.mean((2, 4)).reshape(n, -1).astype(self.dtype)
        return (x + self.layout(coarse)).astype(jnp.float32)

    def embed(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N D"]:
        """Pictures in [0, 1] on white to embeddings."""
        return self(self.preprocess(images))
