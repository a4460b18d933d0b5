"""Score distillation with multi-view denoisers (DreamFusion, MVDream; the released
threestudio/models/guidance/multiview_diffusion_guidance.py).

Latents are [B, V, h, w, C]: B groups of V views that the denoiser sees together. Both losses
are divided by the number of views, B * V.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from iso3d_jax.diffusion import classifier_free, schedule
from iso3d_jax.guidance.annealing import Ramp

LOSSES = ("x0", "sds")


@dataclasses.dataclass(frozen=True)
class GuidanceSpec:
    """The numbers of score distillation.

    Attributes:
      loss: 'x0' or 'sds', see `guidance_loss`.
      scale, rescale: see `guided_x0`.
      low, high: of the timesteps, shares of the schedule, see `annealing.draw_timestep`.
    """

    loss: str
    scale: float
    rescale: float
    low: Ramp
    high: Ramp


def guided_x0(
    output_uncond: Float[Array, "B V h w C"],
    output_cond: Float[Array, "B V h w C"],
    z_t: Float[Array, "B V h w C"],
    alpha_bar: Array,
    *,
    parameterization: str,
    scale: float,
    rescale: float,
) -> tuple[Array, Array]:
    """Guided noise and the guided, rescaled x0 (Lin et al. 2023, equations 15 and 16).

    The factor is std(x0_cond) / std(x0_guided), unbiased, over all elements of a group of views.

    Args:
      scale: classifier-free guidance.
      rescale: share of the rescaled x0; 0.5 in the released recipe.

    Returns:
      (eps_guided, x0), both of z_t's shape.
    """
    output = classifier_free.guide(output_uncond, output_cond, scale)
    eps, x0 = schedule.to_eps_x0(output, z_t, alpha_bar, parameterization)
    if rescale > 0:
        _, x0_cond = schedule.to_eps_x0(output_cond, z_t, alpha_bar, parameterization)
        axes = (1, 2, 3, 4)
        factor = (jnp.std(x0_cond, axes, ddof=1, keepdims=True) + 1e-8) / (
            jnp.std(x0, axes, ddof=1, keepdims=True) + 1e-8
        )
        x0 = x0 * (rescale * factor + (1.0 - rescale))
    return eps, x0


def guidance_loss(
    latents: Float[Array, "B V h w C"],
    noise: Float[Array, "B V h w C"],
    eps: Float[Array, "B V h w C"],
    x0: Float[Array, "B V h w C"],
    alpha_bar: Array,
    kind: str = "x0",
) -> Float[Array, ""]:
    """A loss whose gradient with respect to the latents is the guidance.

    'x0': 0.5 * sum((latents - x0)^2) / views, x0 held constant.
    'sds': gradient w(t) (eps - noise) / views with w(t) = 1 - alpha_bar; the value is half the
    squared norm of that gradient times views.

    Args:
      latents: with gradient.
      noise: what was added to them.
      eps, x0: from `guided_x0`.
    """
    views = latents.shape[0] * latents.shape[1]
    if kind == "x0":
        target = x0
    elif kind == "sds":
        target = latents - jnp.nan_to_num((1.0 - alpha_bar) * (eps - noise))
    else:
        raise ValueError(f"guidance loss {kind!r} is not one of {', '.join(LOSSES)}")
    return 0.5 * jnp.sum(jnp.square(latents - jax.lax.stop_gradient(target))) / views


def score_distillation(
    denoise: Callable[[Array, Array, Any, Array], Array],
    latents: Float[Array, "B V h w C"],
    noise: Float[Array, "B V h w C"],
    t: Array,
    alpha_bar: Array,
    contexts: Any,
    camera: Float[Array, "B V 16"],
    *,
    parameterization: str,
    scale: float = 10.0,
    rescale: float = 0.5,
    kind: str = "x0",
) -> tuple[Float[Array, ""], Float[Array, "B V h w C"]]:
    """One evaluation of the guidance: noise, denoise with guidance, compare.

    Gradients flow to `latents` alone, not through the denoiser.

    Args:
      denoise, contexts: see `classifier_free.predict_both`.

    Returns:
      The loss and the guided x0 (for pictures).
    """
    z_t = jax.lax.stop_gradient(schedule.add_noise(latents, noise, alpha_bar))
    outputs = classifier_free.predict_both(denoise, z_t, t, contexts, camera)
    eps, x0 = guided_x0(
        *outputs, z_t, alpha_bar, parameterization=parameterization, scale=scale, rescale=rescale
    )
    eps, x0 = jax.lax.stop_gradient((eps, x0))
    return guidance_loss(latents, noise, eps, x0, alpha_bar, kind), x0
