"""Pictures as sums of cosines (the orthonormal DCT-II), fine detail made as large as coarse shape.

The power of pictures falls about as the square of the frequency. A dense network that is fed
pixels, or draws them, learns what is large first and outlines last. In these coordinates an
outline's cosines are about as large as those of the whole shape, so they are learned with them.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _cosines(n: int) -> np.ndarray:
    """[frequency, place] orthonormal DCT-II."""
    i = np.arange(n)
    matrix = np.cos(np.pi * (i[None] + 0.5) * i[:, None] / n) * np.sqrt(2.0 / n)
    matrix[0] /= np.sqrt(2.0)
    return matrix.astype(np.float32)


def _rise(n: int) -> np.ndarray:
    """[n, n, 1]: what each frequency is multiplied by; pictures of any size n come out alike."""
    i = np.arange(n)
    radius = np.sqrt(i[:, None] ** 2 + i[None] ** 2)
    return ((1.0 + radius) * (4.0 / n)).astype(np.float32)[..., None]


def to_frequencies(pictures: Float[Array, "... n n C"]) -> Float[Array, "... n n C"]:
    """Pixels to cosines, high ones raised."""
    n = pictures.shape[-2]
    cosines = jnp.asarray(_cosines(n))
    return jnp.einsum("...hwc,fh,gw->...fgc", pictures, cosines, cosines) * _rise(n)


def to_pictures(frequencies: Float[Array, "... n n C"]) -> Float[Array, "... n n C"]:
    """The inverse of `to_frequencies`."""
    n = frequencies.shape[-2]
    cosines = jnp.asarray(_cosines(n))
    return jnp.einsum("...fgc,fh,gw->...hwc", frequencies / _rise(n), cosines, cosines)
