"""The loop every kind of training runs in: resume, step, log, sample, save.

A task (see `Task`) says what is trained; the loop knows nothing of it. One compiled program a
branch, state donated, checkpoints in the background, SIGTERM and Ctrl-C save before they end.
"""

from __future__ import annotations

import functools
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from iso3d_jax.errors import UserError
from iso3d_jax.models.params import FlatParams, count_params
from iso3d_jax.progress import Progress
from iso3d_jax.training import sharding
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.metrics import MetricsWriter
from iso3d_jax.training.state import TrainState, create_state, make_optimizer

EXIT_PREEMPTED = 143  # 128 + SIGTERM: launchers retry on it


class Task(Protocol):
    """What the loop asks of a kind of training."""

    label: str
    graphdef: Any
    init_params: FlatParams
    train_step: Callable[..., tuple[TrainState, dict]]  # (state, batch, *, graphdef, tx, cfg)

    def branch(self, step: int) -> str:
        """Which program this step runs, a pure function of (seed, step)."""
        ...

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The step's batch, a pure function of (seed, step)."""
        ...

    def preview(self, params: FlatParams) -> np.ndarray | None:
        """A picture [H, W, 3] of what the weights do, or None."""
        ...

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        """Scalars that say what the weights attend to; asked for every `ablate_every` steps."""
        ...

    def export(self, params: FlatParams, folder: Path) -> None:
        """Writes the model folder that the other commands load."""
        ...


def fit(task: Task, cfg: ConfigDict, workdir: str | Path) -> TrainState:
    """Trains to `cfg.steps`, from the workdir's newest checkpoint if it has one.

    Raises:
      UserError: a workdir of another config, or a loss that is not finite.
      SystemExit: status 143 after SIGTERM, with the state saved.
    """
    mesh = sharding.make_mesh(cfg.mesh.to_dict())
    if cfg.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"batch_size {cfg.batch_size} does not divide over {mesh.devices.size} devices"
        )
    checkpoints = Checkpoints(workdir, cfg)
    tx = make_optimizer(cfg)
    abstract = jax.eval_shape(lambda p: create_state(p, tx, cfg.seed), task.init_params)
    shardings = sharding.state_shardings(abstract, mesh)
    if checkpoints.latest_step() is None:
        make_state = jax.jit(lambda p: create_state(p, tx, cfg.seed), out_shardings=shardings)
        state = make_state(task.init_params)
    else:
        state = checkpoints.restore(abstract, shardings)
    start = int(state.step)

    step_fn = functools.partial(task.train_step, graphdef=task.graphdef, tx=tx, cfg=cfg)
    batch_sharding = sharding.batch_sharding(mesh)
    compiled: dict[str, Callable] = {}
    writer = MetricsWriter(checkpoints.workdir, start)
    progress = Progress(cfg.steps, task.label, start=start, unit="step")
    progress.note(
        f"{task.label}: {count_params(task.init_params) / 1e6:.2f} M weights, "
        f"batch {cfg.batch_size}, {mesh.devices.size} x {jax.default_backend()}, "
        + (f"resumed at step {start}" if start else "from the start")
    )
    stop = _StopSignals()
    waited, seen, since = 0.0, start, time.monotonic()
    try:
        with stop:
            for step in range(start, cfg.steps):
                began = time.monotonic()
                batch = sharding.put_batch(task.batch(step), mesh)
                waited += time.monotonic() - began
                name = task.branch(step)
                if name not in compiled:
                    with progress.compiling(name):
                        jitted = jax.jit(
                            step_fn,
                            donate_argnums=0,
                            in_shardings=(shardings, batch_sharding),
                            out_shardings=(shardings, None),
                        )
                        compiled[name] = jitted.lower(state, batch).compile()
                    since, seen, waited = time.monotonic(), step, 0.0
                state, metrics = compiled[name](state, batch)
                done = step + 1
                stopping = stop.received is not None  # read once: what follows must agree on it
                last = done == cfg.steps or stopping
                if done % cfg.log_every == 0 or last:
                    values = {k: float(v) for k, v in metrics.items()}
                    _refuse_nan(values, done, checkpoints)
                    elapsed = max(time.monotonic() - since, 1e-9)
                    values["steps_per_second"] = (done - seen) / elapsed
                    values["data_wait_share"] = waited / elapsed
                    writer.scalars(
                        done, {f"{k}/{name}" if k == "loss" else k: v for k, v in values.items()}
                    )
                    progress.update(done, loss=values["loss"])
                    waited, seen, since = 0.0, done, time.monotonic()
                if done % cfg.checkpoint_every == 0 or last:
                    checkpoints.save(done, state)
                if cfg.get("ablate_every") and done % cfg.ablate_every == 0:
                    writer.scalars(done, task.diagnose(state.ema_params))
                    since, seen, waited = time.monotonic(), done, 0.0
                if done % cfg.sample_every == 0 or last:
                    _show(task, state, writer, checkpoints.workdir, done)
                    since, seen = time.monotonic(), done
                if stopping:
                    break
    finally:
        checkpoints.close()
        writer.close()
    progress.close()
    if stop.received is not None:
        progress.note(
            f"stopped by {stop.received.name}; saved at step {int(state.step)}, "
            "the same command goes on from there"
        )
        raise SystemExit(EXIT_PREEMPTED if stop.received == signal.SIGTERM else 130)
    if start >= cfg.steps:
        _show(task, state, None, checkpoints.workdir, start)
    return state


def _show(
    task: Task, state: TrainState, writer: MetricsWriter | None, workdir: Path, step: int
) -> None:
    """Writes the averaged weights as a model folder, and a preview of them."""
    task.export(state.ema_params, workdir / "model")
    picture = task.preview(state.ema_params)
    if picture is not None and writer is not None:
        writer.picture(step, "samples", picture)


def _refuse_nan(values: dict[str, float], step: int, checkpoints: Checkpoints) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        checkpoints.wait()
        good = checkpoints.latest_step()
        raise UserError(
            f"{bad[0]} is not finite at step {step}; the last good checkpoint is of step "
            f"{good if good is not None else 0} in {checkpoints.workdir}; "
            "lower learning_rate, or look at the data"
        )


class _StopSignals:
    """Notes SIGTERM and SIGINT so that the loop can save; a second SIGINT ends at once."""

    def __init__(self):
        self.received: signal.Signals | None = None

    def __enter__(self):
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
