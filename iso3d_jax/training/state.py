"""The train state and the one place where gradients become new weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from iso3d_jax.models.params import FlatParams
from iso3d_jax.training.optimizer import GuardState, global_norm


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; saved and restored as a whole.

    `params` and `ema_params` are flat dicts by path (models/params.py); averages and moments exist
    for the weights that are trained, `params` has the frozen ones too. `key` is never split, each
    step folds its own number in, so that a resumed run draws what an unbroken one would have.
    """

    step: jax.Array
    params: FlatParams
    opt_state: Any
    ema_params: FlatParams
    key: jax.Array


def create_state(
    params: FlatParams,
    tx: optax.GradientTransformation,
    seed: int,
    trained: Iterable[str] | None = None,
) -> TrainState:
    """A state at step 0. `ema_params` gets its own buffers: the state is donated.

    Args:
      params: all weights.
      tx: the optimizer.
      seed: of all the run's draws.
      trained: paths of the weights that are trained; None means all.
    """
    subset = params if trained is None else {path: params[path] for path in sorted(trained)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(subset),
        ema_params=jax.tree.map(jnp.copy, subset),
        key=jax.random.key_data(jax.random.key(seed)),
    )


def averaged_params(state: TrainState) -> FlatParams:
    """All weights, the trained ones averaged."""
    return {**state.params, **state.ema_params}


def step_key(state: TrainState) -> jax.Array:
    """The random key of this step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


@jax.jit
def _move(weight, update, average, decay):
    """A weight after its update, and its average; traced once a shape (training/optimizer.py)."""
    moved = (weight + update).astype(weight.dtype)
    return moved, average + (1.0 - decay) * (moved - average)


def apply_gradients(
    state: TrainState,
    grads: FlatParams,
    tx: optax.GradientTransformation,
    ema_decay: float,
    loss: jax.Array | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step and the weight average; returns the new state and the norms to log.

    The average's decay is min(ema_decay, (1 + step) / (10 + step)), the usual debiasing warm-up
    (LitEma, ldm/modules/ema.py).

    Args:
      state: before the step.
      grads: of the trained weights, by path.
      tx: the optimizer.
      ema_decay: of the weight average.
      loss: what a guard watches (training/optimizer.py); the gradients' norm where left out.
    """
    trained = {path: state.params[path] for path in grads}
    grad_norm = global_norm(grads)
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads, state.opt_state, trained, loss=grad_norm if loss is None else loss,
        grad_norm=grad_norm,
    )  # fmt: skip
    updates = cast(FlatParams, updates)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    moved, ema = {}, {}
    for path, update in updates.items():
        moved[path], ema[path] = _move(trained[path], update, state.ema_params[path], decay)
    norms = {
        "grad_norm": grad_norm,
        "update_norm": global_norm(updates),
        "param_norm": global_norm(moved),
    }
    if isinstance(opt_state, GuardState):
        norms |= {"skipped": opt_state.skipped, "skipped_in_row": opt_state.in_row}
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params={**state.params, **moved},
        opt_state=opt_state,
        ema_params=ema,
    ), norms
