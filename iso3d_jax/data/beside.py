"""The files that a mesh names: opened beside it, and nowhere else.

Names come from files of strangers. What is opened is a plain file inside the mesh's own folder, on
a disk or in a bucket, or a member of its archive; never a device, nor anything that `..`, an
absolute path or a link leads to outside. Names are found as people write them: with backslashes, in
other letter case, or as the absolute path on the machine where they were made, of which the last
part counts.
"""

import functools
import os
import pathlib
import posixpath
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable

from etils import epath

from iso3d_jax.core.errors import printable, shorten
from iso3d_jax.data import places

MOST_BYTES = 400_000_000  # of one file, unpacked

ReadFile = Callable[[str], bytes]


class NotThere(ValueError):
    """A file that cannot be had; the message is the reason, such as "chair.png is not there"."""


def read_plain(path: str | os.PathLike) -> bytes:
    """The bytes of a plain file.

    Raises:
      NotThere: no file, not a plain one (a device or a pipe would never end), or too large.
    """
    name = _shown(os.path.basename(path))
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(number, "rb") as file:
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                raise NotThere(f"{name} is not a plain file")
            _check_size(name, about.st_size)
            return file.read(MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError, ValueError) as e:
        if isinstance(e, NotThere):
            raise
        raise NotThere(f"{name} is not there") from None
    except OSError as e:
        raise NotThere(f"{name} cannot be read ({e.strerror})") from None


def _check_size(name: str, size: int):
    if size > MOST_BYTES:
        raise NotThere(f"{name} has {size:,} bytes, and the most is {MOST_BYTES:,}")


def _shown(name: str) -> str:
    """A name for a message: its end, without what cannot be printed."""
    text = name.encode("utf-8", "replace").decode()
    text = printable(text, "?")
    return text if len(text) <= 80 else "..." + text[-77:]


def folder_reader(folder: str | os.PathLike) -> ReadFile:
    """A function that reads a file by its name relative to `folder`; raises NotThere."""
    root = os.path.realpath(folder)

    def read(name: str) -> bytes:
        found = _find(name, lambda at: _listing(os.path.join(root, at)))
        path = os.path.realpath(os.path.join(root, found))
        if os.path.commonpath([root, path]) != root:
            raise NotThere(f"{_shown(name)} is a link to outside of the mesh's folder")
        return read_plain(path)

    return read


def _listing(folder: str) -> tuple[str, ...]:
    try:
        return _names_in(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return ()


@functools.lru_cache(maxsize=16)
def _names_in(folder: str, changed: int) -> tuple[str, ...]:
    del changed  # a folder that changed is listed again
    return tuple(sorted(os.listdir(folder)))


def read_remote(path: epath.Path) -> bytes:
    """The bytes of a file in a bucket.

    Raises:
      NotThere: no such file, too large, or the bucket does not give it.
    """
    name = _shown(path.name)
    try:
        if path.is_dir():
            raise NotThere(f"{name} is not a plain file")
        _check_size(name, path.stat().length)
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except FileNotFoundError:
        raise NotThere(f"{name} is not there") from None
    except NotThere:
        raise
    except Exception as e:  # of each bucket's own package
        raise NotThere(f"{name} cannot be read ({type(e).__name__}: {shorten(e, 200)})") from None


def bucket_reader(folder: epath.Path) -> ReadFile:
    """A function that reads a file by its name relative to a folder in a bucket; raises NotThere.

    A bucket has no links that could lead out of it.
    """

    def read(name: str) -> bytes:
        return read_remote(folder / _find(name, lambda at: _remote_names(os.fspath(folder / at))))

    return read


@functools.lru_cache(maxsize=16)
def _remote_names(folder: str) -> tuple[str, ...]:
    """What a folder in a bucket holds, asked once: an answer takes long."""
    try:
        return tuple(sorted(places.names(epath.Path(folder))))
    except Exception as e:  # of each bucket's own package
        reason = f"{type(e).__name__}: {shorten(e, 200)}"
        raise NotThere(f"{_shown(folder)} cannot be listed ({reason})") from None


def archive_reader(archive: zipfile.ZipFile, folder: str) -> ReadFile:
    """A function that reads a member by its name relative to `folder`; raises NotThere."""
    tree: dict[str, set[str]] = {}
    for member in archive.namelist():
        parts = pathlib.PurePosixPath(member).parts
        for k, part in enumerate(parts):
            tree.setdefault("/".join(parts[:k]), set()).add(part)

    def read(name: str) -> bytes:
        inside = name if _absolute(name) else posixpath.join(folder, name)
        listing = lambda at: tuple(sorted(tree.get(at, ())))  # noqa: E731
        try:
            found = _find(inside, listing)
        except NotThere:
            found = _find(posixpath.join(folder, re.split(r"[\\/]", name)[-1]), listing)
        return read_member(archive, found)

    return read


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member, of which no more are unpacked than it says it has.

    Raises:
      NotThere: no such member, damaged, encrypted, or too large.
    """
    try:
        about = archive.getinfo(name)
        _check_size(_shown(name), about.file_size)
        with archive.open(about) as file:
            data = file.read(about.file_size + 1)
    except KeyError:
        raise NotThere(f"{_shown(name)} is not there") from None
    except NotThere:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as e:
        raise NotThere(f"{_shown(name)} is damaged in its archive ({e})") from None
    except (RuntimeError, NotImplementedError) as e:
        raise NotThere(f"{_shown(name)} cannot be unpacked ({e})") from None
    return data


def _absolute(name: str) -> bool:
    return bool(re.match(r"[a-zA-Z]:|[\\/]|file:", name))


def _find(name: str, listing: Callable[[str], Iterable[str]]) -> str:
    """The path, relative to the root, of the file that a name means.

    An absolute path, or one that leaves the root or leads nowhere, stands for its last part.
    """
    if "\0" in name or len(name) > 4096:
        raise NotThere("a file name that cannot be one")
    parts = [p for p in re.split(r"[\\/]+", name) if p not in ("", ".")]
    if not parts:
        raise NotThere(f"{_shown(name)!r} is not a file name")
    inside = None if _absolute(name) else _normalised(parts)
    for path in ([inside] if inside else []) + [[parts[-1]]]:
        found = _walk(path, listing)
        if found is not None:
            return found
    if inside is None:
        raise NotThere(f"{_shown(name)} is outside of the mesh's folder and not beside the mesh")
    raise NotThere(f"{_shown(name)} is not there")


def _normalised(parts: list[str]) -> list[str] | None:
    """Without `..`; None where that leaves the root."""
    out: list[str] = []
    for part in parts:
        if part != "..":
            out.append(part)
        elif out:
            out.pop()
        else:
            return None
    return out or None


def _walk(path: list[str], listing: Callable[[str], Iterable[str]]) -> str | None:
    """Follows a path through listings: exact names first, then any letter case or normal form."""
    at = ""
    for part in path:
        names = listing(at)
        if part not in names:
            folded = _folded(part)
            part = next((n for n in names if _folded(n) == folded), "")
            if not part:
                return None
        at = posixpath.join(at, part)
    return at


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
