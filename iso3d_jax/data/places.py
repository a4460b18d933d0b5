"""Folders on a disk or in a bucket, and whole files in them.

A place is what `etils.epath` takes: a path, or `gs://...`, `s3://...`, `az://...`, for which fsspec
and its package for that bucket (gcsfs, s3fs, adlfs) must be installed. Files appear whole or not at
all: on a disk by renaming, in a bucket because an object is there once its last byte is.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, make_folder

_BLOCK = 8 << 20


def place(path: str | os.PathLike) -> epath.Path:
    """The place of a path; a `~` is the user's home folder.

    Raises:
      UserError: the package for such a bucket is not installed.
    """
    found = epath.Path(path)
    if not is_remote(found):
        return found.expanduser()
    try:
        found.exists()
    except ImportError as e:
        raise UserError(
            f"{os.fspath(path)} is in a bucket that this installation cannot reach ({e}); install "
            "fsspec and gcsfs for gs://, s3fs for s3://, adlfs for az://"
        ) from None
    return found


def is_remote(path: epath.Path) -> bool:
    """Whether it is in a bucket, not on a disk."""
    return "://" in os.fspath(path)


def make(path: epath.Path) -> epath.Path:
    """Makes a folder and those above it; a bucket has none to make.

    Raises:
      UserError: it cannot be made.
    """
    if not is_remote(path):
        make_folder(os.fspath(path))
    return path


@contextlib.contextmanager
def whole_file(path: epath.Path) -> Iterator[Path]:
    """A temporary file on a disk that takes the place of `path` when the block ends without error.

    It is on the disk before it has its name, so that a machine that stops leaves no empty file.
    """
    if not is_remote(path):
        with atomic_path(os.fspath(path)) as temporary:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        return
    with tempfile.TemporaryDirectory(prefix="iso3d-") as folder:
        temporary = Path(folder, path.name)
        yield temporary
        try:
            with open(temporary, "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK)
        except BaseException:  # closing has put what there was so far in its place
            with contextlib.suppress(Exception):
                path.unlink(missing_ok=True)
            raise


def write_text(path: epath.Path, text: str) -> None:
    """Writes a whole text file, UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def on_disk(path: epath.Path) -> Iterator[Path]:
    """A file as one on a disk: itself, or a copy that is gone after the block."""
    if not is_remote(path):
        yield Path(os.fspath(path))
        return
    with tempfile.TemporaryDirectory(prefix="iso3d-") as folder:
        copy = Path(folder, path.name)
        download(path, copy)
        yield copy


def download(path: epath.Path, to: Path) -> None:
    """Copies a file to a disk, whole or not at all."""
    with atomic_path(to) as temporary:
        with path.open("rb") as source, open(temporary, "wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)


def names(folder: epath.Path) -> set[str]:
    """Names of the files and folders in a folder; none where it is not there."""
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
