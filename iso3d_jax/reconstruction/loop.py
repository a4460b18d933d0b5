"""Runs a reconstruction: compile, dispatch, show, save; stop cleanly and go on later."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from iso3d_jax.errors import UserError
from iso3d_jax.progress import Progress
from iso3d_jax.reconstruction import settings, spread, state
from iso3d_jax.reconstruction.losses import LOSSES, Pictures, Prior, PriorSpec
from iso3d_jax.reconstruction.settings import phase_end, phase_of
from iso3d_jax.reconstruction.state import State
from iso3d_jax.reconstruction.step import run_steps


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the state is saved. `signum` is the signal's number."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


_seen: list[int] = []  # what the main thread collects now, for the threads beside it


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in a list instead of stopping; a second one stops at once.

    In a thread beside the main one it is the list that the main thread collects.
    """
    global _seen
    if threading.current_thread() is not threading.main_thread():
        yield _seen
        return
    seen: list[int] = []

    def note(signum, frame):
        del frame
        if seen:
            raise KeyboardInterrupt
        seen.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    outer, _seen = _seen, seen
    try:
        yield seen
    finally:
        _seen = outer
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Programs:
    """The compiled programs of a run, one a phase; the next phase's compiles meanwhile."""

    def __init__(self, cfg, spec: PriorSpec, example: State, source: Prior | Pictures):
        self._cfg, self._spec = settings.freeze(cfg), spec
        self._shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                jnp.shape(x), jnp.result_type(x), sharding=getattr(x, "sharding", None)
            ),
            (example, source),
        )
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._futures: dict[int, concurrent.futures.Future] = {}
        self.seconds = 0.0

    def _compile(self, phase: int):
        begin = time.monotonic()
        example, source = self._shapes
        program = run_steps.lower(
            example, source, jax.ShapeDtypeStruct((), jnp.int32),
            capacity=self._cfg.steps_per_call, cfg=self._cfg, spec=self._spec, phase=phase,
        ).compile()  # fmt: skip
        self.seconds += time.monotonic() - begin
        return program

    def prepare(self, phase: int) -> None:
        """Starts to compile a phase's program in the background."""
        if phase < len(self._cfg.phases) and phase not in self._futures:
            self._futures[phase] = self._pool.submit(self._compile, phase)

    def ready(self, phase: int) -> bool:
        """Whether the phase's program is compiled."""
        return phase in self._futures and self._futures[phase].done()

    def get(self, phase: int):
        """The phase's program; waits for it."""
        self.prepare(phase)
        return self._futures[phase].result()


def _check_finite(record: dict[str, np.ndarray], count: int, step: int) -> None:
    """Stops where a step was not finite, and says which loss it was."""
    bad = ~np.isfinite(record["total"][:count]) | ~np.isfinite(record["gradient"][:count])
    if not bad.any():
        return
    first = int(np.argmax(bad))
    names = [k for k in (*LOSSES, "gradient") if k in record and not np.isfinite(record[k][first])]
    raise UserError(
        f"the {' and '.join(names)} {'loss' if names[0] in LOSSES else 'norm'} is not a finite "
        f"number at iteration {step + first}; the last good state is saved, try a lower "
        "--config.optimiser.encoding or --config.guidance.scale"
    )


def optimise(
    current: State,
    source: Prior | Pictures,
    cfg: ConfigDict,
    spec: PriorSpec,
    folder: Path,
    about: dict,
    *,
    label: str,
    preview: Callable[[State, int], None] | None = None,
    progress: Progress | None = None,
    programs: dict[str, Programs] | None = None,
) -> tuple[State, dict[str, list[float]], dict[str, float]]:
    """Runs the iterations that are left, `cfg.steps` in all.

    Args:
      current: the state to go on from; its buffers are given away.
      source: what to follow.
      folder: where the state is saved, every `cfg.save_every` iterations and when stopped.
      about: JSON values saved with the state.
      label: says on the terminal what this is.
      preview: called with the state and the iteration every `cfg.preview_every` iterations.
      programs: compiled programs by label; calls with the same `cfg`, `spec` and shapes share them.

    Returns:
      The last state, the losses (one number a dispatch, with `step`), seconds by phase.

    Raises:
      Interrupted: Ctrl-C or SIGTERM; the state is saved.
      UserError: a loss that is not finite; the last good state is saved.
    """
    step = int(current.step)
    mesh = spec.mesh
    history: dict[str, list[float]] = about.setdefault("history", {})
    seconds = {"compile": 0.0, "iterations": 0.0, "previews": 0.0}
    if step >= cfg.steps:
        return current, history, seconds
    current, source = spread.replicate(mesh, (current, source))
    shared = {} if programs is None else programs
    if label not in shared:
        shared[label] = Programs(cfg, spec, current, source)
    compiled = shared[label]
    progress = progress or Progress(cfg.steps, label, start=step)
    with signals() as stopped:
        while step < cfg.steps:
            phase = phase_of(cfg, step)
            if compiled.ready(phase):
                program = compiled.get(phase)
            else:
                begin = time.monotonic()
                with progress.compiling(f"{cfg.phases[phase][1]}x{cfg.phases[phase][1]} renders"):
                    program = compiled.get(phase)
                seconds["compile"] += time.monotonic() - begin
            compiled.prepare(phase + 1)
            begin = time.monotonic()
            until = min(phase_end(cfg, phase), step + cfg.steps_per_call)
            for every in (cfg.save_every, cfg.preview_every):
                until = min(until, (step // every + 1) * every) if every else until
            count = until - step
            current, record = program(current, source, jnp.int32(count))
            record = {k: np.asarray(v) for k, v in record.items()}
            seconds["iterations"] += time.monotonic() - begin
            try:
                _check_finite(record, count, step)
            except UserError:
                state.save(folder, current, about)
                raise
            step = until
            means = {k: float(v[:count].mean()) for k, v in record.items()}
            for name, value in ({"step": step} | means).items():
                history.setdefault(name, []).append(value)
            shown = {k: means[k] for k in (*LOSSES, "opacity") if k in means}
            progress.update(step, **shown)
            begin = time.monotonic()
            if preview and cfg.preview_every and step % cfg.preview_every == 0:
                with progress.doing("drawing a preview"):
                    preview(spread.on_one(mesh, current), step)
            seconds["previews"] += time.monotonic() - begin
            if stopped or step >= cfg.steps or (cfg.save_every and step % cfg.save_every == 0):
                state.save(folder, current, about)
            if stopped and step < cfg.steps:
                progress.note(f"stopped at iteration {step}; the same command goes on from there")
                raise Interrupted(stopped[0])
    progress.close()
    return spread.on_one(mesh, current), history, seconds
