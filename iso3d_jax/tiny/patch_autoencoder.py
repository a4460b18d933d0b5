"""A small autoencoder for models that have no pretrained one to start from.

Its encoder is fixed: each patch of the picture, as large as the latent's factor, in its principal
components over the training pictures. What a few hundred objects and a CPU can train is the way
back, so all training goes there: the components drawn again, plus what a convolutional decoder
(that of `models/vae.py`) adds from a place's neighbours. It starts where a convolutional encoder
and decoder, trained together from nothing, were not after forty minutes, and its latents suit a
denoiser: they are linear in the picture, and an error counts in them as it does in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models.layers import LayerOptions
from iso3d_jax.models.vae import Autoencoder, Decoder, VAEConfig, fold, unfold

# Of the posterior: a deviation of 0.05 where the latents have about 1.
LOG_VARIANCE = -6.0
WHITE = 1.0  # the background's value; latents of an empty patch are zero


@dataclass(frozen=True)
class PatchAutoencoderConfig:
    """`components` numbers for each patch of `side` x `side` pixels; the rest is the decoder's."""

    components: int = 8
    ch: int = 64
    ch_mult: tuple[int, ...] = (1, 1)
    num_res_blocks: int = 1
    num_groups: int = 16
    patch: int = 4
    out_ch: int = 3

    @property
    def side(self) -> int:
        return self.patch * 2 ** (len(self.ch_mult) - 1)

    @property
    def factor(self) -> int:
        """Pixels to a latent's side."""
        return self.side

    @property
    def latent_channels(self) -> int:
        return self.components

    def decoder(self) -> VAEConfig:
        return VAEConfig(
            ch=self.ch,
            ch_mult=self.ch_mult,
            num_res_blocks=self.num_res_blocks,
            z_channels=self.components,
            embed_dim=self.components,
            out_ch=self.out_ch,
            num_groups=self.num_groups,
            patch=self.patch,
        )


class PatchDecoder(nnx.Module):
    """Latents to a picture: a patch of each place, and what the network makes of all of them."""

    def __init__(self, config: PatchAutoencoderConfig, **kwargs: Unpack[LayerOptions]):
        self.side = config.side
        self.patches = nnx.Linear(config.components, config.side**2 * config.out_ch, **kwargs)
        self.network = Decoder(config.decoder(), **kwargs)
        # Starts silent: the patches alone are a picture already.
        self.network.conv_out.kernel[...] = jnp.zeros_like(self.network.conv_out.kernel[...])

    def __call__(self, z):
        return unfold(self.patches(z), self.side) + self.network(z)


class PatchAutoencoder(Autoencoder):
    """Pictures in [-1, 1] to latents and back, as `AutoencoderKL`; unscaled."""

    def __init__(
        self,
        config: PatchAutoencoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config, self.dtype = config, dtype
        self.encoder = nnx.Linear(config.side**2 * config.out_ch, config.components, **kwargs)
        self.decoder = PatchDecoder(config, **kwargs)

    def encode(
        self, x: Float[Array, "N H W 3"]
    ) -> tuple[Float[Array, "N h w c"], Float[Array, "N h w c"]]:
        """Posterior mean and log-variance (the same everywhere), float32."""
        mean = self.encoder(fold(x.astype(self.dtype), self.config.side)).astype(jnp.float32)
        return mean, jnp.full_like(mean, LOG_VARIANCE)

    def decode(self, z: Float[Array, "N h w c"]) -> Float[Array, "N H W 3"]:
        """Pictures, float32, about [-1, 1]."""
        return self.decoder(z.astype(self.dtype)).astype(jnp.float32)

    def set_components(self, patches: Float[np.ndarray, "N D"], colours: Float[np.ndarray, "3 3"]):
        """Makes encoder and patches of a sample's principal components.

        Args:
          patches: patches of pictures in [-1, 1], as `fold` lays them out.
          colours: matrix from RGB to the axes in which errors are weighed, [axis, RGB].
        """
        count = self.config.components
        axes = np.asarray(colours, np.float64)
        weighed = (patches.astype(np.float64) - WHITE).reshape(len(patches), -1, 3) @ axes.T
        weighed = weighed.reshape(len(patches), -1)
        power, directions = np.linalg.eigh(weighed.T @ weighed / len(weighed))
        chosen = directions[:, ::-1][:, :count].reshape(-1, 3, count)
        scale = np.sqrt(power[::-1][:count].mean())  # latents of about 1
        encode = np.einsum("pac,ad->pdc", chosen, axes).reshape(-1, count) / scale
        draw = np.einsum("pac,da->cpd", chosen, np.linalg.inv(axes)).reshape(count, -1) * scale
        for linear, kernel, bias in (
            (self.encoder, encode, -WHITE * encode.sum(0)),
            (self.decoder.patches, draw, np.full(draw.shape[1], WHITE)),
        ):
            assert linear.bias is not None  # both are made with one
            linear.kernel[...] = jnp.asarray(kernel, linear.kernel[...].dtype)
            linear.bias[...] = jnp.asarray(bias, linear.bias[...].dtype)
