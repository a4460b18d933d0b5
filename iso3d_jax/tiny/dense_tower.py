"""A small image tower of dense layers, for models that have no CLIP to start from.

A few hundred objects and a CPU do not make a vision transformer, and convolutions learn from them
slowly. Here the picture is taken apart by hand first: where the object is, its shading, and its
colours, each as cosines with the fine ones raised. What dense layers make of that knows an
object's outline in a tenth of the time that a convolutional tower needed, and a matrix product is
what a CPU is best at. Pictures are on white, which is what makes the outline easy to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models.clip import ImageTower
from iso3d_jax.models.layers import LayerOptions
from iso3d_jax.tiny.frequencies import to_frequencies

_EDGE, _STEEP = 0.05, 100.0  # ink above which a pixel is the object's, and how suddenly
_FAINT = 0.02  # deviations of grey below this are noise, and stay small


@dataclass(frozen=True)
class DenseTowerConfig:
    """Numbers of the tower; colours are seen at half of `image_size`."""

    image_size: int = 32
    hidden: int = 1024
    layers: int = 3
    output_dim: int = 512


def area_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] weights of a resize by area means."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    pixels = np.arange(size_in)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(covered, 0, None) * (size_out / size_in)).astype(np.float32)


def _shrink(images, size: int):
    rows, columns = (area_matrix(n, size) for n in images.shape[-3:-1])
    return jnp.einsum("yh,xw,nhwc->nyxc", rows, columns, images)


class DenseTower(ImageTower):
    """`__call__(pixels [N, S, S, 3]) -> embedding [N, output_dim]`, float32."""

    def __init__(
        self,
        config: DenseTowerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config, self.dtype = config, dtype
        features = 2 * config.image_size**2 + 3 * (config.image_size // 2) ** 2
        self.first = nnx.Linear(features, config.hidden, **kwargs)
        layers = [nnx.Linear(config.hidden, config.hidden, **kwargs) for _ in range(config.layers)]
        self.layers = nnx.List(layers)
        self.out = nnx.Linear(config.hidden, config.output_dim, **kwargs)
        self.direct = nnx.Linear(features, config.output_dim, **kwargs)

    def preprocess(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S S 3"]:
        """Pictures in [0, 1] on white to the tower's size, by area means."""
        return _shrink(images, self.config.image_size)

    def __call__(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N D"]:
        x = take_apart(pixels.astype(jnp.float32)).astype(self.dtype)
        h = self.first(x)
        for layer in self.layers:
            h = h + layer(jax.nn.silu(h))
        return (self.out(jax.nn.silu(h)) + self.direct(x)).astype(jnp.float32)


def take_apart(pixels: Float[Array, "N S S 3"]) -> Float[Array, "N F"]:
    """Outline, shading (grey about the object's own mean, of deviation 1) and colours."""
    n, ink = len(pixels), 1.0 - pixels
    outline = jax.nn.sigmoid((ink.max(-1, keepdims=True) - _EDGE) * _STEEP)
    area = outline.mean((1, 2), keepdims=True) + 1e-3
    grey = ink.mean(-1, keepdims=True)
    grey = (grey - (grey * outline).mean((1, 2), keepdims=True) / area) * outline
    shading = grey / jnp.sqrt((grey**2).mean((1, 2), keepdims=True) / area + _FAINT**2)
    colours = _shrink(ink, pixels.shape[1] // 2)
    parts = (outline - 0.25, 0.3 * shading, colours - 0.25)
    return jnp.concatenate([to_frequencies(part).reshape(n, -1) for part in parts], -1)
