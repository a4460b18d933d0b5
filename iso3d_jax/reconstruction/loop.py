"""Runs a reconstruction: compile, dispatch, show, save; stop cleanly and go on later."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Progress
from iso3d_jax.reconstruction import parallel, settings, state
from iso3d_jax.reconstruction.losses import LOSSES, WANTED, Denoiser, DenoiserSpec, Pictures
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.reconstruction.step import run_steps

# Told an iteration and a picture [H, W, 3] of it, uint8, or None; False stops the run.
OnStep: TypeAlias = Callable[[int, np.ndarray | None], object]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived, or somebody asked; the state is saved.

    `signum` is the signal's number, SIGINT's where there was none.
    """

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

    def __init__(
        self,
        spec: ReconstructionSpec,
        denoiser_spec: DenoiserSpec,
        example: State,
        source: Denoiser | Pictures,
        key: jax.Array,
    ):
        self._spec, self._denoiser_spec = spec, denoiser_spec
        self._shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                jnp.shape(x), jnp.result_type(x), sharding=getattr(x, "sharding", None)
            ),
            (example, source, key),
        )
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._futures: dict[int, concurrent.futures.Future] = {}
        self.seconds = 0.0

    def _compile(self, phase: int):
        begin = time.monotonic()
        example, source, key = self._shapes
        program = run_steps.lower(
            example, source, jax.ShapeDtypeStruct((), jnp.int32), key,
            capacity=self._spec.steps_per_call, spec=self._spec.of_iterations,
            denoiser_spec=self._denoiser_spec, phase=phase,
        ).compile()  # fmt: skip
        self.seconds += time.monotonic() - begin
        return program

    def prepare(self, phase: int) -> None:
        """Starts to compile a phase's program in the background."""
        if phase < len(self._spec.phases) and phase not in self._futures:
            self._futures[phase] = self._pool.submit(self._compile, phase)

    def ready(self, phase: int) -> bool:
        """Whether the phase's program is compiled."""
        return phase in self._futures and self._futures[phase].done()

    def get(self, phase: int):
        """The phase's program; waits for it."""
        self.prepare(phase)
        return self._futures[phase].result()


def _finite_means(record: dict[str, np.ndarray], count: int) -> dict[str, float]:
    """Means over the finite ones of `count` iterations, of `WANTED` the largest; empty if none."""
    good = record["skipped"][:count] == 0
    if not good.any():
        return {}
    of = {name: np.max if name in WANTED else np.mean for name in record if name != "skipped"}
    return {name: float(fn(record[name][:count][good])) for name, fn in of.items()}


def _rates(spec: ReconstructionSpec) -> str:
    """The flags that make iterations take smaller steps."""
    if spec.mode == "views":
        return "--config.optimizer.encoding or --config.draft.networks"
    return "--config.optimizer.encoding, --config.optimizer.networks or --config.guidance.scale"


def _bad_steps(
    record: dict[str, np.ndarray], count: int, current: State, spec: ReconstructionSpec
) -> UserError:
    """What to say when too many iterations in a row were not finite, and which losses they were."""
    bad = [k for k in LOSSES if k in record and not np.isfinite(record[k][max(count - 1, 0)])]
    what = f"{' and '.join(bad)} loss" if bad else "gradient's norm"
    return UserError(
        f"the {what} was not a finite number in {int(current.in_a_row)} "
        f"iterations in a row, the last of them iteration {int(current.step) - 1}; the scene from "
        "before them is saved, and the same command goes on from there: give it another "
        f"--config.seed, a lower {_rates(spec)}, or a higher --config.max_bad_steps"
    )


def _check_learned(
    history: dict[str, list[float]], current: State, spec: ReconstructionSpec
) -> None:
    """Refuses to call a run finished of which no iteration was finite."""
    if int(current.skipped) and not history.get("step"):
        raise UserError(
            f"all {int(current.skipped)} iterations were left out, since a loss was not a finite "
            f"number: nothing was optimised; give another --out and a lower {_rates(spec)}"
        )


def most_wanted(history: dict[str, list[float]]) -> dict[str, float]:
    """The largest `Rendering.wanted` of a history, of candidates and of samples."""
    return {
        name.removeprefix("wanted_"): max(history[name]) for name in WANTED if history.get(name)
    }


MUCH_THINNED = 1.5  # times as many samples as there is room for: from here on it is worth a note


def _too_few(most: dict[str, float]) -> str:
    """What to say when samples are thinned."""
    names = [name for name, value in most.items() if value > 1]
    return (
        f"samples along rays are thinned: up to {max(most.values()):.2f} times as many are there "
        f"as config.render.{' and .'.join(names)} {'leaves' if len(names) == 1 else 'leave'} room "
        "for; raise it where the memory allows"
    )


def go_on(folder: Path, metadata: dict, current: State, steps: int, *, label: str = "") -> dict:
    """What the file of a run that goes on says about it, with the config from here on.

    Args:
      metadata: as for `optimize`, with that config.
      current: the state that was saved.
      steps: iterations in all.
      label: begins the lines on the terminal.

    Returns:
      `metadata` for `optimize`; its `changes` has a line for each of `settings.LIVE_KEYS` that is
      another from here on.
    """
    there, step = state.load_metadata(folder), int(current.step)
    print(f"{label}going on at iteration {step} of {steps}")
    changes = settings.changes(there["config"], metadata["config"], step)
    for change in changes:
        print(
            f"{label}config.{change['key']} is {change['to']} from here on, and was "
            f"{change['from']} before"
        )
    if changes:
        there.setdefault("changes", []).extend(changes)
    other = json.dumps(there["config"]) != json.dumps(metadata["config"])
    there["config"] = metadata["config"]
    if other and step >= steps:  # no iteration will save it, and export reads it
        state.save(folder, current, there)
    return there


def optimize(
    current: State,
    source: Denoiser | Pictures,
    spec: ReconstructionSpec,
    denoiser_spec: DenoiserSpec,
    folder: Path,
    metadata: dict,
    *,
    label: str,
    preview: Callable[[State, int], np.ndarray | None] | None = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
    programs: dict[str, Programs] | None = None,
) -> tuple[State, dict[str, list[float]], dict[str, float]]:
    """Runs the iterations that are left, `spec.steps` in all.

    Args:
      current: the state to go on from; its buffers are given away.
      source: what to follow.
      folder: where the state is saved, every `spec.save_every` iterations and when stopped.
      metadata: JSON values saved with the state.
      label: says on the terminal what this is.
      preview: called with the state and the iteration every `spec.preview_every` iterations; makes
        a picture of the scene.
      on_step: told the iteration after every dispatch, with the picture where one was made; the run
        stops where it returns False, as on Ctrl-C.
      programs: compiled programs by label; calls with the same specs and shapes share them.

    Returns:
      The last state, the losses (means of each dispatch's finite iterations, with `step`, and the
      largest of `WANTED`), seconds by phase.

    Raises:
      Interrupted: Ctrl-C, SIGTERM, or `on_step` returned False; the state is saved.
      UserError: no finite loss in `spec.max_bad_steps` iterations in a row; the state from before
        them is saved.
    """
    step = int(current.step)
    device_mesh = denoiser_spec.device_mesh
    history: dict[str, list[float]] = metadata.setdefault("history", {})
    seconds = {"compile": 0.0, "iterations": 0.0, "previews": 0.0}
    if step >= spec.steps:
        _check_learned(history, current, spec)
        return current, history, seconds
    key = jax.random.key(spec.seed)
    current, source, key = parallel.replicate(device_mesh, (current, source, key))
    shared = {} if programs is None else programs
    if label not in shared:
        shared[label] = Programs(spec, denoiser_spec, current, source, key)
    compiled = shared[label]
    progress = progress or Progress(spec.steps, label, start=step)
    told = False  # that samples are thinned
    with signals() as stopped:
        while step < spec.steps:
            phase = spec.phase_at(step)
            if compiled.ready(phase):
                program = compiled.get(phase)
            else:
                begin = time.monotonic()
                with progress.compiling(f"{spec.phases[phase][1]}x{spec.phases[phase][1]} renders"):
                    program = compiled.get(phase)
                seconds["compile"] += time.monotonic() - begin
            compiled.prepare(phase + 1)
            begin = time.monotonic()
            until = min(spec.phase_end(phase), step + spec.steps_per_call)
            for every in (spec.save_every, spec.preview_every):
                until = min(until, (step // every + 1) * every) if every else until
            current, record = program(current, source, jnp.int32(until - step), key)
            count = int(current.step) - step
            step += count
            record = {k: np.asarray(v) for k, v in record.items()}
            seconds["iterations"] += time.monotonic() - begin
            means = _finite_means(record, count)
            if means:
                for name, value in ({"step": step} | means).items():
                    history.setdefault(name, []).append(value)
            shown = {k: means[k] for k in (*LOSSES, "opacity") if k in means}
            now = most_wanted({k: [means[k]] for k in WANTED if k in means})
            fullest = max(now.values(), default=0.0)
            if fullest > 1:
                shown["wanted"] = fullest
            settled = spec.mode != "views" or step > spec.steps // 2  # drafts begin as haze
            if not told and settled and fullest > MUCH_THINNED:
                told = True
                progress.note(_too_few(now))
            if int(current.skipped):
                shown["skipped"] = int(current.skipped)
            progress.update(step, **shown)
            if int(current.in_a_row) >= spec.max_bad_steps and step < spec.steps:
                error = _bad_steps(record, count, current, spec)
                # the same command, or another seed, is to have as many tries again
                state.save(folder, current._replace(in_a_row=jnp.int32(0)), metadata)
                raise error
            begin, picture = time.monotonic(), None
            if preview and spec.preview_every and step % spec.preview_every == 0:
                with progress.doing("drawing a preview"):
                    picture = preview(parallel.on_one(device_mesh, current), step)
            seconds["previews"] += time.monotonic() - begin
            stop = stopped[0] if stopped else 0
            if on_step is not None and on_step(step, picture) is False:
                stop = stop or signal.SIGINT
            if stop or step >= spec.steps or (spec.save_every and step % spec.save_every == 0):
                state.save(folder, current, metadata)
            if stopped or (stop and step < spec.steps):
                progress.note(f"stopped at iteration {step}; the same command goes on from there")
                raise Interrupted(stop)
    progress.close()
    _check_learned(history, current, spec)
    return parallel.on_one(device_mesh, current), history, seconds
