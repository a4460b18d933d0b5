"""Who does the jobs: a thread a device, which nothing but the server's end stops.

A `Maker` is all that they know of a model; `makers.py` has the real one.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import describe_os_error
from iso3d_jax.core.progress import listening
from iso3d_jax.ui import downloads
from iso3d_jax.ui.queue import EXPORT, OBJECT, VIEWS, Job, Queue
from iso3d_jax.ui.runs import DONE, STOPPED, WAITING, WORKING, Drawn, Run
from iso3d_jax.views import Views

LEAVE_S = 90.0  # that the server's end waits for iterations to end, and be saved
OUT_OF_MEMORY = "the device ran out of memory: make a draft, or use a smaller model"


class Stopped(Exception):
    """A maker stopped since `on_step` returned False; what was done is saved."""


class Maker(Protocol):
    """Makes views and objects on one device.

    Attributes:
      about: the model and the device, for the page.
      guidance_scale: the model's own.
    """

    about: str
    guidance_scale: float

    def warm_up(self) -> None:
        """Does once what takes long the first time."""

    def views(self, picture: np.ndarray, drawn: Drawn) -> Views:
        """Four views of a picture, RGBA uint8 [H, W, 4]."""
        ...

    def object(self, views: Views, out: Path, mode: str, name: str, on_step: Callable) -> None:
        """Makes the object in a folder, or goes on there.

        Args:
          on_step: called as `on_step(part, step, total, preview)`: which part of it, of
            `runs.Run.part`, is at which of its iterations, 0 of 0 where it has none.

        Raises:
          Stopped: `on_step` returned False.
        """

    def export(self, folder: Path, path: Path) -> Any:
        """Writes the mesh of an object's folder to a file."""


class Workers:
    """The threads, and what they and the page tell each other.

    Attributes:
      queue: what waits.
      doing: what all wait for until the first device can draw views; empty from then on.
      failed: why there is no model; empty where all is well.
      about, guidance_scale: of the first maker, once there is one.
      working: the job of each thread, None where it waits for one.
    """

    def __init__(self, queue: Queue):
        self.queue = queue
        self.doing, self.failed = "starting", ""
        self.about, self.guidance_scale = "", 1.0
        self.working: list[Job | None] = []
        # of the object that was made last, by mode and part: what those to come may take
        self._seconds: dict[str, dict[str, float]] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, load: Callable[[], Sequence[Callable[[], Maker]]]) -> None:
        """Loads the model in the background, and then works.

        Args:
          load: returns for each device what makes its maker, called in the device's thread.
        """
        thread = threading.Thread(target=self._load, args=(load,), name="ui-load", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _load(self, load: Callable[[], Sequence[Callable[[], Maker]]]) -> None:
        self.doing = "loading the model"
        try:
            makers = load()
        except Exception as error:
            self._give_up(error)
            return
        self.working = [None] * len(makers)
        for index, make in enumerate(makers[1:], 1):
            thread = threading.Thread(
                target=self._work, args=(index, make), name=f"ui-{index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._work(0, makers[0])

    def _give_up(self, error: Exception) -> None:
        self.failed = _explain(error)
        print(f"error: {self.failed}", file=sys.stderr, flush=True)

    def _work(self, index: int, make: Callable[[], Maker]) -> None:
        try:
            maker = make()
            if index == 0:
                self.about, self.guidance_scale = maker.about, maker.guidance_scale
                self.doing = "getting ready to draw: the first time programs are compiled for it"
            maker.warm_up()
        except Exception as error:
            self._give_up(error)
            return
        self.doing = ""
        while (job := self.queue.take()) is not None:
            self.working[index] = job
            self._do(maker, job)
            self.working[index] = None

    def _do(self, maker: Maker, job: Job) -> None:
        do = {VIEWS: self._draw, EXPORT: self._export, OBJECT: self._make}[job.kind]
        hear = listening(job.run.hear) if job.kind == OBJECT else contextlib.nullcontext()
        try:
            with hear:
                do(maker, job)
        except Exception as error:  # the next job is somebody else's
            why = _explain(error)
            if job.kind == EXPORT:
                job.run.exports[job.detail] = why
                job.run.hear(job.run.told)
            else:
                job.run.hear(None, "")
                job.run.fail(job.kind, why)

    def _draw(self, maker: Maker, job: Job) -> None:
        from iso3d_jax.data.pictures import load_picture

        run = job.run
        drawn = run.state.wanted
        assert drawn is not None
        run.change(views=WORKING)
        picture = load_picture(run.folder / "input.png", remove_background="never")
        run.add_set(maker.views(picture, drawn), drawn)

    def _export(self, maker: Maker, job: Job) -> None:
        job.run.exports[job.detail] = WORKING
        job.run.hear(job.run.told)
        downloads.write(job.run, job.detail, maker.export)
        del job.run.exports[job.detail]
        job.run.hear(job.run.told)

    def _make(self, maker: Maker, job: Job) -> None:
        run = job.run
        fresh = not run.object_folder.exists()
        run.change(object=WORKING, error="")
        run.hear(None, "views")
        took: dict[str, float] = {}

        def enter(part: str) -> None:
            if part != run.part:
                took[run.part] = time.monotonic() - run.part_begun
                run.hear(None, part)

        def on_step(part: str, step: int, total: int, preview: np.ndarray | None) -> bool:
            enter(part)
            if total:
                run.count(step, total)
            if preview is not None and (step or part == "files"):  # else a sheet of the views
                run.show_preview(preview)
            while not self._stopping.is_set() and (short := self.queue.take_short()) is not None:
                # in a context of its own: its progress says nothing about the object
                contextvars.Context().run(self._do, maker, short)
            return not (run.cancelled or self._stopping.is_set())

        try:
            views = run.load_set(run.state.chosen)
            maker.object(views, run.object_folder, run.state.mode, run.state.name, on_step)
        except Stopped:
            run.hear(None, "")
            run.change(object=STOPPED)
            return
        enter("")
        if fresh:
            self._seconds[run.state.mode] = took
        run.change(object=DONE)

    def draw(self, run: Run, drawn: Drawn) -> None:
        """Asks for a set of views.

        Raises:
          UserError: they are there, are being drawn, or too many jobs wait.
        """
        with run.lock:
            if run.state.views in (WAITING, WORKING):
                raise UserError("views of this picture are being drawn: wait for them")
            if drawn in run.state.sets:
                raise UserError(
                    f"set {run.state.sets.index(drawn) + 1} has this seed and this guidance: "
                    "give another"
                )
            self._ask(Job(run, VIEWS), "views", wanted=drawn)

    def make(self, run: Run, chosen: int, mode: str) -> None:
        """Asks for the object of a set of views; goes on with it where it was stopped.

        Raises:
          UserError: no such set, an object is being made, or too many jobs wait.
        """
        with run.lock:
            if run.state.object in (WAITING, WORKING):
                raise UserError("an object of this picture is being made: wait for it, or cancel")
            if not 0 <= chosen < len(run.state.sets):
                raise UserError("there are no such views: draw four first, and choose them")
            run.cancelled, run.exports, run.preview = False, {}, 0
            self._ask(Job(run, OBJECT), "object", chosen=chosen, mode=mode)

    def _ask(self, job: Job, part: str, **values: Any) -> None:
        before = job.run.state
        job.run.change(**{part: WAITING, "error": "", **values})  # a worker may begin at once
        try:
            self.queue.put(job)
        except UserError:
            job.run.change(**{name: getattr(before, name) for name in (part, "error", *values)})
            raise

    def ask_export(self, run: Run, kind: str) -> None:
        """Asks for a file of a finished object; nothing where it is there, or is being written.

        Raises:
          UserError: as of `downloads.check`, or too many jobs wait.
        """
        with run.lock:
            downloads.check(run, kind)
            at_it = run.exports.get(kind) in (WAITING, WORKING)
            if at_it or downloads.place(run, kind).is_file():
                return
            self.queue.put(Job(run, EXPORT, kind))
            run.exports[kind] = WAITING
            run.hear(run.told)

    def cancel(self, run: Run) -> None:
        """Stops the making of an object; what is done of it is kept."""
        with run.lock:
            if self.queue.remove(Job(run, OBJECT)):
                run.change(object=STOPPED)
            elif run.state.object == WORKING:
                run.cancelled = True
                run.hear(run.told)

    def seconds_left(self, run: Run) -> float | None:
        """Until an object is made, by its rate and by what its later parts took the last time.

        None where no object was made yet in this mode.
        """
        before = self._seconds.get(run.state.mode)
        if before is None or run.part not in before:
            return None
        names = list(before)
        here = max(0.0, before[run.part] - (time.monotonic() - run.part_begun))
        counted = run.part_seconds_left()
        here = here if counted is None else counted
        return here + sum(before[name] for name in names[names.index(run.part) + 1 :])

    def ahead(self, run: Run, kind: str) -> int | None:
        """How many jobs are before a run's, those that are being done too; None: it is no more."""
        waiting = self.queue.ahead(Job(run, kind))
        if waiting is None:
            return None
        return waiting + sum(job is not None for job in self.working)

    def stop(self) -> bool:
        """Ends the threads, each at its next iteration, and waits; False where one did not end."""
        self._stopping.set()
        self.queue.close()
        until = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _explain(error: Exception) -> str:
    """One sentence for the page; what is a fault of ours goes to the terminal whole."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and (sentence := describe_os_error(error)):
        return sentence
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return OUT_OF_MEMORY
    traceback.print_exception(error)
    return (
        f"this failed, and not by a fault of yours ({type(error).__name__}): the terminal in "
        "which the server runs says more"
    )
