"""Writing files so that nobody ever sees half of one."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from iso3d_jax.errors import UserError


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
        self._file = open(folder / ".lock", "a+")  # noqa: SIM115
        deadline, told = time.monotonic() + seconds, False
        while not self._taken():
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            if time.monotonic() > deadline:
                self._file.close()
                raise UserError(
                    f"another process ({owner}) is writing into {folder}: stop it or wait for its "
                    "end, or give this one a folder of its own"
                )
            if not told:
                print(
                    f"waiting up to {seconds:.0f} s for process {owner}, which is writing into "
                    f"{folder}",
                    file=sys.stderr,
                    flush=True,
                )
                told = True
            time.sleep(0.2)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def _taken(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # no locks here
            return True
        return True

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error) -> None:
        self.release()
