"""ST-LPIPS (Ghildyal and Liu 2022): a perceptual distance that small shifts hardly change.

LPIPS with an AlexNet whose first convolution has stride 1 and whose every reduction is a blur of
[1, 2, 1] with stride 2 (reflected borders of 2 pixels), trained for it. It is another metric than
LPIPS and is reported under its own name. `evaluation/perceptual.py` finds and reads its weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.metrics import lpips

SMALLEST = 20  # pixels: below, the last blur's border has nothing to reflect
_CONVOLUTIONS = {
    "net.slice1.0": (64, 3, 11, 11),
    "net.slice2.5": (192, 64, 5, 5),
    "net.slice3.9": (384, 192, 3, 3),
    "net.slice4.11": (256, 384, 3, 3),
    "net.slice5.13": (256, 256, 3, 3),
}
SHAPES = {  # of every weight that is needed, by its name in the package's file
    **{f"{name}.weight": shape for name, shape in _CONVOLUTIONS.items()},
    **{f"{name}.bias": shape[:1] for name, shape in _CONVOLUTIONS.items()},
    **{
        f"lin{k}.model.1.weight": (1, shape[0], 1, 1)
        for k, shape in enumerate(_CONVOLUTIONS.values())
    },
}


def _conv(weights: dict, x: Array, name: str, padding: int) -> Array:
    x = jax.lax.conv_general_dilated(
        x, weights[f"{name}.weight"], (1, 1), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
    )  # fmt: skip
    return x + weights[f"{name}.bias"]


def _blur(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    """[1, 2, 1] / 4 in both directions, every second pixel; borders of 2 are reflected."""
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:])[:, ::2]
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:])[:, :, ::2] / 16


def _pool(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")


def features(weights: dict, images: Float[Array, "N H W 3"]) -> list[Array]:
    """The five depths' features, [N, h, w, C] each, of pictures in [0, 1]."""
    x = (images * 2.0 - 1.0 - lpips.SHIFT) / lpips.SCALE
    taps = [jax.nn.relu(_blur(_conv(weights, x, "net.slice1.0", 2)))]
    taps.append(jax.nn.relu(_conv(weights, _blur(_pool(taps[-1])), "net.slice2.5", 2)))
    taps.append(jax.nn.relu(_conv(weights, _blur(_pool(taps[-1])), "net.slice3.9", 1)))
    taps.append(jax.nn.relu(_conv(weights, taps[-1], "net.slice4.11", 1)))
    taps.append(jax.nn.relu(_conv(weights, taps[-1], "net.slice5.13", 1)))
    return taps


@jax.jit
def distance(
    weights: dict, a: Float[Array, "N H W 3"], b: Float[Array, "N H W 3"]
) -> Float[Array, " N"]:
    """ST-LPIPS of pictures in [0, 1]; 0 for equal ones."""
    return lpips.compare(features(weights, a), features(weights, b), weights)


class StLpips:
    """The network with its weights: called with batches [N, H, W, 3] it gives distances [N]."""

    def __init__(self, weights: dict, name: str):
        self.weights, self.name = weights, name

    def __call__(self, a: np.ndarray, b: np.ndarray, batch: int = 16) -> np.ndarray:
        if min(a.shape[1:3]) < SMALLEST:
            raise UserError(
                f"ST-LPIPS needs pictures of {SMALLEST} pixels or more, these have {a.shape[1:3]}: "
                "leave it out with --st_lpips none"
            )
        return lpips.in_batches(functools.partial(distance, self.weights), a, b, batch)
