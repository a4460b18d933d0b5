"""Writing files so that nobody ever sees half of one."""

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock

from iso3d_jax.errors import UserError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems without them


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The temporary name keeps the suffix, so that libraries that look at it write the right format.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if temporary.is_file():  # some libraries write files for their owner alone
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_folder(path: str | os.PathLike) -> Path:
    """Makes a folder and those above it; refuses in one sentence where that cannot be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"cannot make the folder {path}: a file has that name") from None
    except PermissionError:
        raise UserError(f"cannot make the folder {path}: permission denied") from None
    return path


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
