"""Colour changes of training pictures, the same for all views of an object; pure and traceable."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.core.colour import TO_YIQ

Pictures = TypeVar("Pictures", Array, np.ndarray)  # the answer is of the same library
_FROM_YIQ = np.linalg.inv(TO_YIQ).astype(np.float32)


def weighed_axes(chroma: float) -> Float[np.ndarray, "3 3"]:
    """[axis, RGB]: to brightness and two colour axes, these `chroma` times as large."""
    return TO_YIQ * np.array([[1.0], [chroma], [chroma]])


def change_colours(key: jax.Array, rgb: Float[Array, "N ... 3"], strength: float = 1.0):
    """A random hue, saturation, brightness, contrast and tint for each of N objects.

    Args:
      key: random key.
      rgb: straight (not premultiplied) colours in [0, 1].
      strength: 0 changes nothing, 1 is the range used for the shipped model.

    Returns:
      Colours of rgb's shape, in [0, 1].
    """
    n = rgb.shape[0]
    keys = jax.random.split(key, 8)

    def uniform(i, low, high, shape=()):
        return jax.random.uniform(keys[i], (n, *shape), minval=low, maxval=high)

    whole_circle = jax.random.bernoulli(keys[0], 0.5, (n,))
    hue = jnp.where(whole_circle, jnp.pi, 0.2) * uniform(1, -1.0, 1.0) * strength
    saturation = jnp.exp(strength * uniform(2, -0.5, 1.0))
    gain = jnp.exp(strength * uniform(3, -0.4, 0.35))
    gamma = jnp.exp(strength * uniform(4, -0.3, 0.3))
    tinted = jax.random.bernoulli(keys[5], 0.5 * strength, (n, 1))
    tint = jnp.where(tinted, uniform(6, 0.15, 1.0, (3,)), 1.0)

    cos, sin, zero, one = jnp.cos(hue), jnp.sin(hue), jnp.zeros_like(hue), jnp.ones_like(hue)
    turn = jnp.stack(
        [
            jnp.stack([one, zero, zero], -1),
            jnp.stack([zero, cos * saturation, -sin * saturation], -1),
            jnp.stack([zero, sin * saturation, cos * saturation], -1),
        ],
        -2,
    )  # [N, 3, 3]
    matrix = (_FROM_YIQ @ turn @ TO_YIQ) * (tint * gain[:, None])[..., None]
    flat = rgb.reshape(n, -1, 3)
    flat = jnp.clip(jnp.einsum("npc,ndc->npd", flat, matrix), 1e-4, 1.0)
    return (flat ** gamma[:, None, None]).reshape(rgb.shape)


def on_white(rgba: Float[Pictures, "... 4"]) -> Float[Pictures, "... 3"]:
    """Straight-alpha RGBA composited on white."""
    return rgba[..., :3] * rgba[..., 3:] + (1.0 - rgba[..., 3:])
