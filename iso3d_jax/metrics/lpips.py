"""LPIPS (Zhang et al. 2018) with the standard networks.

The distance of two pictures is that of their features, unit-normalised over channels at five
depths of AlexNet or VGG-16, squared, weighted by channel and averaged over the picture. Weights
have torchvision's names (`features.N.weight`) and the LPIPS package's (`linK.model.1.weight`);
which network they are of, their shapes say. `evaluation/perceptual.py` reads them from files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)

# Convolutions as (index in torchvision's `features`, stride, padding), a "tap" after whose ReLU
# the features are compared, and pooling as (window, stride).
_ALEX = (
    (0, 4, 2), "tap", (3, 2), (3, 1, 2), "tap", (3, 2), (6, 1, 1), "tap", (8, 1, 1), "tap",
    (10, 1, 1), "tap",
)  # fmt: skip
_VGG = (
    (0, 1, 1), (2, 1, 1), "tap", (2, 2), (5, 1, 1), (7, 1, 1), "tap", (2, 2), (10, 1, 1),
    (12, 1, 1), (14, 1, 1), "tap", (2, 2), (17, 1, 1), (19, 1, 1), (21, 1, 1), "tap", (2, 2),
    (24, 1, 1), (26, 1, 1), (28, 1, 1), "tap",
)  # fmt: skip
NETWORKS = {"alex": _ALEX, "vgg": _VGG}
_FIRST = {"alex": (64, 3, 11, 11), "vgg": (64, 3, 3, 3)}


def find_network(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which network weights of these shapes are of, "alex" or "vgg"; None: of neither."""
    first = shapes.get("features.0.weight")
    return next((name for name, shape in _FIRST.items() if first == shape), None)


def list_weights(network: str) -> list[str]:
    """The names of the weights that a network needs, the linear ones last."""
    indices = [layer[0] for layer in NETWORKS[network] if layer != "tap" and len(layer) == 3]
    names = [f"features.{i}.{part}" for i in indices for part in ("weight", "bias")]
    return names + [f"lin{k}.model.1.weight" for k in range(5)]


def features(weights: dict, images: Float[Array, "N H W 3"], network: str) -> list[Array]:
    """The taps' features, [N, h, w, C] each, of pictures in [0, 1]."""
    x = (images * 2.0 - 1.0 - SHIFT) / SCALE
    taps = []
    for layer in NETWORKS[network]:
        if layer == "tap":
            taps.append(x)
        elif len(layer) == 2:
            window, stride = layer
            x = jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID"
            )
        else:
            index, stride, padding = layer
            x = jax.lax.conv_general_dilated(
                x, weights[f"features.{index}.weight"], (stride, stride), [(padding, padding)] * 2,
                dimension_numbers=("NHWC", "OIHW", "NHWC"),
            )  # fmt: skip
            x = jax.nn.relu(x + weights[f"features.{index}.bias"])
    return taps


@functools.partial(jax.jit, static_argnames="network")
def distance(
    weights: dict, a: Float[Array, "N H W 3"], b: Float[Array, "N H W 3"], network: str
) -> Float[Array, " N"]:
    """LPIPS of pictures in [0, 1]; 0 for equal ones."""
    return compare(features(weights, a, network), features(weights, b, network), weights)


def compare(taps_a: Sequence[Array], taps_b: Sequence[Array], weights: dict) -> Float[Array, " N"]:
    """The distance of two pictures' features, weighted by `lin0` to `lin4`."""
    total = jnp.zeros(taps_a[0].shape[0])
    for k, (x, y) in enumerate(zip(taps_a, taps_b, strict=True)):
        x, y = (f / (jnp.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (x, y))
        linear = weights[f"lin{k}.model.1.weight"].reshape(-1)
        total += jnp.mean(jnp.square(x - y) @ linear, (1, 2))
    return total


def in_batches(
    measure: Callable[[Array, Array], Array], a: np.ndarray, b: np.ndarray, batch: int
) -> Float[np.ndarray, " N"]:
    """`measure` of pairs of pictures, so many at a time: one compiled program."""
    out = []
    for start in range(0, len(a), batch):
        parts = [np.asarray(x[start : start + batch], np.float32) for x in (a, b)]
        size = len(parts[0])
        padding = [(0, batch - size), (0, 0), (0, 0), (0, 0)]
        first, second = (jnp.asarray(np.pad(x, padding)) for x in parts)
        out.append(np.asarray(measure(first, second))[:size])
    return np.concatenate(out)


class Lpips:
    """A network with its weights: `lpips(a, b)` of batches [N, H, W, 3] is distances [N]."""

    def __init__(self, weights: dict, network: str):
        self.weights, self.network = weights, network
        self.name = f"LPIPS v0.1 {network}"

    def __call__(self, a: np.ndarray, b: np.ndarray, batch: int = 16) -> np.ndarray:
        measure = functools.partial(distance, self.weights, network=self.network)
        return in_batches(measure, a, b, batch)
