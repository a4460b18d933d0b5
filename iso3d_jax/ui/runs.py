"""Runs of the page: a folder each, with what people chose and how far it is.

What lies in a run's folder, whose name is the run's id and nobody's words:

    run.json       what was chosen and how far it is, written whole or not at all
    original.png   the picture as it was uploaded, decoded; input.png the object cut out of it
    sets/*.npz     the views that were drawn, `Views` each; *.png the same to look at
    preview.png    the last picture of the scene while it is made
    object_000_full/  of set 0 in mode 'full': what `Pipeline.reconstruct` writes, and goes on in
    files/            exports that somebody asked for
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from iso3d_jax.core.errors import UserError, printable, shorten
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.core.json_files import need, read_object
from iso3d_jax.core.progress import Status
from iso3d_jax.views import Views

IDLE, WAITING, WORKING, STOPPED, FAILED, DONE = (
    "idle", "waiting", "working", "stopped", "failed", "done"
)  # fmt: skip
PROGRESS = (IDLE, WAITING, WORKING, STOPPED, FAILED, DONE)
MODES = ("draft", "full")
_ID = re.compile(r"[A-Za-z0-9_-]{16}")
NAME_LENGTH = 80


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A set of views: with which seed and guidance it was drawn."""

    seed: int
    guidance_scale: float


@dataclasses.dataclass(frozen=True)
class State:
    """What a run's file says.

    Attributes:
      name: of the uploaded file, as people read it; never a path.
      background: how it was removed, of `data.background.BACKGROUNDS`.
      created: seconds since 1970.
      cutouts: how often the object was cut out anew; pages load its picture again by it.
      sets: of views, in the order in which they were drawn.
      wanted: the set that is being drawn, or was when the run was stopped.
      views, object: how far the drawing of a set and the object are, of `PROGRESS`.
      chosen: the set that the object is made from.
      mode: of `MODES`, how the object is made.
      error: why the last thing failed, one sentence.
    """

    name: str
    background: str = "auto"
    created: float = 0.0
    cutouts: int = 0
    sets: tuple[Drawn, ...] = ()
    wanted: Drawn | None = None
    views: str = IDLE
    object: str = IDLE
    chosen: int = 0
    mode: str = "full"
    error: str = ""

    @classmethod
    def read(cls, file: Path) -> State:
        """The state that a file holds.

        Raises:
          UserError: the file is damaged.
        """
        content = read_object(file, "this run cannot be shown any more")

        def drawn(of: Any) -> Drawn:
            of = of if isinstance(of, dict) else {}
            return Drawn(
                need(of, "seed", int, file, least=0),
                need(of, "guidance_scale", float, file, least=0),
            )

        wanted = need(content, "wanted", dict, file, default=None)
        state = cls(
            name=need(content, "name", str, file),
            background=need(content, "background", str, file),
            created=need(content, "created", float, file),
            cutouts=need(content, "cutouts", int, file, least=0),
            sets=tuple(map(drawn, need(content, "sets", list, file))),
            wanted=None if wanted is None else drawn(wanted),
            views=need(content, "views", str, file),
            object=need(content, "object", str, file),
            chosen=need(content, "chosen", int, file, least=0),
            mode=need(content, "mode", str, file),
            error=need(content, "error", str, file),
        )
        fits = state.views in PROGRESS and state.object in PROGRESS and state.mode in MODES
        if not fits or state.chosen > max(0, len(state.sets) - 1):
            raise UserError(f"{file} is damaged: this run cannot be shown any more")
        return state


class Run:
    """One run. Its state is on the disk; how far its work is, and who waits, only here.

    Attributes:
      id: opaque, part of the page's address.
      folder: the run's own.
      state: what its file says; replaced by `change`.
      version: counts what a page may want to show anew.
      told: the last that was heard of the work, or None.
      part: of the object, where it is being made: "views", "draft", "optimisation" or "files";
        `part_begun` is since when, of `time.monotonic`.
      step, steps: iterations of that part done and in all; 0 where it has none.
      preview: counts the pictures of the scene; 0 where there is none yet.
      cancelled: whether the work is asked to stop.
      exports: kind of file -> WAITING, WORKING, or what went wrong; nothing where it is there.
    """

    def __init__(self, folder: Path, state: State):
        self.id, self.folder, self.state = folder.name, folder, state
        self.version = 0
        self.told: Status | None = None
        self.part, self.part_begun = "", 0.0
        self.step = self.steps = 0
        self._first = (0.0, 0)  # when the first iterations of a part were done, and how many
        self._last = 0.0  # when the last were
        self.preview = 0
        self.cancelled = False
        self.exports: dict[str, str] = {}
        self.lock = threading.RLock()

    def change(self, **values: Any) -> None:
        """Changes the state, on the disk first."""
        with self.lock:
            state = dataclasses.replace(self.state, **values)
            _write(self.folder, state)
            self.state = state
            self.version += 1

    def fail(self, part: str, why: str) -> None:
        """Notes that the views or the object failed; here alone where even the disk refuses it."""
        values = {part: FAILED, "error": why}
        with self.lock:
            try:
                self.change(**values)
            except OSError:
                self.state = dataclasses.replace(self.state, **values)

    def hear(self, told: Status | None, part: str | None = None) -> None:
        """Notes how far the work is."""
        with self.lock:
            self.told = told
            if part is not None:
                self.part, self.part_begun = part, time.monotonic()
                self.step = self.steps = 0
                self._first = (0.0, 0)
            self.version += 1

    def count(self, step: int, steps: int) -> None:
        """Notes the iterations of a part."""
        with self.lock:
            now = time.monotonic()
            if step and not self._first[1]:  # the first took long: they were compiled
                self._first = (now, step)
            self._last = now
            self.step, self.steps = step, steps
            self.version += 1

    def part_seconds_left(self) -> float | None:
        """Until the part's last iteration, with all that happens between them; None: not known."""
        with self.lock:
            begun, first = self._first
            if not self.steps or self.step <= first:
                return None
            each = (self._last - begun) / (self.step - first)
            since = time.monotonic() - self._last
            return max(0.0, each * (self.steps - self.step) - since)

    def show_preview(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keeps a picture of the scene."""
        with atomic_path(self.folder / "preview.png") as temporary:
            Image.fromarray(picture).save(temporary)
        with self.lock:
            self.preview += 1
            self.version += 1

    def set_file(self, index: int, suffix: str) -> Path:
        """Of a set of views: `.npz` holds them, `.png` shows them."""
        return self.folder / "sets" / f"{index:03d}{suffix}"

    def add_set(self, views: Views, drawn: Drawn) -> None:
        """Keeps a set of views, and chooses it unless an object was begun from another."""
        with self.lock:
            index = len(self.state.sets)
            views.save(self.set_file(index, ".npz"))
            with atomic_path(self.set_file(index, ".png")) as temporary:
                _square(views).save(temporary)
            chosen = self.state.chosen if self.state.object != IDLE else index
            self.change(
                sets=(*self.state.sets, drawn), wanted=None, views=IDLE, chosen=chosen, error=""
            )

    def load_set(self, index: int) -> Views:
        """A set of views.

        Raises:
          UserError: it is gone, or damaged.
        """
        return Views.load(self.set_file(index, ".npz"))

    @property
    def object_folder(self) -> Path:
        """Of the object that was asked for last."""
        return self.folder / f"object_{self.state.chosen:03d}_{self.state.mode}"

    @property
    def files_folder(self) -> Path:
        """For exports of that object."""
        return self.folder / "files" / self.object_folder.name

    @property
    def busy(self) -> bool:
        """Whether something of it waits or is being done."""
        return bool({self.state.views, self.state.object} & {WAITING, WORKING})


def _square(views: Views) -> Image.Image:
    """Views in two columns, at least 256 pixels each."""
    from iso3d_jax.data import grids

    cells = list(views.images)
    rows = [cells[k : k + 2] for k in range(0, len(cells), 2)]
    return grids.tile(rows, max(256, views.images.shape[1]))


def _write(folder: Path, state: State) -> None:
    with atomic_path(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(state), indent=1) + "\n")


class Store:
    """All runs below a folder. A run that a killed server left is `stopped`, and may go on."""

    def __init__(self, folder: str | Path):
        self.folder = make_folder(folder)
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def new(self, name: str, original: Image.Image, cutout: np.ndarray, background: str) -> Run:
        """A run of a picture.

        Args:
          name: of the uploaded file.
          original: the picture as it is.
          cutout: the object, RGBA uint8 [H, W, 4].
          background: how the rest was removed.
        """
        folder = self.folder / secrets.token_urlsafe(12)
        state = State(readable_upload(name), background, time.time())
        make_folder(folder)
        save_picture(original, folder / "original.png")
        save_picture(Image.fromarray(cutout), folder / "input.png")
        _write(folder, state)
        run = Run(folder, state)
        with self._lock:
            self._runs[run.id] = run
        return run

    def find(self, run_id: object) -> Run | None:
        """The run of an id, also one of an earlier server; None where there is none.

        Raises:
          UserError: its file is damaged.
        """
        if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
            return None
        with self._lock:
            if run_id not in self._runs:
                file = self.folder / run_id / "run.json"
                if not file.is_file():
                    return None
                self._runs[run_id] = _left_behind(Run(file.parent, State.read(file)))
            return self._runs[run_id]


def _left_behind(run: Run) -> Run:
    """A run from the disk, of which nothing is at work any more."""
    gone = {
        name: STOPPED
        for name in ("views", "object")
        if getattr(run.state, name) in (WAITING, WORKING)
    }
    if gone:
        run.change(**gone)
    if (run.folder / "preview.png").is_file():
        run.preview = 1
    return run


def save_picture(image: Image.Image, file: Path) -> None:
    """Writes a PNG without what the file said beside its pixels."""
    with atomic_path(file) as temporary:
        image.info.clear()
        image.save(temporary, compress_level=1)


def readable_upload(name: str) -> str:
    """What people read as the name of an upload: its last part, printable and short."""
    last = re.split(r"[/\\]", printable(str(name), " "))[-1].strip()
    return shorten(last, NAME_LENGTH) or "picture"
