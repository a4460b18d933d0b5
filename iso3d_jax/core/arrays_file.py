"""The arrays of an .npz that this package wrote: read whole, inside one guard."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError

# What zipfile and numpy raise where a member is damaged; a header that lies asks for any memory.
_DAMAGED = (
    ValueError, TypeError, KeyError, EOFError, RuntimeError, NotImplementedError, OverflowError,
    MemoryError, SyntaxError, struct.error, zlib.error, lzma.LZMAError, tokenize.TokenError,
    zipfile.BadZipFile,
)  # fmt: skip


def read_arrays(
    path: str | os.PathLike, remedy: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a file of `numpy.savez`, read whole.

    Args:
      path: the file.
      remedy: what to do where it is damaged; ends the sentence.
      names: which to read; all if None.

    Raises:
      UserError: the file cannot be read, is damaged, or lacks one of the names.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as stored:
            archive = stored.zip
            size = path.stat().st_size
            if sum(info.file_size for info in archive.infolist()) > size:
                raise ValueError("its members are larger than the file")
            return {name: stored[name] for name in (stored.files if names is None else names)}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from None
    except (*_DAMAGED, AttributeError):  # the latter: an .npy, which is no archive
        raise UserError(f"{path} is damaged; {remedy}") from None
