"""Values that change over the iterations, and the range of timesteps that follows from them."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp

# A constant, or (first step, first value, last value, last step), as a list where a file has it.
Ramp: TypeAlias = float | tuple[int, float, float, int] | list[float]


def ramp(value: Ramp, step: jax.Array | int) -> jax.Array:
    """threestudio's C() for whole-numbered ends (threestudio/utils/misc.py:65-86).

    Args:
      value: a constant, or (start_step, start_value, end_value, end_step): linear between the
        two steps and constant outside.
      step: iteration.
    """
    if not isinstance(value, tuple | list):
        return jnp.float32(value)
    start_step, start_value, end_value, end_step = value
    share = (jnp.asarray(step, jnp.float32) - start_step) / (end_step - start_step)
    return start_value + (end_value - start_value) * jnp.clip(share, 0.0, 1.0)


def draw_timestep(
    key: jax.Array,
    step: jax.Array | int,
    low: Ramp,
    high: Ramp,
    num_timesteps: int = 1000,
) -> jax.Array:
    """One timestep, uniform in [low, high] of the schedule at this iteration, both included.

    Args:
      low, high: shares of the schedule, constants or ramps.
    """
    first = jnp.floor(num_timesteps * ramp(low, step) + 1e-3).astype(jnp.int32)
    last = jnp.floor(num_timesteps * ramp(high, step) + 1e-3).astype(jnp.int32)
    t = jax.random.randint(key, (), first, jnp.maximum(last, first) + 1)
    return jnp.clip(t, 0, num_timesteps - 1)
