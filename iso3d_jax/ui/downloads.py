"""Files of a finished object that people take away; what is not there yet is written when asked."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.ui.runs import DONE, Run

# Writes the mesh of an object's folder to a file whose suffix says as what.
Export = Callable[[Path, Path], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
      label: what the page calls it.
      what: what it is for.
      suffix: of the file that people get.
      ready: its name in the object's folder, where it lies there already.
      package: that it needs.
    """

    label: str
    what: str
    suffix: str
    ready: str = ""
    package: str = ""


KINDS = {
    "glb": Kind("GLB", "with its texture, for Blender, games and the web", ".glb", "mesh.glb"),
    "obj": Kind("OBJ", "with material and texture, zipped", ".zip"),
    "stl": Kind("STL", "for printing, 100 mm long", ".stl"),
    "ply": Kind("PLY", "with colours at its corners", ".ply"),
    "usdz": Kind("USDZ", "for iPhones and Macs", ".usdz", package="pxr"),
    "turntable": Kind("turntable", "MP4, or WebP where the server has no ffmpeg", ".mp4"),
    "zip": Kind("everything", "the run's folder as a zip", ".zip"),
}
# Of a run's folder: locks, and what the page alone needs.
_LEFT_OUT = {".lock"}


def refuse(kind: str) -> str:
    """Why a kind of file cannot be had here; empty where it can."""
    package = KINDS[kind].package
    if package and not extras.is_installed(package):
        return str(extras.missing(package))
    return ""


def find_turntable(folder: Path) -> Path:
    """A finished object's, which is no video where it was made without ffmpeg."""
    webp = folder / "turntable.webp"
    return webp if webp.is_file() else folder / "turntable.mp4"


def place(run: Run, kind: str) -> Path:
    """Where a file is, or will be."""
    if kind == "turntable":
        return find_turntable(run.object_folder)
    ready = KINDS[kind].ready
    return run.object_folder / ready if ready else run.files_folder / f"{kind}{KINDS[kind].suffix}"


def check(run: Run, kind: str) -> None:
    """Refuses what there is not.

    Raises:
      UserError: an unknown kind, a package that is missing, or no finished object.
    """
    if kind not in KINDS:
        raise UserError(f"there are no files of this kind: {', '.join(KINDS)}")
    if why := refuse(kind):
        raise UserError(why)
    if run.state.object != DONE:
        raise UserError("this object is not finished: its files come with it")


def file_name(run: Run, kind: str) -> str:
    """What a downloaded file is called: after the picture."""
    stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(run.state.name)[0]).strip("._") or "object"
    if kind == "obj":
        stem += "_obj"  # there is another zip
    return stem + (place(run, kind).suffix if kind == "turntable" else KINDS[kind].suffix)


def write(run: Run, kind: str, export: Export) -> Path:
    """Writes a file where it is not there yet.

    Raises:
      UserError: as of `check`, or the export's own.
    """
    check(run, kind)
    file = place(run, kind)
    if file.is_file():
        return file
    make_folder(file.parent)
    if kind == "zip":
        with atomic_path(file) as temporary:
            _zip(run.object_folder, temporary)
    elif kind == "obj":  # three files
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            export(run.object_folder, Path(folder) / "mesh.obj")
            with atomic_path(file) as temporary:
                _zip(Path(folder), temporary)
    else:
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder) / file.name
            export(run.object_folder, made)
            shutil.move(made, file)
    return file


def _zip(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in _LEFT_OUT:
                archive.write(path, path.relative_to(folder))
