"""Tensors that stay in their file until they are asked for.

`open_tensors` gives {key: LazyTensor} for every kind of file we know; a conversion reads one
tensor at a time, so that its memory does not depend on the file's size.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.json_files import need, read_object

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
MAX_KEY = 500  # characters of a tensor's name


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
        if is_index(path.name):
            return _open_shards(path)
        if path.suffix == ".safetensors":
            return safetensors_file.open_safetensors(path)
        return torch_file.open_torch(path)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {shorten(error)}") from None


def _open_shards(path: Path) -> dict[str, LazyTensor]:
    """All shards that an index names; each key must be where the index says."""
    places = need(read_object(path), "weight_map", dict, path)
    bad = [name for name in places.values() if not _is_shard(name)]
    if bad:
        raise UserError(
            f"{path}: '{shorten(bad[0])}' is no shard beside it, or lies outside the folder"
        )
    shards = {name: open_tensors(path.with_name(name)) for name in sorted(set(places.values()))}
    if lost := sorted(key for key, name in places.items() if key not in shards[name]):
        raise UserError(
            f"{path} promises '{shorten(lost[0])}' in {places[lost[0]]}, which lacks it"
        )
    return {key: shards[name][key] for key, name in places.items()}


def _is_shard(name) -> bool:
    """Whether a value of an index is the plain name of a weights file."""
    if not isinstance(name, str) or not name.isprintable() or len(name.encode()) > 255:
        return False
    return name.endswith(SUFFIXES) and name[0] != "." and not {"/", "\\"} & set(name)


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index of shards, plain or of a variant.

    diffusers writes `x.safetensors.index.json`, of a variant `x.safetensors.index.fp16.json`, and
    before 0.29 `x.safetensors.fp16.index.json`.
    """
    _, *parts = name.split(".")
    return parts[-1:] == ["json"] and "index" in parts
