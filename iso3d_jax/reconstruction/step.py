"""One iteration of the optimisation, and the compiled program that runs many of them.

Everything a program needs is an argument: the networks, the picture's embedding, the schedule, the
sampled views, the seed's key. Nothing is closed over, so that another picture, other weights or
another seed do not compile again. Iterations run in a loop on the device with a number of turns
that is an argument too: one program serves any range of iterations, and a resumed run computes bit
by bit what an unbroken one does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from iso3d_jax.guidance.annealing import ramp
from iso3d_jax.nerf import field, occupancy
from iso3d_jax.reconstruction.losses import (
    LOSSES,
    Denoiser,
    DenoiserSpec,
    Pictures,
    fold,
    sds_losses,
    views_losses,
)  # fmt: skip
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State, make_grid, optimizer


def loss_weights(spec: ReconstructionSpec, step: Array) -> dict[str, Array]:
    """Weight of each loss at this iteration."""
    if spec.mode == "views":
        weights = {"photometric": 1.0} | vars(spec.draft)
    else:
        weights = vars(spec.loss)
    return {name: ramp(weights[name], step) for name in LOSSES if name in weights}


def update_occupancy(state: State, key: jax.Array, spec: ReconstructionSpec) -> State:
    """Measures the occupancy grid when it is time to."""
    o = spec.occupancy

    def measure(occs):
        return occupancy.update(
            key, occs, lambda x: field.density(state.params, x, spec.field), state.step,
            resolution=o.resolution, radius=spec.field.radius,
            step_size=spec.render.step_size, decay=o.decay, threshold=o.threshold, warmup=o.warmup,
        )  # fmt: skip

    occs = jax.lax.cond(state.step % o.every == 0, measure, lambda occs: occs, state.occs)
    return state._replace(occs=occs)


def train_step(
    state: State,
    source: Denoiser | Pictures,
    key: jax.Array,
    *,
    spec: ReconstructionSpec,
    denoiser_spec: DenoiserSpec,
    phase: int,
) -> tuple[State, dict[str, Array]]:
    """One iteration: occupancy, losses, AdamW.

    Where the loss or its gradient is not finite, parameters and optimizer stay as they are and the
    iteration counts as skipped, as with the gradient scaler of the released run.

    Args:
      source: what to follow, a `Denoiser` (SDS) or `Pictures` (a draft).
      key: the run's, `jax.random.key(spec.seed)`; an iteration's is made of it and its number.
      phase: index into `spec.phases`.

    Returns:
      The new state and scalars: every loss unweighted, the total, opacity, t, how full the slots
      of the render are, and `skipped`, 1 for an iteration that was left out.
    """
    k_occupancy, k_losses = jax.random.split(jax.random.fold_in(key, state.step))
    state = update_occupancy(state, k_occupancy, spec)
    grid = make_grid(state, spec)
    weights = loss_weights(spec, state.step)
    compute: Callable[..., tuple[dict, dict]]  # either takes the source that its mode has
    compute = sds_losses if spec.mode == "sds" else views_losses

    def total(params):
        losses, facts = compute(
            params, source, k_losses, state.step, grid, spec=spec,
            denoiser_spec=denoiser_spec, phase=phase,
        )  # fmt: skip
        value = sum(weights[name] * loss for name, loss in losses.items())
        return value, losses | facts | {"total": value}

    grads, metrics = jax.grad(total, has_aux=True)(state.params)
    square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    metrics["gradient"] = jnp.sqrt(square)
    updates, opt_state = optimizer(spec).update(grads, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    finite = jnp.isfinite(metrics["total"]) & jnp.isfinite(square)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    bad = 1 - finite.astype(jnp.int32)
    metrics["skipped"] = bad
    state = State(
        state.step + 1, params, opt_state, state.occs, state.skipped + bad,
        bad * (state.in_a_row + 1),
    )  # fmt: skip
    return state, {name: jnp.float32(value) for name, value in metrics.items()}


@functools.partial(
    jax.jit, static_argnames=("capacity", "spec", "denoiser_spec", "phase"), donate_argnames="state"
)
def run_steps(
    state: State,
    source: Denoiser | Pictures,
    count: Array,
    key: jax.Array,
    *,
    capacity: int,
    spec: ReconstructionSpec,
    denoiser_spec: DenoiserSpec,
    phase: int,
) -> tuple[State, dict[str, Array]]:
    """Runs `count` iterations on the device, or fewer if `spec.max_bad_steps` in a row are skipped.

    Args:
      count: number of iterations, at most `capacity`.
      key: the run's.
      spec: `of_iterations` where a program is to serve runs that differ in other numbers only.

    Returns:
      The new state, and `train_step`'s scalars as arrays [capacity], zero beyond the last one.
    """
    if isinstance(source, Denoiser):
        source = fold(source, spec.phases[phase][2])
    # Jitted, so that the shapes of its scalars and the loop's body are of one trace.
    step = jax.jit(
        functools.partial(train_step, spec=spec, denoiser_spec=denoiser_spec, phase=phase)
    )
    shapes = jax.eval_shape(step, state, source, key)[1]
    record = {name: jnp.zeros(capacity, jnp.float32) for name in shapes}

    def more(carry):
        index, state, _ = carry
        return (index < count) & (state.in_a_row < spec.max_bad_steps)

    def body(carry):
        index, state, record = carry
        state, metrics = step(state, source, key)
        return index + 1, state, {k: record[k].at[index].set(metrics[k]) for k in record}

    return jax.lax.while_loop(more, body, (jnp.int32(0), state, record))[1:]
