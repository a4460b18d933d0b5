"""Scores of a picture against the true one: PSNR, SSIM, mask IoU, colour error.

Pictures are [..., H, W, 3] in [0, 1], objects on white; a score has the leading axes' shape.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from iso3d_jax.core.colour import TO_YIQ

MASK_THRESHOLD = 0.04  # farther from white than this in any channel is object
LARGEST_PSNR = 100.0  # of equal pictures

_PAIR = "(h,w,c),(h,w,c)->()"  # of pictures, for a score; leading axes are looped over
_psnr = np.vectorize(partial(peak_signal_noise_ratio, data_range=1.0), [float], signature=_PAIR)
_ssim = np.vectorize(
    partial(
        structural_similarity, data_range=1.0, channel_axis=-1, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False, K1=0.01, K2=0.03,
    ),
    [float], signature=_PAIR,
)  # fmt: skip
_WINDOW = 11  # pixels, of SSIM's Gaussian


def psnr(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Decibels, over pixels and channels together; at most `LARGEST_PSNR`."""
    with np.errstate(divide="ignore"):
        return np.minimum(_psnr(np.asarray(a, float), np.asarray(b, float)), LARGEST_PSNR)


def ssim(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Structural similarity of Wang et al. (2004): a Gaussian window of 11 pixels and sigma 1.5,
    K1 = 0.01, K2 = 0.03, population covariance, the mean over channels and over the windows that
    lie wholly inside the picture; at most 1.

    Raises:
      ValueError: pictures smaller than the window.
    """
    if min(a.shape[-3:-1]) < _WINDOW:
        raise ValueError(f"SSIM's window does not fit into pictures of shape {a.shape}")
    return _ssim(np.asarray(a, float), np.asarray(b, float))[()]


def find_mask(pictures):
    """Where a picture is not white: [..., H, W, 3], NumPy's or JAX's (traceable) -> [..., H, W]."""
    return (1.0 - pictures).max(-1) > MASK_THRESHOLD


def mask_iou(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Intersection over union of the masks; 1 where both are empty."""
    return overlap(find_mask(a), find_mask(b))


def overlap(a: Bool[np.ndarray, "*n H W"], b: Bool[np.ndarray, "*n H W"]):
    """Intersection over union of masks; 1 where both are empty."""
    union = (a | b).sum((-2, -1))
    return np.where(union > 0, (a & b).sum((-2, -1)) / np.maximum(union, 1), 1.0)


def colour_error(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Distance of the objects' mean colours, brightness left aside; 0 for equal ones.

    In YIQ's plane of hue and saturation, where grey is the origin and pure red lies 0.63 from it;
    the means of both are over what is not white in b. 0 where that is nothing.
    """
    mask = find_mask(b)[..., None]
    off = ((np.asarray(a, np.float64) - b) * mask).sum((-3, -2)) / np.maximum(mask.sum((-3, -2)), 1)
    return np.hypot(*np.moveaxis(off @ TO_YIQ[1:].T, -1, 0))
