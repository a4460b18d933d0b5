"""The page of a run that goes on: index.html from its first second, renewed until it is finished.

It is one file for a file:// address, and renews itself there (templates/renew.js): each writing
says when it was, so that the page of a killed run can tell that it hears nothing any more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from markupsafe import Markup

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import readable_name
from iso3d_jax.core.progress import Status, duration, listening
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.pages import html
from iso3d_jax.pages.build import Page, is_cut_out, thumbnail
from iso3d_jax.pages.captions import describe_cameras, label_views, pick_some
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.loop import Interrupted
from iso3d_jax.reconstruction.run import OnStep
from iso3d_jax.reconstruction.spec import ReconstructionSpec

EVERY = 2.0  # seconds between writings that only the step's number asks for
SOON, LATE = 60.0, 900.0  # seconds within which news is to be expected, of steps and of the rest
PATIENCE = 5.0  # times as long as the slowest step of a part may pass before a run counts as lost

# What a progress line is part of, by what its label begins with.
_PARTS = {
    "drawing": "Views", "draft": "Draft", "score": "Score distillation", "surface": "Turntable",
    "turntable": "Turntable", "mesh": "Mesh",
}  # fmt: skip


class LivePage:
    """Writes a run's index.html while it goes on; a context in which the run is made.

        with LivePage(out, spec, picture=rgba, command="iso3d reconstruct ...") as live:
            run.reconstruct(..., on_begin=live.begin, on_step=live.watch(on_step))

    Nothing is written before `begin`: until then the folder may be another run's. When the block
    ends by an error the page says what it was; otherwise the page of the finished run takes its
    place. A page that cannot be written is said once, and stops nothing.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: ReconstructionSpec,
        *,
        init: str = "none",
        name: str = "",
        picture: np.ndarray | None = None,
        posed: PosedPictures | None = None,
        command: str = "",
    ):
        """Prepares it.

        Args:
          folder: the run's.
          spec: of the run.
          init: what it starts from.
          name: what to call the picture.
          picture: RGBA uint8 [H, W, 4].
          posed: the pictures with cameras that a run is made from instead of a picture.
          command: what goes on with the run.
        """
        self._path = Path(folder) / "index.html"
        self._command = command
        self._picture = None if picture is None else html.uri(thumbnail(picture, 512))
        self._cut_out = is_cut_out(picture)
        self._seen: Markup | None = None
        self._views: list[tuple[str, Markup]] = []
        fit = ["Draft"] if spec.mode == "views" or str(init) == "views" else []
        if posed is not None:
            self._show_views(describe_cameras(posed.c2w), posed.on_white())
            self._names = ["Fit", "Turntable", "Mesh"]
        else:
            sds = ["Score distillation"] if spec.mode == "sds" else []
            self._names = ["Views", *fit, *sds, "Turntable", "Mesh"]
        self._given = posed is not None
        self._page = Page(
            title="Pictures to a 3D object" if self._given else "One picture to a 3D object",
            lead=f"Being made from {readable_name(name) or 'a picture'} by iso3d_jax.",
            footer="This page is one file and needs no network; it renews itself until the end.",
        )
        self._status: Status | None = None
        self._rated: tuple[str, float, float] | None = None  # label, seconds left, and when
        self._part = ""
        self._part_seconds: dict[str, float] = {}
        self._compile = 0.0
        self._step = self._total = 0
        self._preview: tuple[int, Markup] | None = None
        self._begun = self._last = self._written = self._slowest = 0.0
        self._refused = False
        self._listening = None

    def __enter__(self) -> LivePage:
        self._listening = listening(self.hear)
        self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._listening is not None
        self._listening.__exit__(kind, error, trace)
        if error is None or not self._begun:
            return
        self._spend()
        if isinstance(error, Interrupted | KeyboardInterrupt | SystemExit):
            where = f" at step {self._step} of {self._total}" if self._total else ""
            self._write("stopped", f"Stopped{where}", "What was done is saved.")
        elif isinstance(error, UserError):
            self._write("failed", "It ended with an error", str(error))
        else:
            text = f"{type(error).__name__}: {shorten(str(error))}"
            self._write("failed", "It ended with an error", text)

    def begin(self) -> None:
        """Writes the page for the first time; the folder is this run's."""
        self._begun = self._last = time.monotonic()
        self._write()

    def watch(self, on_step: OnStep | None = None) -> OnStep:
        """What the run tells its steps to; tells them to `on_step` and returns its answer."""

        def told(step: int, total: int, preview: np.ndarray | None) -> object:
            self._step, self._total = step, total
            news = preview is not None
            if preview is not None and step:
                self._preview = step, html.uri(preview)
            if not self._views:
                file = self._path.parent / draft.VIEWS
                views = draft.load_views(file)[0]
                self._seen = html.uri(draft.load_prepared(file))
                self._show_views(label_views(self._path.parent, len(views)), views)
                news = True
            if news:
                self._write()
            return None if on_step is None else on_step(step, total, preview)

        return told

    def hear(self, status: Status) -> None:
        """Takes what a progress line says, see `core.progress.listening`."""
        if not self._begun:
            return
        seconds = self._spend()
        if self._status is not None and not self._status.doing:
            self._slowest = max(self._slowest, seconds)
        first = status.label.split()[0].partition(".")[0].rstrip(":")
        part = _PARTS.get(first, "")
        part = "Fit" if self._given and part == "Draft" else part
        before, self._status = self._status, status
        if status.seconds_left is not None:
            self._rated = status.label, status.seconds_left, time.monotonic()
        if part and part != self._part:
            self._part, self._slowest = part, 0.0
        other = before is None or (before.label, before.doing) != (status.label, status.doing)
        if other or time.monotonic() - self._written >= EVERY:
            self._write()

    def _spend(self) -> float:
        """Counts the seconds since the last news into the part that they went to."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if self._part:
            self._part_seconds[self._part] = self._part_seconds.get(self._part, 0.0) + seconds
        if self._status is not None and self._status.doing.startswith("compiling"):
            self._compile += seconds
        return seconds

    def _show_views(self, labels: Sequence[str], views: np.ndarray) -> None:
        some = pick_some(len(views))
        self._views = [(labels[k], html.uri(views[k])) for k in some]

    def _news(self) -> str:
        """What is done now, in one sentence."""
        status = self._status
        if status is None:
            return "Loading and preparing."
        if status.doing.startswith("compiling"):
            return (
                f"{status.label}: {status.doing}, once; with a large model this takes minutes, "
                "and it is not counted into the time left."
            )
        if status.doing:
            return f"{status.label}: {status.doing}."
        text = f"{status.label}"
        if status.total and status.step:
            text += f": {'step ' if status.unit == 'it' else ''}{status.step} of {status.total}"
        if (left := self._left()) is not None:
            text += f", {duration(left)} left in this part"
        return text + "."

    def _facts(self) -> list[str]:
        spent = duration(time.monotonic() - self._begun)
        facts = [f"{self._step} of {self._total} iterations"] if self._total else []
        facts.append(f"{spent} so far" + (
            f", of which {duration(self._compile)} compiling" if self._compile >= 1 else ""
        ))  # fmt: skip
        return facts

    def _left(self) -> float | None:
        """Seconds left of the part's steps, by the last rate that was known of them."""
        if self._status is None or self._rated is None or self._rated[0] != self._status.label:
            return None
        _, left, when = self._rated
        return max(0.0, left - (time.monotonic() - when))

    def _parts_now(self) -> list[tuple[str, str, str]]:
        now = self._names.index(self._part) if self._part in self._names else -1
        spent = self._part_seconds
        return [
            (
                name,
                "done" if k < now else "now" if k == now else "",
                duration(spent[name]) if spent.get(name, 0.0) >= 1 else "",
            )
            for k, name in enumerate(self._names)
        ]

    def _write(self, state: str = "running", headline: str = "", text: str = "") -> None:
        self._written = time.monotonic()
        steps = self._status is not None and not self._status.doing and self._status.step
        try:
            html.write(
                self._path, "live.html",
                page=self._page, state=state, text=text,
                headline=headline or f"Running: {self._part or 'begins'}",
                news=self._news(), facts=self._facts(), parts=self._parts_now(),
                step=self._step, total=self._total,
                renewed=round(1000 * time.time()),
                within=max(SOON, PATIENCE * self._slowest) if steps else LATE,
                clock=time.strftime("%Y-%m-%d %H:%M:%S %Z"), command_text=self._command,
                losses=[(k, f"{v:.4g}") for k, v in self._status.metrics.items()]
                if self._status else (),
                preview=self._preview and self._preview[1],
                preview_step=self._preview and self._preview[0],
                views=self._views,
                views_text="Given with their cameras." if self._given else
                "Drawn by the multi-view diffusion model from the picture's embedding alone. Does "
                "this look right? If not, stop it and take another seed.",
                picture=self._picture, cut_out=self._cut_out, seen=self._seen,
            )  # fmt: skip
        except OSError as error:
            if not self._refused:
                self._refused = True
                print(f"{self._path} is not renewed: {error.strerror}", file=sys.stderr, flush=True)
