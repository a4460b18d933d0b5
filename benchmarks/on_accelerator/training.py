"""A training step of stage 2 at full size: the batch at which an object takes the least time."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
from measuring import Program, compile_traced, random_weights
from on_accelerator.record import first_line
from on_accelerator.setting import Bench

from iso3d_jax.planning import compile_for
from iso3d_jax.training import loop, sharding
from iso3d_jax.training.optimizer import make_optimizer

RESERVE = 60.0  # seconds that are left for the part that comes after
WORTH = 0.98  # an object's time has to fall below so much of the last, or no larger batch is tried


def step(bench: Bench) -> None:
    """Steps with four views and the reference (2-b), then with one (2-a), bfloat16, remat blocks.

    The batch is doubled until it does not fit, or an object no longer gets cheaper, or time is
    over. Weights and batches are random, so the losses mean nothing.
    """
    batch_size = bench.sizes.batch
    for branch in ("2-b", "2-a"):
        with bench.record.trying(branch):
            batch_size = _best(bench, branch, batch_size) or batch_size


def _best(bench: Bench, branch: str, batch_size: int) -> int:
    """Measures doubled batches; the one with the cheapest object, 0 if none was measured."""
    cfg = bench.stage2(batch_size)
    task = compile_for.AbstractTask(cfg)
    tx = make_optimizer(cfg)
    task.init_params = random_weights(task.abstract_params)
    mesh = sharding.make_mesh(dataclasses.asdict(cfg.mesh), jax.devices()[:1])
    abstract = loop.abstract_state(task, tx, cfg)
    shardings = sharding.state_shardings(abstract, mesh, task.sharding_rules)
    state = loop.new_state(task, tx, cfg, abstract, shardings)
    rows = bench.record

    def measure(batch_size: int) -> float | None:
        """Seconds an object; None where the batch does not fit."""
        nonlocal state
        name = f"{branch}, batch {batch_size}"
        sized = dataclasses.replace(cfg, batch_size=batch_size)
        batch = jax.device_put(
            random_batch(compile_for.abstract_batch(sized, branch)), sharding.batch_sharding(mesh)
        )
        with jax.set_mesh(mesh):
            traced = loop.trace_step(task, tx, sized, shardings, mesh, state, batch)
            program = compile_traced(traced)
        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", np.inf) / 1e9
        if program.gb > limit:
            rows.row(name, program_gb=program.gb, does_not_fit_gb=limit)
            return None
        try:
            seconds, state = _timed(program, state, batch, bench.sizes.repeats)
        except jax.errors.JaxRuntimeError as error:  # what was donated is gone: no other batch
            rows.row(name, program_gb=program.gb, error=first_line(error))
            return None
        figures = program.figures(seconds)
        if bench.matmul_rate:
            figures["share_of_matmul_rate"] = program.flops / seconds / bench.matmul_rate
        rows.row(name, **figures, objects_per_second=batch_size / seconds)
        return seconds / batch_size

    left = (lambda: np.inf) if bench.tiny else (lambda: rows.left() - RESERVE)
    best, least = search(measure, batch_size, bench.sizes.largest_batch, left)
    if best:
        rows.row(f"{branch}, best", batch=best, objects_per_second=1 / least)
    return best


def search(
    measure: Callable[[int], float | None], first: int, largest: int, left: Callable[[], float]
) -> tuple[int, float]:
    """Doubles a batch while that pays: (the best one, its seconds an object), 0 if there is none.

    Args:
      measure: seconds an object at a batch; None if it does not fit.
      left: seconds that there still are; a batch that takes half as long again as the last did to
        compile and measure has to fit in.
    """
    best, least, took, batch_size = 0, np.inf, 0.0, first
    while batch_size <= largest and left() >= 1.5 * took:
        began = time.monotonic()
        seconds = measure(batch_size)
        took = time.monotonic() - began
        if seconds is None or seconds >= WORTH * least:
            break
        best, least, batch_size = batch_size, seconds, 2 * batch_size
    return best, least


def random_batch(shapes: dict) -> dict[str, np.ndarray]:
    """Arrays of these shapes and types, normal."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        for name, leaf in shapes.items()
    }


def _timed(program: Program, state, batch, repeats: int):
    """(median seconds of a step, the state after); the state given is used up."""
    times = []
    for index in range(repeats + 1):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(program.call(state, batch))
        if index:  # the first is a warm-up
            times.append(time.perf_counter() - began)
    return float(np.median(times)), state
