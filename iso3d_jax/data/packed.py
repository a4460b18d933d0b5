"""Data sets packed into one file of some tens of megabytes, and read into memory at once.

For a machine to which little can be taken. The file is a zip whose members are not compressed
again; with `FILE.zip/SET` in the place of a data set's folder `MultiViewTable.load` reads it, and
so do training and evaluation. Neither tensorflow-datasets nor ArrayRecord is needed.

    pack.json                  {"form", "resolution", "views", "quality", "sets": {SET: {SPLIT:
                               names}}}
    SET/SPLIT/cameras.npy      float32 [4, N, M]: azimuth, elevation, field of view, distance
    SET/SPLIT/00000.views      an object's views (`multiview/strips.py`), in orthogonal sets of four
    SET/CREDITS.md             whose objects they are
    features.safetensors       weights of the network that a small image tower sees pictures with

`iso3d_jax.tiny.quarter_hour.pack` makes one.
"""

from __future__ import annotations

import functools
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.json_files import need, parse_json
from iso3d_jax.data.orthogonal_sets import CAMERA
from iso3d_jax.data.table import MultiViewTable

FORM = 1
FACTS, FEATURES = "pack.json", "features.safetensors"
SUFFIX = ".zip"
THREADS = 16  # that decode
_KEPT = 8  # splits: the parts of a run ask for the same ones again and again


class Place(NamedTuple):
    """A data set in a packed file."""

    file: Path
    name: str


def find(path: str | os.PathLike | None) -> Place | None:
    """What `FILE.zip/SET` means where there is such a file; None of every other path."""
    if path is None:
        return None
    whole = Path(path)
    is_packed = whole.parent.suffix == SUFFIX and whole.parent.is_file()
    return Place(whole.parent, whole.name) if is_packed else None


def open_file(file: Path) -> zipfile.ZipFile:
    """A packed file.

    Raises:
      UserError: it is none.
    """
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{file} is no packed data: {shorten(error)}") from None


def sets_of(file: Path) -> list[str]:
    """The names of a packed file's data sets, in their order.

    Raises:
      UserError: it is none, or one of another version.
    """
    return list(_facts(file)["sets"])


def resolution_of(file: Path) -> int:
    """Side of a packed file's pictures.

    Raises:
      UserError: it is none, or one of another version.
    """
    return need(_facts(file), "resolution", int, file)


def read_facts(place: Place) -> Mapping[str, list[str]]:
    """The names of the objects of each split of a set.

    Raises:
      UserError: no such set in the file, or no packed file.
    """
    sets = _facts(place.file)["sets"]
    if place.name not in sets:
        raise UserError(f"{place.file} holds {', '.join(sets)}, and no data set '{place.name}'")
    return sets[place.name]


def _facts(file: Path) -> dict[str, Any]:
    with open_file(file) as packed:
        try:
            facts = parse_json(packed.read(FACTS))
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} is no packed data: {shorten(error)}") from None
    if not isinstance(facts, dict) or need(facts, "form", int, file) != FORM:
        raise UserError(f"{file} was packed by another version: pack the data again")
    need(facts, "sets", dict, file)
    return facts


def read(place: Place, split: str, most: int | None = None) -> MultiViewTable:
    """One split of a set, decoded by threads; kept, and to be left as it is.

    Args:
      most: objects, the first ones; all if None.

    Raises:
      UserError: no such set, a split without objects, or a damaged file.
    """
    state = place.file.stat()
    whole = _read(place, split, (state.st_size, state.st_mtime_ns))
    return MultiViewTable(**{name: column[:most] for name, column in vars(whole).items()})


@functools.lru_cache(_KEPT)
def _read(place: Place, split: str, state: tuple[int, int]) -> MultiViewTable:
    from iso3d_jax.data.multiview import EmptySplit, strips

    del state  # of the file: another one is another split
    splits = read_facts(place)
    names = splits.get(split, [])
    if not names:
        counts = ", ".join(f"{name} {len(of)}" for name, of in splits.items())
        raise EmptySplit(
            f"the {split} split of {place.file}/{place.name} is empty (it has {counts})"
        )
    folder = f"{place.name}/{split}"
    try:
        with open_file(place.file) as packed:
            cameras = np.load(io.BytesIO(packed.read(f"{folder}/cameras.npy")), allow_pickle=False)
            stored = [packed.read(view_member(place.name, split, i)) for i in range(len(names))]
        if cameras.shape[:2] != (4, len(names)):
            raise ValueError("its cameras are not those of its objects")

        def decode(data: bytes) -> np.ndarray:
            views = strips.decode_views(data, cameras.shape[2])
            return views * (views[..., 3:] > 0)  # lossy pictures have colours under no alpha

        with ThreadPoolExecutor(THREADS) as pool:
            images = np.stack(list(pool.map(decode, stored)))
        images.flags.writeable = False  # it is kept for the next who asks
    except (KeyError, ValueError, OSError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{place.file} is damaged: {shorten(error)}; pack the data again") from None
    columns = dict(zip(CAMERA, cameras, strict=True))
    return MultiViewTable(images=images, names=names, **columns)


def view_member(name: str, split: str, index: int) -> str:
    """Where in the file an object's views are."""
    return f"{name}/{split}/{index:05d}.views"


class Writer:
    """Writes a packed file, an object at a time; `close` makes it whole."""

    def __init__(self, file: Path):
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._names: dict[str, dict[str, list[str]]] = {}
        self._cameras: dict[tuple[str, str], list[np.ndarray]] = {}

    def add(self, name: str, split: str, record: Mapping[str, Any], views: bytes) -> None:
        """Takes an object: its name and cameras, and its views as they are to be stored."""
        names = self._names.setdefault(name, {}).setdefault(split, [])
        self.put(view_member(name, split, len(names)), views)
        names.append(str(record["name"]))
        columns = [record[key] for key in CAMERA]
        self._cameras.setdefault((name, split), []).append(np.stack(columns))

    def put(self, member: str, content: bytes) -> None:
        """Takes anything; the same content gives the same bytes, whatever the time of day."""
        self._zip.writestr(zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0)), content)

    def close(self, sets: Sequence[str], **facts: Any) -> None:
        """Writes what says what is in the file.

        Args:
          sets: the data sets' names, in the order in which they are to be told.
          facts: resolution, views and quality.
        """
        for (name, split), cameras in self._cameras.items():
            buffer = io.BytesIO()
            np.save(buffer, np.stack(cameras, 1).astype(np.float32))
            self.put(f"{name}/{split}/cameras.npy", buffer.getvalue())
        content = {"form": FORM, **facts, "sets": {name: self._names[name] for name in sets}}
        self.put(FACTS, json.dumps(content).encode())
        self._zip.close()
