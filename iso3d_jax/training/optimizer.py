"""Learning-rate schedules, optimizers, and the guard that leaves bad steps out."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from iso3d_jax.training.spec import OptimizerSpec

GUARD_WARMUP = 20  # good steps before the running mean of the loss says what a spike is


def make_schedule(cfg: OptimizerSpec) -> optax.Schedule:
    """Linear warm-up to `learning_rate`, then constant or a cosine to `final_learning_rate`."""
    if cfg.lr_schedule == "constant":
        after = optax.constant_schedule(cfg.learning_rate)
    else:
        after = optax.cosine_decay_schedule(
            cfg.learning_rate,
            max(cfg.steps - cfg.warmup_steps, 1),
            alpha=cfg.final_learning_rate / cfg.learning_rate,
        )
    warmup = optax.linear_schedule(0.0, cfg.learning_rate, max(cfg.warmup_steps, 1))
    return optax.join_schedules([warmup, after], [cfg.warmup_steps])


def make_optimizer(cfg: OptimizerSpec) -> optax.GradientTransformation:
    """Clipping and the optimizer of `cfg.optimizer`; vectors such as biases are not decayed.

    `adamw`: two float32 moments a weight. `adamw_bf16`: the first in bfloat16, 2 bytes a weight
    less. `adafactor`: the second moment factored into rows and columns and no first one, hardly any
    memory at all (optax has no 8-bit moments).
    """
    schedule = make_schedule(cfg)

    def decayed(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    if cfg.optimizer == "adafactor":
        core = optax.chain(
            optax.scale_by_factored_rms(decay_rate=0.8),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(cfg.weight_decay, decayed),
            optax.scale_by_learning_rate(schedule),
        )
    else:
        core = optax.adamw(
            schedule,
            b1=0.9,
            b2=cfg.adam_b2,
            weight_decay=cfg.weight_decay,
            mask=decayed,
            mu_dtype=jnp.bfloat16 if cfg.optimizer == "adamw_bf16" else None,
        )
    tx = optax.chain(optax.clip_by_global_norm(cfg.grad_clip), core)
    guarded = cfg.on_bad_step == "skip" or cfg.spike_factor > 0
    return guard(tx, cfg.spike_factor) if guarded else tx


class GuardState(NamedTuple):
    """The optimizer's state beside what the guard has seen."""

    inner: Any
    mean: jax.Array  # sum of the good steps' losses, later ones weighing more
    weight: jax.Array  # the sum of those weights: mean / weight is the running mean
    good_steps: jax.Array
    skipped: jax.Array  # 1 if the last step was left out
    in_row: jax.Array  # how many were left out without a good one between


def guard(
    tx: optax.GradientTransformation, spike_factor: float
) -> optax.GradientTransformationExtraArgs:
    """Leaves out steps whose gradients are not finite or whose loss is a spike.

    A spike is a loss above `spike_factor` times the running mean (0: there are none). Such a step
    changes neither weights nor moments. `update` takes the loss as `loss`. optax.apply_if_finite
    sees no loss, and takes a bad step after so many of them: all of this would be left to do.
    """

    def init(params):
        zero = jnp.zeros((), jnp.float32)
        count = jnp.zeros((), jnp.int32)
        return GuardState(tx.init(params), zero, zero, count, count, count)

    def update(updates, state, params=None, **extra_args):
        grads, loss = updates, extra_args["loss"]
        bad = ~jnp.isfinite(optax.tree.norm(grads)) | ~jnp.isfinite(loss)
        if spike_factor:
            mean = state.mean / jnp.maximum(state.weight, 1e-8)
            bad |= (state.good_steps >= GUARD_WARMUP) & (loss > spike_factor * mean)
        updates, inner = tx.update(grads, state.inner, params)
        # `where` and not a product: 0 x NaN is NaN.
        updates = jax.tree.map(lambda u: jnp.where(bad, jnp.zeros_like(u), u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(bad, old, new), state.inner, inner)
        return updates, GuardState(
            inner,
            jnp.where(bad, state.mean, 0.98 * state.mean + 0.02 * loss),
            jnp.where(bad, state.weight, 0.98 * state.weight + 0.02),
            state.good_steps + ~bad,
            bad.astype(jnp.int32),
            jnp.where(bad, state.in_row + 1, 0),
        )

    return optax.GradientTransformationExtraArgs(init, update)
