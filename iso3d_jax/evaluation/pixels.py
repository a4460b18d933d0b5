"""Scores of a picture against the true one: PSNR, SSIM, mask IoU, colour error.

Pictures are [..., H, W, 3] in [0, 1], objects on white; a score has the leading axes' shape.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from iso3d_jax.data.colour import TO_YIQ

MASK_THRESHOLD = 0.04  # farther from white than this in any channel is object
LARGEST_PSNR = 100.0  # of equal pictures
_SIGMA, _RADIUS = 1.5, 5  # of SSIM's Gaussian window, 11 pixels wide


def psnr(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Decibels, over pixels and channels together; at most `LARGEST_PSNR`."""
    mse = ((np.asarray(a, np.float64) - b) ** 2).mean((-3, -2, -1))
    return -10.0 * np.log10(np.maximum(mse, 10 ** (-LARGEST_PSNR / 10)))


def _blur(x: np.ndarray) -> np.ndarray:
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    inside = slice(_RADIUS, -_RADIUS)
    for axis in (-3, -2):
        x = ndimage.correlate1d(x, weights, axis)
    return x[..., inside, inside, :]


def ssim(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Structural similarity of Wang et al. (2004): a Gaussian window of 11 pixels and sigma 1.5,
    K1 = 0.01, K2 = 0.03, population covariance, the mean over channels and over the windows that
    lie wholly inside the picture; at most 1.

    Raises:
      ValueError: pictures smaller than the window.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(a.shape[-3:-1]) <= 2 * _RADIUS:
        raise ValueError(f"SSIM's window does not fit into pictures of shape {a.shape}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (numerator / denominator).mean((-3, -2, -1))


def mask_of(pictures):
    """Where a picture is not white: [..., H, W, 3], NumPy's or JAX's (traceable) -> [..., H, W]."""
    return (1.0 - pictures).max(-1) > MASK_THRESHOLD


def mask_iou(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Intersection over union of the masks; 1 where both are empty."""
    return overlap(mask_of(a), mask_of(b))


def overlap(a: Bool[np.ndarray, "*n H W"], b: Bool[np.ndarray, "*n H W"]):
    """Intersection over union of masks; 1 where both are empty."""
    union = (a | b).sum((-2, -1))
    return np.where(union > 0, (a & b).sum((-2, -1)) / np.maximum(union, 1), 1.0)


def colour_error(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]):
    """Distance of the objects' mean colours, brightness left aside; 0 for equal ones.

    In YIQ's plane of hue and saturation, where grey is the origin and pure red lies 0.63 from it;
    the means of both are over what is not white in b. 0 where that is nothing.
    """
    mask = mask_of(b)[..., None]
    off = ((np.asarray(a, np.float64) - b) * mask).sum((-3, -2)) / np.maximum(mask.sum((-3, -2)), 1)
    return np.hypot(*np.moveaxis(off @ TO_YIQ[1:].T, -1, 0))
