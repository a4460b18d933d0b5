"""ST-LPIPS (Ghildyal and Liu 2022): a perceptual distance that small shifts hardly change.

LPIPS with an AlexNet whose first convolution has stride 1 and whose every reduction is a blur of
[1, 2, 1] with stride 2 (reflected borders of 2 pixels), trained for it. Its weights ship in the
PyPI package `stlpips-pytorch` (BSD licence), of which nothing but that file is used here: the
package is found without being imported, so it needs no PyTorch. It is another metric than LPIPS
and is reported under its own name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.metrics import lpips
from iso3d_jax.weights.tensors import open_tensors

PACKAGE, FILE = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"
SMALLEST = 20  # pixels: below, the last blur's border has nothing to reflect
_SHAPES = {
    "net.slice1.0": (64, 3, 11, 11),
    "net.slice2.5": (192, 64, 5, 5),
    "net.slice3.9": (384, 192, 3, 3),
    "net.slice4.11": (256, 384, 3, 3),
    "net.slice5.13": (256, 256, 3, 3),
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


def find() -> Path | None:
    """The weights in the installed package, or None without it."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    return None


def load(file: str | Path) -> StLpips:
    """Reads the weights, PyTorch's or safetensors.

    Raises:
      UserError: a file that cannot be read, or that holds something else.
    """
    tensors = open_tensors(file)
    shapes = {f"{name}.weight": shape for name, shape in _SHAPES.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in _SHAPES.items()}
    shapes |= {
        f"lin{k}.model.1.weight": (1, shape[0], 1, 1)
        for k, shape in enumerate(_SHAPES.values())
    }  # fmt: skip
    for key, shape in shapes.items():
        if key not in tensors or tuple(tensors[key].shape) != shape:
            found = f"of shape {tuple(tensors[key].shape)}" if key in tensors else "missing"
            raise UserError(
                f"--st_lpips {file}: {key} is {found}; it wants {Path(FILE).name} of the package "
                "stlpips-pytorch"
            )
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    weights = {key: jnp.asarray(tensors[key].read(), jnp.float32) for key in shapes}
    return StLpips(weights, f"alex vST0.0, sha256 {digest}")
