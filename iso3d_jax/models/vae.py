"""The KL autoencoder of latent diffusion (ldm/modules/diffusionmodules/model.py).

At full size it is Stable Diffusion's f8 autoencoder. GroupNorm epsilon is 1e-6, activations are
swish, downsampling pads right and bottom only, (0, 1, 0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models.attention import attend
from iso3d_jax.models.layers import GroupNorm, LayerOptions, conv


@dataclass(frozen=True)
class VAEConfig:
    """The released ddconfig.

    In every released model `num_groups` is 32 and `patch` 1. A larger patch folds patch x patch
    pixels into channels before the first convolution: the expensive full-resolution level goes,
    and the latent is smaller by the same factor.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    in_channels: int = 3
    out_ch: int = 3
    num_groups: int = 32
    patch: int = 1

    @property
    def factor(self) -> int:
        """Pixels to a latent's side."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)

    @property
    def latent_channels(self) -> int:
        return self.embed_dim


class Autoencoder(nnx.Module):
    """What every autoencoder does: pictures in [-1, 1] to latents and back, unscaled."""

    config: Any
    dtype: Any

    def encode(
        self, x: Float[Array, "N H W 3"]
    ) -> tuple[Float[Array, "N h w c"], Float[Array, "N h w c"]]:
        """Posterior mean and log-variance, float32."""
        raise NotImplementedError

    def decode(self, z: Float[Array, "N h w c"]) -> Float[Array, "N H W 3"]:
        """Pictures, float32, about [-1, 1]."""
        raise NotImplementedError


def encode_pictures(
    vae: Autoencoder, images: Float[Array, "N H W 3"]
) -> tuple[Float[Array, "N h w c"], Float[Array, "N h w c"]]:
    """Posterior mean and log-variance of pictures in [0, 1], float32, unscaled."""
    return vae.encode(images * 2.0 - 1.0)


def decode_pictures(vae: Autoencoder, z: Float[Array, "N h w c"]) -> Float[Array, "N H W 3"]:
    """Pictures of unscaled latents, float32, about [0, 1]: not clipped."""
    return vae.decode(z) * 0.5 + 0.5


def fold(x: Float[Array, "N H W C"], patch: int) -> Float[Array, "N h w D"]:
    """Space to depth: patch x patch pixels become channels."""
    n, height, width, c = x.shape
    x = x.reshape(n, height // patch, patch, width // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // patch, width // patch, -1)


def unfold(x: Float[Array, "N h w D"], patch: int) -> Float[Array, "N H W C"]:
    """Depth to space, the inverse of `fold`."""
    n, height, width, c = x.shape
    x = x.reshape(n, height, width, patch, patch, c // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height * patch, width * patch, -1)


class ResnetBlock(nnx.Module):
    """GroupNorm-swish-conv twice, plus the input."""

    def __init__(self, cin: int, cout: int, num_groups: int, **kwargs: Unpack[LayerOptions]):
        self.norm1 = GroupNorm(cin, num_groups, epsilon=1e-6, **kwargs)
        self.conv1 = conv(cin, cout, **kwargs)
        self.norm2 = GroupNorm(cout, num_groups, epsilon=1e-6, **kwargs)
        self.conv2 = conv(cout, cout, **kwargs)
        self.nin_shortcut = conv(cin, cout, 1, **kwargs) if cin != cout else None

    def __call__(self, x):
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nnx.Module):
    """Single-head self-attention over pixels, by 1x1 convolutions."""

    def __init__(self, channels: int, num_groups: int, **kwargs: Unpack[LayerOptions]):
        self.norm = GroupNorm(channels, num_groups, epsilon=1e-6, **kwargs)
        self.q = conv(channels, channels, 1, **kwargs)
        self.k = conv(channels, channels, 1, **kwargs)
        self.v = conv(channels, channels, 1, **kwargs)
        self.proj_out = conv(channels, channels, 1, **kwargs)

    def __call__(self, x):
        n, height, width, c = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(n, height * width, 1, c) for f in (self.q, self.k, self.v))
        h = attend(q, k, v).reshape(x.shape)
        return x + self.proj_out(h)


class Middle(nnx.Module):
    """ResnetBlock, attention, ResnetBlock."""

    def __init__(self, channels: int, num_groups: int, **kwargs: Unpack[LayerOptions]):
        self.block_1 = ResnetBlock(channels, channels, num_groups, **kwargs)
        self.attn_1 = AttnBlock(channels, num_groups, **kwargs)
        self.block_2 = ResnetBlock(channels, channels, num_groups, **kwargs)

    def __call__(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nnx.Module):
    """The residual blocks of one resolution and what leads to the next one."""

    def __init__(self, blocks: list, resample: nnx.Conv | None):
        self.block, self.resample = nnx.List(blocks), resample

    def __call__(self, x):
        for block in self.block:
            x = block(x)
        return x


class Encoder(nnx.Module):
    """Picture [N, H, W, 3] to the moments' features [N, H/f, W/f, 2 z_channels]."""

    def __init__(self, config: VAEConfig, **kwargs: Unpack[LayerOptions]):
        groups, channels = config.num_groups, config.ch
        self.patch = config.patch
        self.conv_in = conv(config.in_channels * config.patch**2, channels, **kwargs)
        levels = []
        for i, mult in enumerate(config.ch_mult):
            blocks = []
            for _ in range(config.num_res_blocks):
                blocks.append(ResnetBlock(channels, config.ch * mult, groups, **kwargs))
                channels = config.ch * mult
            last = i == len(config.ch_mult) - 1
            pad = ((0, 1), (0, 1))
            down = None if last else conv(channels, channels, stride=2, padding=pad, **kwargs)
            levels.append(Level(blocks, down))
        self.down = nnx.List(levels)
        self.mid = Middle(channels, groups, **kwargs)
        self.norm_out = GroupNorm(channels, groups, epsilon=1e-6, **kwargs)
        self.conv_out = conv(channels, 2 * config.z_channels, **kwargs)

    def __call__(self, x):
        x = self.conv_in(x if self.patch == 1 else fold(x, self.patch))
        for level in self.down:
            x = level(x)
            x = x if level.resample is None else level.resample(x)
        return self.conv_out(jax.nn.silu(self.norm_out(self.mid(x))))


class Decoder(nnx.Module):
    """Latents to a picture. `up` is stored from the finest level to the coarsest, as released."""

    def __init__(self, config: VAEConfig, **kwargs: Unpack[LayerOptions]):
        groups, channels = config.num_groups, config.ch * config.ch_mult[-1]
        self.conv_in = conv(config.z_channels, channels, **kwargs)
        self.mid = Middle(channels, groups, **kwargs)
        levels = []
        for i, mult in reversed(list(enumerate(config.ch_mult))):
            blocks = []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(ResnetBlock(channels, config.ch * mult, groups, **kwargs))
                channels = config.ch * mult
            levels.append(Level(blocks, conv(channels, channels, **kwargs) if i > 0 else None))
        self.up = nnx.List(levels[::-1])
        self.norm_out = GroupNorm(channels, groups, epsilon=1e-6, **kwargs)
        self.patch = config.patch
        self.conv_out = conv(channels, config.out_ch * config.patch**2, **kwargs)

    def __call__(self, z):
        x = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            x = level(x)
            if level.resample is not None:
                x = level.resample(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
        x = self.conv_out(jax.nn.silu(self.norm_out(x)))
        return x if self.patch == 1 else unfold(x, self.patch)


class AutoencoderKL(Autoencoder):
    """Pictures in [-1, 1] to latents and back; unscaled (multiply by `scale_factor` outside)."""

    def __init__(
        self,
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config, self.dtype = config, dtype
        self.encoder = Encoder(config, **kwargs)
        self.decoder = Decoder(config, **kwargs)
        self.quant_conv = conv(2 * config.z_channels, 2 * config.embed_dim, 1, **kwargs)
        self.post_quant_conv = conv(config.embed_dim, config.z_channels, 1, **kwargs)

    def encode(
        self, x: Float[Array, "N H W 3"]
    ) -> tuple[Float[Array, "N h w c"], Float[Array, "N h w c"]]:
        """Posterior mean and log-variance (clamped to [-30, 20]), float32."""
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, -1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z: Float[Array, "N h w c"]) -> Float[Array, "N H W 3"]:
        """Pictures, float32, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)


def sample_posterior(mean: Array, logvar: Array, noise: Array) -> Array:
    """mean + std * noise: the released code feeds posterior samples, not modes."""
    return mean + jnp.exp(0.5 * logvar) * noise
