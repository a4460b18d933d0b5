"""Learning-rate schedules, optimizers, and the guard that leaves bad steps out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from iso3d_jax.models.params import FlatParams
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


# A network has hundreds of weights of a few dozen shapes. What is done to each is a jitted function
# of one weight, which is traced and lowered once a shape: a step of the released UNet is traced in
# half the time.
_sum_of_squares = jax.jit(lambda x: jnp.sum(jnp.square(x)))
_keep_if = jax.jit(lambda bad, old, new: jnp.where(bad, old, new))
_zero_if = jax.jit(lambda bad, x: jnp.where(bad, jnp.zeros_like(x), x))
_scale_to = jax.jit(lambda x, norm, limit: jnp.where(norm < limit, x, x / norm * limit))


def global_norm(weights: FlatParams) -> jax.Array:
    """The Euclidean norm of all of them together."""
    return jnp.sqrt(sum(map(_sum_of_squares, weights.values())))


def clip(limit: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients whose global norm is above `limit` down to it.

    `optax.clip_by_global_norm`, which works the norm out by itself: here `update` takes it as
    `grad_norm` where it is known.
    """

    def update(updates, state, params=None, *, grad_norm=None, **_):
        del params
        norm = global_norm(updates) if grad_norm is None else grad_norm
        return {path: _scale_to(u, norm, limit) for path, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def by_weight(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation, for which no weight looks at another, traced once a shape.

    Its state is `tx`'s own: what is held for each weight is a dict by path, all else is the same
    for all weights.
    """

    def part(tree, path: str):
        """A state of all weights to a state of one."""

        def pick(node):
            return {"": node[path]} if isinstance(node, dict) else node

        return jax.tree.map(pick, tree, is_leaf=lambda node: isinstance(node, dict))

    @jax.jit
    def update_one(update, state, param):
        params = None if param is None else {"": param}
        updates, state = tx.update({"": update}, state, params)
        return cast(FlatParams, updates)[""], state

    def update(updates, state, params=None):
        moved, states = {}, {}
        for path, value in updates.items():
            param = None if params is None else params[path]
            moved[path], states[path] = update_one(value, part(state, path), param)

        def join(node, *others):
            if not isinstance(node, dict):
                return node
            return {path: one[""] for path, one in zip(states, (node, *others), strict=True)}

        joined = jax.tree.map(join, *states.values(), is_leaf=lambda node: isinstance(node, dict))
        return moved, joined

    return optax.GradientTransformation(tx.init, update)


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
    tx = optax.chain(clip(cfg.grad_clip), by_weight(core))
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

    tx = optax.with_extra_args_support(tx)

    def init(params):
        zero = jnp.zeros((), jnp.float32)
        count = jnp.zeros((), jnp.int32)
        return GuardState(tx.init(params), zero, zero, count, count, count)

    def update(updates, state, params=None, **extra_args):
        grads, loss = updates, extra_args["loss"]
        norm = extra_args.get("grad_norm")
        norm = global_norm(grads) if norm is None else norm
        bad = ~jnp.isfinite(norm) | ~jnp.isfinite(loss)
        if spike_factor:
            mean = state.mean / jnp.maximum(state.weight, 1e-8)
            bad |= (state.good_steps >= GUARD_WARMUP) & (loss > spike_factor * mean)
        updates, inner = tx.update(grads, state.inner, params, grad_norm=norm)
        # `where` and not a product: 0 x NaN is NaN.
        updates = jax.tree.map(functools.partial(_zero_if, bad), updates)
        inner = jax.tree.map(functools.partial(_keep_if, bad), state.inner, inner)
        return updates, GuardState(
            inner,
            jnp.where(bad, state.mean, 0.98 * state.mean + 0.02 * loss),
            jnp.where(bad, state.weight, 0.98 * state.weight + 0.02),
            state.good_steps + ~bad,
            bad.astype(jnp.int32),
            jnp.where(bad, state.in_row + 1, 0),
        )

    return optax.GradientTransformationExtraArgs(init, update)
