"""Perceptual distances with weights from files that the user has; none ship here.

LPIPS needs two: torchvision's network (`alexnet-*.pth` or `vgg16-*.pth`) and the linear weights of
the LPIPS package (`weights/v0.1/alex.pth` or `vgg.pth`). ST-LPIPS needs one, which the PyPI package
`stlpips-pytorch` (BSD licence) brings; nothing else of that package is used, and it is found
without being imported, so it needs no PyTorch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.extras import find_file
from iso3d_jax.metrics import lpips, st_lpips
from iso3d_jax.models.params import FlatParams
from iso3d_jax.weights.tensors import LazyTensor, open_tensors

ST_LPIPS_PACKAGE = "stlpips_pytorch"
ST_LPIPS_FILE = "weights/vST0.0/alex_shift_tolerant.pth"  # in that package


def load_lpips(files: Sequence[str]) -> lpips.Lpips:
    """Reads the weights from one file or several, PyTorch's or safetensors.

    Raises:
      UserError: a file that cannot be read, or weights that are missing.
    """
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        tensors |= open_tensors(file)
    network = lpips.find_network({key: tensor.shape for key, tensor in tensors.items()})
    if network is None:
        raise UserError(
            f"--lpips {','.join(files)}: no AlexNet or VGG-16 in there; give torchvision's file "
            "and lpips' file of linear weights, --lpips alexnet-owt-7be5be79.pth,alex.pth"
        )
    wanted = lpips.list_weights(network)
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise UserError(
            f"--lpips {','.join(files)}: {len(missing)} weights are missing, such as {missing[0]}; "
            "torchvision's file of the network and lpips' file of linear weights are both needed"
        )
    return lpips.Lpips(_read(tensors, wanted), network)


def find_st_lpips() -> Path | None:
    """The weights in the installed package, or None without it."""
    return find_file(ST_LPIPS_PACKAGE, ST_LPIPS_FILE)


def load_st_lpips(file: str | Path) -> st_lpips.StLpips:
    """Reads the weights, PyTorch's or safetensors.

    Raises:
      UserError: a file that cannot be read, or that holds something else.
    """
    tensors = open_tensors(file)
    for key, shape in st_lpips.SHAPES.items():
        if key not in tensors or tuple(tensors[key].shape) != shape:
            found = f"of shape {tuple(tensors[key].shape)}" if key in tensors else "missing"
            raise UserError(
                f"--st_lpips {file}: {key} is {found}; it wants {Path(ST_LPIPS_FILE).name} of the "
                "package stlpips-pytorch"
            )
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    weights = _read(tensors, st_lpips.SHAPES)
    return st_lpips.StLpips(weights, f"alex vST0.0, sha256 {digest}")


def _read(tensors: Mapping[str, LazyTensor], names: Sequence[str] | Mapping) -> FlatParams:
    return {name: jnp.asarray(tensors[name].read(), jnp.float32) for name in names}
