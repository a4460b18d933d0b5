"""Folders of pictures: which files count, and a name for each that no other has."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.picture_files import SUFFIXES

LONGEST = 160  # bytes of a name; most file systems hold 255, and results add words to it


def find_pictures(path: str | os.PathLike) -> list[Path]:
    """The picture itself, or all pictures of a folder in the order of their names.

    Hidden files are passed over, as macOS lays a `._chair.png` beside every `chair.png`.

    Raises:
      UserError: a folder without pictures.
    """
    path = Path(path)
    if not _is_folder(path):
        return [path]
    found = sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and not p.is_dir()
    )
    if not found:
        raise UserError(f"the folder {path} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def name_pictures(paths: Sequence[Path]) -> list[str]:
    """A name for the results of each picture: its stem, or more of its name where two are alike.

    Names differ in more than letter case and in more than how an accent is written, for file
    systems that know neither; and they are short enough for a suffix.
    """
    stems = [_key(path.stem) for path in paths]
    taken: set[str] = set()
    names = []
    for path, stem in zip(paths, stems, strict=True):
        wanted = _shorten(path.stem if stems.count(stem) == 1 else path.name)
        name, count = wanted, 1
        while _key(name) in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(_key(name))
        names.append(name)
    return names


def load_all(
    files: dict[str, Path], load: Callable[[Path], np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Loads pictures by name; returns those that can be used, and what is wrong with the others.

    Raises:
      UserError: none can be used.
    """
    loaded: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    for name, path in files.items():
        try:
            loaded[name] = load(path)
        except UserError as error:
            failed[name] = str(error)
    if not loaded:
        first = next(iter(failed.values()))
        raise UserError(
            first if len(failed) == 1 else f"no picture can be used; the first: {first}"
        )
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr, flush=True)
    return loaded, failed


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no name that a file can have: said when it is read
        return False


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shorten(name: str) -> str:
    while len(os.fsencode(name)) > LONGEST:
        name = name[:-1]
    return name
