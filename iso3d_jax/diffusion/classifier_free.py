"""Classifier-free guidance (Ho and Salimans 2021): both predictions in one batch, and their sum.

Without the picture's embedding the context is zeros, and those rows come first, as in the released
threestudio/models/guidance/multiview_diffusion_guidance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def without_and_with(context: Float[Array, "B L D"]) -> Float[Array, "2*B L D"]:
    """The contexts of the batch that `predict_both` makes."""
    return jnp.concatenate([jnp.zeros_like(context), context])


def predict_both(
    denoise: Callable[[Array, Array, Any, Array], Array],
    z_t: Float[Array, "B V h w C"],
    t: Array,
    contexts: Any,
    camera: Float[Array, "B V 16"],
) -> tuple[Array, Array]:
    """The denoiser's outputs without and with the picture's embedding, in one batch.

    Args:
      denoise: (z_t [2B, V, h, w, C], t [2B, V], contexts, camera [2B, V, 16]) -> output.
      t: scalar timestep, shared by all views.
      contexts: of `without_and_with`, or what the network folded of them.

    Returns:
      (output_uncond, output_cond), each [B, V, h, w, C] of z_t's type.
    """
    batch, views = z_t.shape[:2]
    output = denoise(
        jnp.concatenate([z_t, z_t]),
        jnp.full((2 * batch, views), t),
        contexts,
        jnp.concatenate([camera, camera]),
    )
    output = output.astype(z_t.dtype)
    return output[:batch], output[batch:]


def guide(output_uncond: Array, output_cond: Array, guidance_scale: float | Array) -> Array:
    """uncond + scale (cond - uncond); linear, so of noise or v alike."""
    return output_uncond + guidance_scale * (output_cond - output_uncond)
