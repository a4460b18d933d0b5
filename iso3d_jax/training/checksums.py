"""Checksums of checkpoints, so that one that the disk has damaged is not trained on.

`checksums/STEP.json` in a workdir has the size and SHA-256 of every file of `checkpoints/STEP`. It
is written once the checkpoint is complete; a run that is killed between the two leaves a checkpoint
without checksums, which is then read unverified.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.core.json_files import read_object


def steps_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


class Checksums:
    """The `checksums/` folder of a workdir; sums are taken by a thread in the background."""

    def __init__(self, workdir: Path):
        self._checkpoints = workdir / "checkpoints"
        self._folder = workdir / "checksums"
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files, or None (also where there are no checksums)."""
        try:
            expected = read_object(self._folder / f"{step}.json")
        except UserError:
            return None  # no note, or a damaged one, which says nothing of the checkpoint
        if not all(isinstance(noted, list) and len(noted) == 2 for noted in expected.values()):
            return None
        found = _sums(self._checkpoints / str(step))
        for name, (size, digest) in expected.items():
            if name not in found:
                return f"{name} is missing"
            if found[name][0] != size:
                return f"{name} has {found[name][0]} bytes instead of {size}"
            if found[name][1] != digest:
                return f"the checksum of {name} differs"
        return None

    def start(self, step: int) -> None:
        """Waits in the background for a checkpoint to be complete, and notes its checksums."""
        if self._thread is not None:
            self._thread.join()
        self._thread = threading.Thread(target=self._note, args=(step,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Returns when no checksum is outstanding; all checkpoints are complete or never will."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _note(self, step: int) -> None:
        complete = self._checkpoints / str(step)  # orbax renames the folder when all is written
        while not complete.exists():
            if self._ending.wait(0.02) and not complete.exists():
                return
        try:
            sums = _sums(complete)
            make_folder(self._folder)
            with atomic_path(self._folder / f"{step}.json") as temporary:
                temporary.write_text(json.dumps(sums) + "\n")
            kept = set(steps_in(self._checkpoints)) | {step}
            for note in self._folder.glob("[0-9]*.json"):
                if int(note.stem) not in kept:
                    note.unlink(missing_ok=True)
        except OSError:  # a full disk, or a checkpoint that made room for the next one meanwhile
            return


def _sums(folder: Path) -> dict[str, list]:
    """{name: [size, SHA-256]} of all files below a folder."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[str(path.relative_to(folder))] = [path.stat().st_size, digest]
    return sums
