"""The train state and the one place where gradients become new weights."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from iso3d_jax.models.params import FlatParams


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; saved and restored as a whole.

    `params` and `ema_params` are flat dicts by path (models/params.py); `key` is never split, each
    step folds its own number in, so that a resumed run draws what an unbroken one would have.
    """

    step: jax.Array
    params: FlatParams
    opt_state: Any
    ema_params: FlatParams
    key: jax.Array


def make_schedule(cfg: ConfigDict) -> optax.Schedule:
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


def make_optimizer(cfg: ConfigDict) -> optax.GradientTransformation:
    """Clipping and AdamW; biases, norms and other vectors are not decayed."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.grad_clip),
        optax.adamw(
            make_schedule(cfg),
            b1=0.9,
            b2=cfg.adam_b2,
            weight_decay=cfg.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def create_state(params: FlatParams, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """A state at step 0. `ema_params` gets its own buffers: the state is donated."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def step_key(state: TrainState) -> jax.Array:
    """The random key of this step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def apply_gradients(
    state: TrainState, grads: FlatParams, tx: optax.GradientTransformation, ema_decay: float
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step and the weight average; returns the new state and the norms to log.

    The average's decay is min(ema_decay, (1 + step) / (10 + step)), the usual debiasing warm-up
    (LitEma, ldm/modules/ema.py).
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema_params, params)
    norms = {
        "grad_norm": optax.global_norm(grads),
        "update_norm": optax.global_norm(updates),
        "param_norm": optax.global_norm(params),
    }
    return state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema
    ), norms
