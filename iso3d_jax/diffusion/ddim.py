"""DDIM sampling (Song et al. 2020, equation 12) as one `lax.scan`.

Matches diffusers' `DDIMScheduler` as the released guidance sets it up: scaled-linear betas,
steps_offset 1, set_alpha_to_one False, clip_sample False.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.diffusion.schedule import to_eps_x0

SPACINGS = ("leading", "trailing")


def timesteps(
    steps: int, num_timesteps: int = 1000, steps_offset: int = 1, spacing: str = "leading"
) -> np.ndarray:
    """Descending timesteps; of 50, 'leading' has 981, 961, ..., 1 and 'trailing' 999, ..., 19.

    The first is the released sampler's. The second begins where the noise is pure, as it is in
    fact (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed"), which
    matters for few steps.
    """
    if not 1 <= steps < num_timesteps:
        raise ValueError(f"steps must be between 1 and {num_timesteps - 1}, got {steps}")
    if spacing not in SPACINGS:
        raise ValueError(f"timestep spacing {spacing!r} is not one of {', '.join(SPACINGS)}")
    if spacing == "trailing":
        first = num_timesteps - np.arange(steps) * (num_timesteps / steps)
        return np.rint(first).astype(np.int32) - 1
    ratio = num_timesteps // steps
    return (np.arange(steps) * ratio)[::-1].astype(np.int32) + steps_offset


def ddim_step(eps, x0, noise, alpha_bar, alpha_bar_prev, eta):
    """One step from z_t to z_{t-1}, given both readings of the network's output.

    Args:
      eps, x0, noise: [B, V, H, W, C]; `noise` is only used where eta > 0.
      alpha_bar, alpha_bar_prev: scalars, at this and the next (smaller) timestep.
      eta: 0 is deterministic DDIM, 1 has DDPM's variance.
    """
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    std = eta * jnp.sqrt(variance)
    direction = jnp.sqrt(jnp.maximum(1 - alpha_bar_prev - std**2, 0.0)) * eps
    return jnp.sqrt(alpha_bar_prev) * x0 + direction + std * noise


def sample(
    denoise: Callable[[Array, Array], Array],
    z_T: Float[Array, "B V H W C"],
    key: jax.Array,
    alphas_cumprod: Float[Array, " T"],
    *,
    steps: int = 50,
    eta: float | Array = 1.0,
    parameterization: str = "eps",
    temperature: float | Array = 1.0,
    spacing: str = "leading",
) -> Float[Array, "B V H W C"]:
    """Runs `steps` DDIM steps from noise to latents; traceable, one scan.

    Args:
      denoise: (z_t, t) -> guided network output; t is a scalar int32 array.
      z_T: starting noise.
      key: for the noise of each step (eta > 0; the released code adds it even at the last step).
      alphas_cumprod: the schedule.
      temperature: the steps' noise is multiplied by this (as in latent-diffusion's DDIMSampler);
        below 1 draws what is likelier, smoother and less varied.
      spacing: of the timesteps.

    Returns:
      Latents at timestep 0, scaled as the network saw them.
    """
    num_timesteps = alphas_cumprod.shape[0]
    ts = timesteps(steps, num_timesteps, spacing=spacing)
    previous = np.append(ts[1:], 0)
    alphas_cumprod = jnp.asarray(alphas_cumprod)

    def body(z_t, inputs):
        t, t_prev, step_key = inputs
        alpha_bar, alpha_bar_prev = alphas_cumprod[t], alphas_cumprod[t_prev]
        eps, x0 = to_eps_x0(denoise(z_t, t), z_t, alpha_bar, parameterization)
        noise = temperature * jax.random.normal(step_key, z_t.shape, z_t.dtype)
        return ddim_step(eps, x0, noise, alpha_bar, alpha_bar_prev, eta).astype(z_t.dtype), None

    keys = jax.random.split(key, steps)
    z_0, _ = jax.lax.scan(body, z_T, (jnp.asarray(ts), jnp.asarray(previous), keys))
    return z_0
