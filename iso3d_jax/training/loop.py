"""The loop every kind of training runs in: resume, step, log, sample, save.

A task (see `Task`) says what is trained; the loop knows nothing of it. One compiled program a
branch, state donated, the next batch put onto the devices while a step runs (`ahead.py`),
checkpoints in the background, SIGTERM and Ctrl-C save before they end. The same loop runs in one
process and in each of many (training/distributed.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iso3d_jax.core.progress import Progress
from iso3d_jax.core.stopping import EXIT_PREEMPTED, StopSignals, leave_broken_run
from iso3d_jax.models.params import FlatParams, count_params
from iso3d_jax.training import distributed, sharding
from iso3d_jax.training.ahead import BatchesAhead
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.metrics_writer import MetricsWriter
from iso3d_jax.training.optimizer import make_optimizer
from iso3d_jax.training.spec import TrainingSpec
from iso3d_jax.training.speed import Speed
from iso3d_jax.training.state import TrainState, averaged_params, create_state
from iso3d_jax.training.watch import StepWatch

PROFILE_AFTER = 3  # steps before the trace, so that it shows none of the start


class Step(Protocol):
    """What a step's program is made of: no weights, no data."""

    graphdef: Any
    train_step: Callable[..., tuple[TrainState, dict]]  # (state, batch, *, graphdef, tx, cfg)

    @property
    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The weights' shapes by path."""
        ...

    def trained(self, params: Iterable[str]) -> list[str] | None:
        """Paths of the weights that are trained; None means all."""
        ...


class Task(Step, Protocol):
    """What the loop asks of a kind of training."""

    label: str
    summary: str  # what the first line of a run says beside sizes; may be empty
    sharding_rules: sharding.Rules

    @property
    def cfg(self) -> TrainingSpec:
        """The numbers of the run."""
        ...

    @property
    def init_params(self) -> FlatParams | Callable[[], FlatParams]:
        """The first weights, or what makes them on the host."""
        ...

    def branch(self, step: int) -> str:
        """Which program this step runs, a pure function of (seed, step)."""
        ...

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """These rows of the step's batch, a pure function of (seed, step)."""
        ...

    def on_devices(self, batch: dict[str, jax.Array], device_mesh: Mesh) -> dict[str, jax.Array]:
        """What the step gets of a global batch: the same, or more work on it."""
        ...

    def position(self) -> dict[str, int]:
        """Where the loader is after the last batch, for the checkpoint; JSON."""
        ...

    def restore_position(self, position: dict[str, int]) -> None:
        """Puts the loader where a checkpoint was made."""
        ...

    def names(self, step: int) -> list[str]:
        """Names of the batch's objects, for messages; empty where there are none."""
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


def abstract_state(task: Step, tx, cfg: TrainingSpec):
    """The train state's shapes."""
    shapes = task.abstract_params
    trained = task.trained(shapes)
    return jax.eval_shape(lambda p: create_state(p, tx, cfg.seed, trained), shapes)


def new_state(task: Task, tx, cfg: TrainingSpec, abstract: TrainState, shardings) -> TrainState:
    """A state at step 0; no device ever holds more than its share.

    Weights come from the host's memory: one program that draws them all in place compiles for
    longer than the host needs to draw them.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        params = task.init_params() if callable(task.init_params) else task.init_params
    params = sharding.put_params(params, shardings.params)
    trained = list(abstract.ema_params)
    make = jax.jit(
        lambda p: create_state(p, tx, cfg.seed, trained),
        in_shardings=(shardings.params,),
        out_shardings=shardings,
    )
    return make(params)


def trace_step(task: Step, tx, cfg: TrainingSpec, shardings, device_mesh: Mesh, state, batch):
    """One branch's step for a state and a batch or their shapes, traced; `.lower().compile()` it.

    Both have to happen within `jax.set_mesh(device_mesh)`.
    """
    step = functools.partial(task.train_step, graphdef=task.graphdef, tx=tx, cfg=cfg)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(device_mesh)),
        out_shardings=(shardings, NamedSharding(device_mesh, P())),
    )
    return jitted.trace(state, batch)


class Program(NamedTuple):
    """A branch's compiled step, and what it was compiled from."""

    step: Callable[..., tuple[TrainState, dict]]
    jaxpr: Any


def fit(
    task: Task,
    workdir: str | Path,
    *,
    profile_steps: int = 0,
    wandb_project: str | None = None,
    programs: dict[str, Program] | None = None,
) -> TrainState:
    """Trains to `task.cfg.steps`, from the workdir's newest checkpoint if it has one.

    Args:
      task: what is trained.
      workdir: the run's folder, the same for all processes.
      profile_steps: how many steps to trace into `workdir/profile`; 0 traces none.
      wandb_project: where Weights & Biases gets the numbers too.
      programs: compiled steps that runs share whose configs differ in seed, steps already done and
        `init_from` alone; filled here.

    Raises:
      UserError: a workdir of another config, a loss that went bad, or a full disk.
      SystemExit: status 143 after SIGTERM, with the state saved; see core/stopping.py.
    """
    cfg = task.cfg
    device_mesh = sharding.make_mesh(dataclasses.asdict(cfg.mesh))
    sharding.check_batch_size(cfg.batch_size, cfg.batch_parts, device_mesh)
    tx = make_optimizer(cfg)
    abstract = abstract_state(task, tx, cfg)
    shardings = sharding.state_shardings(abstract, device_mesh, task.sharding_rules)
    checkpoints = Checkpoints(workdir, cfg)
    if checkpoints.latest_step() is None:
        state = new_state(task, tx, cfg, abstract, shardings)
    else:
        state = checkpoints.restore(abstract, shardings)
        task.restore_position(checkpoints.position(int(state.step)))
    start = int(state.step)

    first = jax.process_index() == 0  # the process that talks
    compiled: dict[str, Program] = {} if programs is None else programs
    speed = Speed(cfg.batch_size, device_mesh)
    writer = MetricsWriter(checkpoints.workdir, start, wandb_project) if first else None
    progress = Progress(
        cfg.steps,
        task.label,
        start=start,
        unit="step",
        stream=None if first else open(os.devnull, "w"),  # noqa: SIM115
    )
    frozen = count_params(abstract.params) - count_params(abstract.ema_params)
    progress.note(
        f"{task.label}: {count_params(abstract.params) / 1e6:.2f} M weights, "
        + (f"{frozen / 1e6:.2f} M of them frozen, " if frozen else "")
        + (f"{task.summary}, " if task.summary else "")
        + f"batch {cfg.batch_size}, {device_mesh.devices.size} x {jax.default_backend()}, "
        + (f"{jax.process_count()} processes, " if jax.process_count() > 1 else "")
        + (f"resumed at step {start}" if start else "from the start")
    )

    def last_checkpoint() -> str:
        checkpoints.wait()
        good = checkpoints.latest_step() or 0
        return f"the last good checkpoint is of step {good} in {checkpoints.workdir}"

    watch = StepWatch(cfg, task.names, progress.note, last_checkpoint)
    profile = _Profile(checkpoints.workdir / "profile", start + PROFILE_AFTER, profile_steps)
    batches = BatchesAhead(task, cfg.batch_size, device_mesh, speed.wait)
    try:
        with (
            checkpoints.full_disk(), _broken_runs(checkpoints), StopSignals() as stop, profile,
            batches,
        ):  # fmt: skip
            for step in range(start, cfg.steps):
                name = task.branch(step)
                batch = task.on_devices(batches.take(step), device_mesh)
                if name not in compiled:
                    with progress.compiling(name), jax.set_mesh(device_mesh):
                        traced = trace_step(task, tx, cfg, shardings, device_mesh, state, batch)
                        compiled[name] = Program(traced.lower().compile(), traced.jaxpr)
                    distributed.barrier(f"{name} compiled")
                    speed.restart()
                speed.register_flops(name, compiled[name].jaxpr)
                profile.before(step)
                state, metrics = compiled[name].step(state, batch)
                profile.after(step, state)
                speed.add(name)
                done = step + 1
                stopping = stop.after(done)  # asked once: what follows must agree on it
                last = done == cfg.steps or stopping
                if not last:
                    batches.prepare(done, metrics)
                watch.add(done, metrics)
                logging = done % cfg.log_every == 0 or last
                saving = done % cfg.checkpoint_every == 0 or last
                values = watch.check() if logging or saving else {}  # nothing bad is ever saved
                if logging and writer is not None:
                    values |= speed.values()
                    writer.scalars(
                        done, {f"{k}/{name}" if k == "loss" else k: v for k, v in values.items()}
                    )
                    progress.update(done, loss=values.get("loss", float("nan")))
                if logging:
                    speed.restart()
                if saving:
                    checkpoints.save(done, state, batches.position)
                diagnosing = cfg.ablate_every and done % cfg.ablate_every == 0
                showing = last or bool(cfg.sample_every and done % cfg.sample_every == 0)
                if showing:
                    # What a checkpoint that is being written holds of the state is a second copy.
                    checkpoints.wait()
                if diagnosing:
                    params = _whole_params(state)
                    with progress.doing("the one-step table"):
                        if writer is not None:
                            writer.scalars(done, task.diagnose(params))
                if showing:
                    drawing = " and drawing samples" if cfg.sample_every else ""
                    with progress.doing(f"writing the model{drawing}"):
                        _show(task, state, writer, checkpoints.workdir, done, bool(drawing))
                if diagnosing or showing:  # by the first process, while the others have nothing
                    distributed.barrier(f"shown step {done}")
                    speed.restart()
                if stopping:
                    break
    finally:
        with checkpoints.full_disk():
            try:
                checkpoints.close()
            finally:
                if writer is not None:
                    writer.close()
    progress.close()
    if stop.received is not None:
        progress.note(
            f"stopped by {stop.received.name}; saved at step {int(state.step)}, "
            "the same command goes on from there"
        )
        raise SystemExit(EXIT_PREEMPTED if stop.received == signal.SIGTERM else 130)
    if start >= cfg.steps:
        _show(task, state, None, checkpoints.workdir, start, False)
    return state


@contextlib.contextmanager
def _broken_runs(checkpoints: Checkpoints) -> Iterator[None]:
    """Ends this process at once where a step failed because another process is gone."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, TimeoutError) as error:  # the latter: orbax's barriers
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        leave_broken_run(error, checkpoints.latest_step(), checkpoints.workdir)


def _show(
    task: Task, state: TrainState, writer: MetricsWriter | None, workdir: Path, step: int,
    samples: bool,
) -> None:  # fmt: skip
    """Writes the averaged weights as a model folder and, if samples are wanted, a preview."""
    params = _whole_params(state)
    if jax.process_index() > 0:
        return
    task.export(params, workdir / "model")
    picture = task.preview(params) if samples else None
    if picture is not None and writer is not None:
        writer.picture(step, "samples", picture)


def _whole_params(state: TrainState) -> FlatParams:
    """The averaged weights for one process to use alone; all must take part in the bringing."""
    params = averaged_params(state)
    if jax.process_count() == 1:
        return params
    return cast(FlatParams, sharding.to_host(params))  # they are only read from here on


class _Profile:
    """A trace of `count` steps from step `first` on, for TensorBoard's or Perfetto's viewer."""

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end = folder, first, first + count
        self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def before(self, step: int) -> None:
        if step == self._first < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state) -> None:
        if self._running and step + 1 >= self._end:
            jax.block_until_ready(state)
            self.__exit__()
