"""Stable Diffusion's noise schedule and the algebra between x0, eps and v."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NUM_TIMESTEPS = 1000
PARAMETERIZATIONS = ("eps", "v")


def make_schedule(
    num_timesteps: int = NUM_TIMESTEPS, linear_start: float = 0.00085, linear_end: float = 0.012
) -> Float[np.ndarray, " T"]:
    """`alphas_cumprod` of the "scaled linear" schedule, float32.

    betas are the squares of a line between the square roots, computed in float64
    (ldm/modules/diffusionmodules/util.py:37-40).
    """
    betas = np.linspace(linear_start**0.5, linear_end**0.5, num_timesteps, dtype=np.float64) ** 2
    return np.cumprod(1.0 - betas).astype(np.float32)


def _like(alpha_bar: Array, x: Array) -> Array:
    """`alpha_bar` [B] or [B, V] with trailing axes, so that it multiplies x [B, V, H, W, C]."""
    alpha_bar = jnp.asarray(alpha_bar)
    return alpha_bar.reshape(alpha_bar.shape + (1,) * (x.ndim - alpha_bar.ndim))


def add_noise(x0: Array, noise: Array, alpha_bar: Array) -> Array:
    """z_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (DDPM, equation 4)."""
    alpha_bar = _like(alpha_bar, x0)
    return jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1.0 - alpha_bar) * noise


def training_target(x0: Array, noise: Array, alpha_bar: Array, parameterization: str) -> Array:
    """The network's target: eps, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0."""
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization {parameterization!r} is not 'eps' or 'v'")
    if parameterization == "eps":
        return noise
    alpha_bar = _like(alpha_bar, x0)
    return jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1.0 - alpha_bar) * x0


def to_eps_x0(
    output: Array, z_t: Array, alpha_bar: Array, parameterization: str
) -> tuple[Array, Array]:
    """Reads a network's output as (eps, x0).

    Args:
      output: the network's output at `z_t`, of z_t's shape.
      alpha_bar: [B] or [B, V], or a scalar.
      parameterization: "eps" (released weights) or "v".
    """
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization {parameterization!r} is not 'eps' or 'v'")
    alpha_bar = _like(alpha_bar, z_t)
    signal, sigma = jnp.sqrt(alpha_bar), jnp.sqrt(1.0 - alpha_bar)
    if parameterization == "eps":
        return output, (z_t - sigma * output) / signal
    return signal * output + sigma * z_t, signal * z_t - sigma * output
