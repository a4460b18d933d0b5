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

import ml_dtypes
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.weights.tensors import LazyTensor

_MAX_HEADER = 100 << 20  # safetensors' own limit

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
    """The tensors of one safetensors file, checked against its size."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError("its header's length is wrong")
            header = json.loads(file.read(length))
        tensors = {}
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            dtype = DTYPES[entry["dtype"]]
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = entry["data_offsets"]
            fits = 0 <= begin <= end <= size - 8 - length and all(n >= 0 for n in shape)
            if not fits or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"'{key}' does not lie inside the file")
            tensors[key] = LazyTensor(path, 8 + length + begin, shape, dtype)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    return tensors


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
