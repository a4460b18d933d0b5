"""A small image tower of dense layers, for models that have no CLIP to start from.

A few hundred objects and a CPU do not make a vision transformer, and convolutions learn from them
slowly. Here the picture is taken apart by hand first: where the object is, its shading, and its
colours, each as cosines with the fine ones raised. What dense layers make of that knows an
object's outline in a tenth of the time that a convolutional tower needed, and a matrix product is
what a CPU is best at. Pictures are on white, which is what makes the outline easy to find.

What such layers cannot learn from a few thousand objects is what things there are in the world.
Beside the pixels they get the features of a network that was trained on ImageNet
(`efficient_net.py`), as they are, a grid of them, since layout is what counts: a mean over all
places is of little use. Of each place the principal components are kept.
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
from iso3d_jax.models.params import FlatParams, InitialKeys, merge_params, split_shapes
from iso3d_jax.tiny.efficient_net import EfficientNetLite0
from iso3d_jax.tiny.efficient_net_weights import find_efficient_net, load_efficient_net
from iso3d_jax.tiny.frequencies import to_frequencies

_EDGE, _STEEP = 0.05, 100.0  # ink above which a pixel is the object's, and how suddenly
_FAINT = 0.02  # deviations of grey below this are noise, and stay small


@dataclass(frozen=True)
class DenseTowerConfig:
    """Numbers of the tower; colours are seen at half of `image_size`.

    With `features_at`, a number of pixels, EfficientNet-Lite0 reads the picture at that size, and
    `components` numbers of each of its places (one for 16 x 16 pixels) are seen beside the pixels.
    """

    image_size: int = 32
    hidden: int = 1024
    layers: int = 3
    output_dim: int = 512
    features_at: int = 0
    components: int = 32

    @property
    def places(self) -> int:
        """Of the grid of features."""
        return (-(-self.features_at // 16)) ** 2


def area_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] weights of a resize by area means."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    pixels = np.arange(size_in)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(covered, 0, None) * (size_out / size_in)).astype(np.float32)


def _enlarge(images, size: int):
    return jnp.clip(jax.image.resize(images, (len(images), size, size, 3), "cubic"), 0.0, 1.0)


def _shrink(images, size: int):
    rows, columns = (area_matrix(n, size) for n in images.shape[-3:-1])
    return jnp.einsum("yh,xw,nhwc->nyxc", rows, columns, images)


FEATURES = ("encoder/", "components/")  # what weights are called that no training here changes
_STAGES = 5  # of EfficientNet-Lite0


class DenseTower(ImageTower):
    """`__call__(pixels [N, S, S, 3]) -> embedding [N, output_dim]`, float32.

    `encoder` and `components` are None where the tower sees no features.
    """

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
        encoder = EfficientNetLite0(stages=_STAGES, **kwargs) if config.features_at else None
        self.encoder = encoder
        components = None
        if encoder is not None:
            components = nnx.Linear(encoder.channels, config.components, **kwargs)
            features += config.places * config.components
        self.components = components
        self.first = nnx.Linear(features, config.hidden, **kwargs)
        layers = [nnx.Linear(config.hidden, config.hidden, **kwargs) for _ in range(config.layers)]
        self.layers = nnx.List(layers)
        self.out = nnx.Linear(config.hidden, config.output_dim, **kwargs)
        self.direct = nnx.Linear(features, config.output_dim, **kwargs)

    def preprocess(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S S 3"]:
        """Pictures in [0, 1] on white to the tower's size: area means, or cubic for features."""
        size = self.config.features_at
        if not size:
            return _shrink(images, self.config.image_size)
        return _enlarge(images, size)

    def __call__(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N D"]:
        pixels = pixels.astype(jnp.float32)
        x = take_apart(_shrink(pixels, self.config.image_size)).astype(self.dtype)
        if self.encoder is not None and self.components is not None:
            seen = self.components(self.encoder(pixels))
            x = jnp.concatenate([x, seen.reshape(len(x), -1).astype(self.dtype)], -1)
        h = self.first(x)
        for layer in self.layers:
            h = h + layer(jax.nn.silu(h))
        return (self.out(jax.nn.silu(h)) + self.direct(x)).astype(jnp.float32)


def load_encoder() -> FlatParams:
    """The weights of a tower's encoder, float32, from the package that has them.

    Raises:
      UserError: it is not installed, or its file is another one.
    """
    return load_efficient_net(find_efficient_net(), _STAGES)


def feature_weights(
    config: DenseTowerConfig, encoder: FlatParams, images: Float[np.ndarray, "N H W 3"]
) -> FlatParams:
    """The weights of a tower's `FEATURES`: the encoder's, and components of pictures.

    The components are the principal ones of what the encoder makes of all places of the pictures,
    less their mean, and as large as the numbers of the pixels together are.

    Args:
      encoder: of `load_encoder`.
      images: some thousand training pictures in [0, 1] on white.
    """
    weights = {f"encoder/{path}": w for path, w in encoder.items()}
    network = nnx.eval_shape(lambda: EfficientNetLite0(rngs=InitialKeys(0), stages=_STAGES))
    graphdef = split_shapes(network)[0]
    size = config.features_at

    @jax.jit
    def look(encoder, images):
        pixels = take_apart(_shrink(images, config.image_size))
        return merge_params(graphdef, encoder)(_enlarge(images, size)), (pixels**2).sum(-1)

    parts = [look(encoder, part) for part in np.array_split(images, max(1, len(images) // 64))]
    found = np.concatenate([np.asarray(features) for features, _ in parts])
    power = np.concatenate([np.asarray(p) for _, p in parts]).mean()
    flat = found.reshape(-1, found.shape[-1]).astype(np.float64)
    mean = flat.mean(0)
    _, axes = np.linalg.eigh(np.cov((flat - mean).T))
    kernel = axes[:, ::-1][:, : config.components]
    kernel *= np.sqrt(power / (((flat - mean) @ kernel) ** 2).sum(-1).mean() / config.places)
    return weights | {
        "components/kernel": jnp.asarray(kernel, jnp.float32),
        "components/bias": jnp.asarray(-mean @ kernel, jnp.float32),
    }


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
