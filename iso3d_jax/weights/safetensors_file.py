"""safetensors files, read lazily and written one tensor at a time.

The format: eight bytes with the header's length, a JSON header, the raw arrays (row-major,
little-endian). The package of that name holds all tensors in memory to write them, and reads each
into memory twice, where ours maps the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeGuard

import ml_dtypes
import numpy as np

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import MAX_BYTES, parse_json
from iso3d_jax.weights.tensors import MAX_KEY, LazyTensor

MAX_AXES = 16

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# (key, shape, dtype, read): what a writer needs; `read()` gives the array when its turn comes.
Entry = tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]

# Called with (bytes done, bytes in all, key) before each tensor, and once at the end.
Report = Callable[[int, int, str], None]


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file, checked against its size.

    Raises:
      UserError: damaged, or with a tensor of a type that is not read here.
      OSError: the file cannot be read.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_BYTES):
                raise ValueError("its header's length is wrong")
            header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        return {key: _tensor(path, key, entry, 8 + length, size) for key, entry in header.items()}
    except ValueError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {shorten(error)}") from None


def _tensor(path: Path, key: str, entry, start: int, size: int) -> LazyTensor:
    """One tensor of a header; its numbers lie between the header and the file's end."""
    if not key.isprintable() or len(key) > MAX_KEY:
        raise ValueError(f"its key '{shorten(key)}' is no name")
    if not isinstance(entry, dict):
        raise ValueError(f"'{key}' is not described")
    kind, shape, offsets = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
    if not _are_sizes(shape) or len(shape) > MAX_AXES:
        raise ValueError(f"'{key}' has an impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"'{key}' has no place in the file")
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise UserError(
            f"{path}: '{key}' is of the type {shorten(kind, 40)}, which is not read here: save the "
            "weights as F32, F16 or BF16"
        )
    begin, end = offsets
    if not begin <= end <= size - start or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"'{key}' does not lie inside the file")
    return LazyTensor(path, start + begin, tuple(shape), dtype)


def _are_sizes(values) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def write_safetensors(path: str | Path, entries: Iterable[Entry], metadata: dict | None = None):
    """Writes a file that the safetensors package reads; atomic, one tensor in memory at a time.

    Args:
      path: file to write.
      entries: what is in it, in order.
      metadata: strings by name, stored in the header.
    """
    entries = list(entries)
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict = {"__metadata__": metadata} if metadata else {}
    end = 0
    for key, shape, dtype, _ in entries:
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape, dtype, read in entries:
            array = np.asarray(read(), order="C")
            if array.dtype != dtype or array.shape != tuple(shape):
                raise ValueError(f"{key}: {array.shape} {array.dtype} is not {shape} {dtype}")
            file.write(array.reshape(-1).view(np.uint8).data)


def reporting(entries: Iterable[Entry], report: Report | None) -> Iterable[Entry]:
    """The same entries, which report when their turn comes."""
    entries = list(entries)
    if report is None:
        return entries
    sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype, _ in entries]
    total, done = sum(sizes), 0

    def told(entry, size):
        key, shape, dtype, read = entry

        def read_and_tell():
            nonlocal done
            report(done, total, key)
            done += size
            array = read()
            if done == total:
                report(total, total, "")
            return array

        return key, shape, dtype, read_and_tell

    return [told(entry, size) for entry, size in zip(entries, sizes, strict=True)]
