"""Tensors that stay in their file until they are asked for.

`open_tensors` gives {key: LazyTensor} for every kind of file we know; a conversion reads one
tensor at a time, so that its memory does not depend on the file's size.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")


@dataclass(frozen=True)
class LazyTensor:
    """Where a tensor lies in a file.

    `strides` are in elements, None for row-major. Whoever makes one has checked that the tensor
    lies inside its storage.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...] | None = None

    def __setstate__(self, state):
        raise TypeError("a LazyTensor is not made by a pickle")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The values, as a read-only view of the mapped file, released with the array."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        strides = row_major(self.shape) if self.strides is None else self.strides
        count = 1 + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))
        start = self.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        skip = self.offset - start
        with open(self.path, "rb") as file:
            mapped = mmap.mmap(
                file.fileno(), skip + count * self.dtype.itemsize, access=mmap.ACCESS_READ,
                offset=start,
            )  # fmt: skip
        flat = np.frombuffer(mapped, np.uint8, offset=skip)
        if self.offset % self.dtype.itemsize:
            flat = flat.copy()
        flat = flat.view(self.dtype)
        if self.strides is None:
            return flat.reshape(self.shape)
        steps = tuple(s * self.dtype.itemsize for s in strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def open_tensors(path: str | Path) -> dict[str, LazyTensor]:
    """Opens a weights file, or the index of a sharded one.

    Args:
      path: .safetensors, a torch zip file (.ckpt, .pt, .pth, .bin), or `*.index.json`.

    Raises:
      UserError: missing, damaged, unsafe or of another kind.
    """
    from iso3d_jax.weights import safetensors_file, torch_file

    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights file not found: {path}")
    try:
        if path.name.endswith(".index.json"):
            return _open_shards(path)
        if path.suffix == ".safetensors":
            return safetensors_file.open_safetensors(path)
        return torch_file.open_torch(path)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _open_shards(path: Path) -> dict[str, LazyTensor]:
    """All shards that an index names; each key must be where the index says."""
    try:
        places = json.loads(path.read_text())["weight_map"]
        names = sorted(set(places.values()))
        if any("/" in name or "\\" in name or name.startswith(".") for name in names):
            raise ValueError("a shard lies outside the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of shards: {error}") from None
    shards = {name: open_tensors(path.with_name(name)) for name in names}
    if lost := sorted(key for key, name in places.items() if key not in shards[name]):
        raise UserError(f"{path} promises '{lost[0]}' in {places[lost[0]]}, which lacks it")
    return {key: shards[name][key] for key, name in places.items()}
