"""Files of which nobody ever sees half, and folders that are one process's and one run's alone."""

import contextlib
import errno
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from iso3d_jax.core.errors import UserError, printable, shorten
from iso3d_jax.core.json_files import read_object

_MAX_NAME = 255  # bytes, of the usual file systems
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems without them


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The temporary name keeps the suffix, so that libraries that look at it write the right format.
    Its folder is made; where nothing came of it, that is gone again.
    """
    path = Path(path)
    made = _make_folders(path.parent)
    end = f".{os.getpid()}{path.suffix}"
    stem = os.fsencode(path.stem)[: _MAX_NAME - 1 - len(os.fsencode(end))]
    temporary = path.with_name(f".{stem.decode(errors='ignore')}{end}")
    try:
        yield temporary
        if temporary.is_file():  # some libraries write files for their owner alone
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _remove_empty(made)


def readable_name(path: str | os.PathLike) -> str:
    """A path as text for a person and for a page, also where its bytes are no UTF-8."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return printable(text, " ")


_REASONS = {
    errno.ENOSPC: "no space left on the disk while writing {}",
    errno.EDQUOT: "the disk quota is used up while writing {}",
    errno.EROFS: "the disk of {} is read-only: give another folder",
    errno.EACCES: "permission denied for {}: give another folder, or change its rights",
    errno.EPERM: "permission denied for {}: give another folder, or change its rights",
    errno.ENAMETOOLONG: "the path {} is too long: give a shorter one",
    errno.ENOTDIR: "{} lies below a file, not a folder: give another path",
    errno.EISDIR: "{} is a folder where a file is to be: give another path",
    errno.EEXIST: "{} is there already as something else: give another path",
    errno.ENOENT: "{} is gone: it, or its folder, was deleted or moved while this ran",
    errno.ENOTEMPTY: "{} is a folder where a file is to be: give another path",
    errno.EIO: "the disk of {} failed",
    errno.ESTALE: "the network disk of {} is gone",
}


def describe_os_error(error: OSError) -> str | None:
    """A sentence for what the disk refused, or None where it is no matter of files."""
    reason = _REASONS.get(error.errno or 0)
    if reason is None or (error.filename is None and error.errno != errno.ENOSPC):
        return None
    name = error.filename if error.filename2 is None else error.filename2
    return reason.format(shorten("the results" if name is None else os.fsdecode(name)))


@contextlib.contextmanager
def explain_os_errors() -> Iterator[None]:
    """What the disk refuses becomes a `UserError`; also a decorator, for what people call.

    Raises:
      UserError: in the words of `describe_os_error`; other OSErrors stay what they are.
    """
    try:
        yield
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        raise UserError(message) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_folder(path: str | os.PathLike) -> Path:
    """Makes a folder and those above it; refuses in one sentence where that cannot be done."""
    _make_folders(Path(path))
    return Path(path)


def check_folder(path: str | os.PathLike) -> Path:
    """Refuses a folder that cannot be made or written into; makes none that was not there."""
    made = _make_folders(Path(path))
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write into the folder {shorten(path)}: {error.strerror}; give another"
        ) from None
    finally:
        _remove_empty(made)
    return Path(path)


def _make_folders(path: Path) -> list[Path]:
    """Makes a folder and those above it; returns those that were not there, the innermost first."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"cannot make the folder {shorten(path)}: a file has that name") from None
    except PermissionError:
        raise UserError(f"cannot make the folder {shorten(path)}: permission denied") from None
    except OSError as error:
        reason = describe_os_error(error) or str(error.strerror or error)
        raise UserError(f"cannot make the folder {shorten(path)}: {reason}") from None
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders in this order, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


class FolderLock:
    """Keeps other processes from writing into a folder at the same time.

    The lock is the operating system's: it ends with the process, however that ends. On a file
    system without locks nobody is kept out. Within one process it holds nobody up.
    """

    def __init__(self, folder: Path, seconds: float = 60.0):
        """Waits up to `seconds` for a process that is about to end.

        Raises:
          UserError: another process holds the folder.
        """
        path = folder / ".lock"
        self._lock = filelock.FileLock(
            path, is_singleton=True, thread_local=False, preserve_lock_file=True, on_acquired=_sign
        )
        try:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                print(
                    f"waiting up to {seconds:.0f} s for process {_signature(path)}, which is "
                    f"writing into {folder}",
                    file=sys.stderr,
                    flush=True,
                )
                self._lock.acquire(timeout=seconds, poll_interval=0.2)
        except filelock.Timeout:
            raise UserError(
                f"another process ({_signature(path)}) is writing into {folder}: stop it or wait "
                "for its end, or give this one a folder of its own"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error) -> None:
        self.release()


def _sign(descriptor: int) -> None:
    """Writes who holds a lock into its file."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 1, os.SEEK_SET)  # Windows lets nobody else read the first byte
    os.write(descriptor, f"{os.getpid()} on {platform.node()}\n".encode())


def _signature(path: Path) -> str:
    """Who holds a lock, or held it last."""
    with open(path, "rb", buffering=0) as file:
        file.seek(1)
        return file.read().decode().strip() or "unknown"


class Difference(NamedTuple):
    """A value that is not what it was, by its key; None where there is none."""

    key: str
    was: Any
    now: Any


def differences(was: Mapping, now: Mapping, prefix: str = "") -> list[Difference]:
    """In what two nested dicts differ; keys as in 'model.unet.num_heads', in their order."""
    found = []
    for key in sorted(was.keys() | now.keys()):
        a, b = was.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(Difference(prefix + key, a, b))
    return found


def ensure_same_run(
    noted: Mapping,
    facts: Mapping,
    refusal: Callable[[list[Difference]], str],
    *,
    free: Collection[str] = (),
) -> None:
    """Refuses to go on in a folder that belongs to another run.

    Args:
      noted: what makes the folder's run that one and no other.
      facts: the same of the run that is to go on in it.
      refusal: says what is wrong and what to do, of the differences.
      free: keys that may differ.

    Raises:
      UserError: they differ.
    """
    was, now = ({k: v for k, v in of.items() if k not in free} for of in (noted, facts))
    if found := differences(was, now):
        raise UserError(refusal(found))


def ensure_same_folder(
    file: Path, facts: Mapping, refusal, *, write: bool = True, **allowed
) -> None:
    """Notes in a new folder which run it belongs to; refuses that of another run.

    Args:
      file: the JSON file of the note.
      write: whether this process writes it.
      facts, refusal, **allowed: see `ensure_same_run`.

    Raises:
      UserError: a folder of another run, or a damaged note.
    """
    if not file.is_file():
        if write:
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(facts, indent=2) + "\n")
        return
    noted = read_object(file, "give another folder, or put back what it was", finite=False)
    ensure_same_run(noted, json.loads(json.dumps(facts)), refusal, **allowed)
