"""Losses on the scene alone (threestudio/systems/mvdream.py:49-105)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def facing_away(normal: Float[Array, "K 3"], direction: Float[Array, "K 3"]) -> Float[Array, " K"]:
    """max(n.d, 0)^2 of unit normals and the unit directions of the samples' rays."""
    return jnp.square(jnp.maximum(jnp.sum(normal * direction, -1), 0.0))


def orientation_sum(weights: Float[Array, " K"], away: Float[Array, " K"]) -> Float[Array, ""]:
    """sum(w * max(n.d, 0)^2) over samples, weights held constant; `away` is `facing_away`'s."""
    return jnp.sum(jax.lax.stop_gradient(weights) * away)


def orientation_loss(total: Float[Array, ""], num_hit: Float[Array, ""]) -> Float[Array, ""]:
    """Normals of visible points must not face away (Ref-NeRF, equation 11).

    Args:
      total: `orientation_sum` over all samples.
      num_hit: number of rays with opacity above zero.
    """
    return total / jnp.maximum(num_hit, 1.0)


def sparsity_loss(opacity: Float[Array, " R"]) -> Float[Array, ""]:
    """mean(sqrt(opacity^2 + 0.01)): less is better."""
    return jnp.mean(jnp.sqrt(jnp.square(opacity) + 0.01))


def opaque_loss(opacity: Float[Array, " R"]) -> Float[Array, ""]:
    """Binary cross-entropy of the clipped opacity with itself: half-transparent rays cost."""
    value = jnp.clip(opacity, 1e-3, 1.0 - 1e-3)
    return jnp.mean(-(value * jnp.log(value) + (1.0 - value) * jnp.log1p(-value)))


def cross_entropy(opacity: Float[Array, "..."], wanted: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean binary cross-entropy of opacities with the wanted ones, both in [0, 1]."""
    opacity = jnp.clip(opacity, 1e-3, 1 - 1e-3)
    return -jnp.mean(wanted * jnp.log(opacity) + (1 - wanted) * jnp.log1p(-opacity))
