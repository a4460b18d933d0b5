"""PyTorch's checkpoints, read without PyTorch: zips (`torch.save` since 1.6) and those from before.

A zip is uncompressed: `NAME/data.pkl` holds the structure, `NAME/data/N` the raw storages. An old
file is a row of pickles (a magic number, a version, facts about the machine, the structure, the
storages' keys) and then every storage, its number of elements (int64) first. A pickle can call any
function; ours is read as data (`pickles.py`), and sizes are checked against the file, so that a
tensor is always inside it. Zips are also written.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import parse_json
from iso3d_jax.weights.pickles import (
    EXPANDED,
    MAX_BYTES,
    Inert,
    PickleError,
    RunsCode,
    Tensor,
    load_pickle,
)
from iso3d_jax.weights.safetensors_file import Entry
from iso3d_jax.weights.tensors import MAX_KEY, LazyTensor, row_major

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# The names of types in files, beside the storages' own, and of a storage of bytes.
TYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
}
BYTES = "UntypedStorage"
# Under which trainers put the state dict; an average of it only where there is nothing else.
WRAPPERS = (
    "state_dict", "model_state_dict", "module", "model", "model_state", "net", "network", "weights",
    "params", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema",
)  # fmt: skip
_TAIL = 1 << 17  # bytes at a zip's end, where its directory is found
_MAX_DIRECTORY = 16 << 20  # bytes of a zip's list of entries
_ALIGNMENT = 64
# Ours, and what Python's zipfile raises where an entry is damaged, encrypted or unknown.
_DAMAGED = (
    ValueError, OverflowError, RuntimeError, NotImplementedError, EOFError, struct.error,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
_FACTS = "archive/iso3d_jax/model.json"
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number


class _Place(NamedTuple):
    """Where a storage's bytes lie in the file."""

    offset: int
    nbytes: int


def open_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a torch file, by key; a wrapper such as 'state_dict' is opened.

    Raises:
      UserError: not such a file, damaged, or with a pickle that wants more than weights.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            old = file.read(len(_OLD)) == _OLD
        content, places = _open_old(path) if old else _open_zip(path)
        return _state_dict(content, places, path)
    except RunsCode as error:
        raise UserError(f"{path} is refused: {error}") from None
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is not a checkpoint that can be read: neither safetensors nor a "
            "file of torch.save; it may be damaged or cut short"
        ) from None
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged: {shorten(error)}") from None


def _open_old(path: Path) -> tuple[Any, dict[str, _Place]]:
    """What a file holds that torch.save wrote before 1.6, and where its storages lie."""
    with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        parts = []
        for _ in range(5):
            parts.append(load_pickle(data, at))
            at = parts[-1].end
        machine, content, keys = (part.value for part in parts[2:])
        if isinstance(machine, dict) and machine.get("little_endian") is False:
            raise UserError(f"{path} was written on a big-endian machine; save it again")
        if type(keys) is not list or len(set(map(_text, keys))) != len(keys):
            raise PickleError("its list of storages is damaged")
        widths = {key: _width(kind) for key, kind in parts[3].storages.items()}
        places = {}
        for key in keys:
            if key not in widths:
                raise PickleError(f"storage '{shorten(key)}' belongs to no tensor")
            (count,) = struct.unpack("<q", _slice(data, at, 8))
            size = count * widths[key]
            if count < 0 or at + 8 + size > len(data):
                raise PickleError(f"storage '{shorten(key)}' is cut short")
            places[key] = _Place(at + 8, size)
            at += 8 + size
        return content, places


def _open_zip(path: Path) -> tuple[Any, dict[str, _Place]]:
    """What a zip file holds, and where its storages lie."""
    size = path.stat().st_size
    with open(path, "rb") as raw:
        _check_directory(raw, size)
        with zipfile.ZipFile(raw) as archive:
            names = archive.namelist()
            roots = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
            if len(roots) != 1:
                raise UserError(f"{path} is a zip file, but not one that torch.save wrote")
            root = roots[0].removesuffix("data.pkl")
            order = root + "byteorder"
            if order in names and _read_entry(archive, order, 16) != b"little":
                raise UserError(f"{path} was written on a big-endian machine; save it again")
            content = load_pickle(_read_entry(archive, roots[0], MAX_BYTES)).value
            prefix = root + "data/"
            places = {
                info.filename.removeprefix(prefix): _place(raw, info, size)
                for info in archive.infolist()
                if info.filename.startswith(prefix)
            }
    return content, places


def _read_entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise PickleError(f"{shorten(name)} is larger than {most} bytes")
    with archive.open(info) as file:
        return file.read(most)


def _check_directory(raw, size: int) -> None:
    """Refuses a zip's list of entries that would take minutes to read."""
    raw.seek(max(0, size - _TAIL))
    tail = raw.read()
    raw.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if length == 0xFFFFFFFF and (wide := tail.rfind(b"PK\x06\x06")) >= 0:
        length = int.from_bytes(tail[wide + 40 : wide + 48], "little")
    if length > _MAX_DIRECTORY:
        raise PickleError(f"its list of entries has {length} bytes")


def _place(raw, info: zipfile.ZipInfo, size: int) -> _Place:
    """Where an entry's bytes begin; they must be stored as they are, inside the file."""
    name = shorten(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise PickleError(f"{name} is compressed, which torch.save does not do")
    raw.seek(info.header_offset)
    header = raw.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise PickleError(f"{name} has no header")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    offset = info.header_offset + 30 + name_length + extra_length
    if offset + info.file_size > size:
        raise PickleError(f"{name} does not lie inside the file")
    return _Place(offset, info.file_size)


def _text(key) -> str:
    if type(key) is not str:
        raise PickleError("a storage's key is no text")
    return key


def _slice(data, at: int, count: int) -> bytes:
    if at + count > len(data):
        raise PickleError("a storage is cut short")
    return data[at : at + count]


def _width(kind: str) -> int:
    """Bytes of an element of a storage, by the name of its type."""
    if kind == BYTES:
        return 1
    if kind in STORAGES:
        return STORAGES[kind].itemsize
    raise PickleError(f"storages of the type {shorten(kind)} are not known here")


def _state_dict(content, places: Mapping[str, _Place], path: Path) -> dict[str, LazyTensor]:
    """The tensors by name, inside the wrappers of trainers."""
    for _ in range(4):
        mapping = content.items if type(content) is Inert else content
        if type(mapping) is not dict:
            break
        inner = next((mapping[n] for n in WRAPPERS if type(mapping.get(n)) in (dict, Inert)), None)
        if inner is None or any(type(value) is Tensor for value in mapping.values()):
            break
        content = inner
    mapping = content.items if type(content) is Inert else content
    found = mapping if type(mapping) is dict else {}
    tensors = {k: v for k, v in found.items() if type(v) is Tensor and type(k) is str}
    if not tensors:
        raise UserError(f"{path} holds no state dict: no tensors by name were found in it")
    if odd := next((k for k in tensors if len(k) > MAX_KEY or not k.isprintable()), None):
        raise PickleError(f"its key '{shorten(odd)}' is no name")
    return {key: _lazy(key, tensor, places, path) for key, tensor in tensors.items()}


def _lazy(key: str, tensor: Tensor, places: Mapping[str, _Place], path: Path) -> LazyTensor:
    """A tensor in its file; it must lie inside its storage, and that inside the file."""
    storage, offset, size, stride, kind = tensor
    dtype = STORAGES.get(storage.kind) if kind is None else TYPES.get(kind)
    if dtype is None:
        raise UserError(
            f"{path}: '{key}' is of the type {shorten(kind or storage.kind)}, which is not read "
            "here: save the weights as float32, float16 or bfloat16"
        )
    if kind is not None and storage.kind != BYTES and STORAGES.get(storage.kind) != dtype:
        raise PickleError(f"'{key}' is of another type than its storage")
    if storage.key not in places:
        raise PickleError(f"storage '{shorten(storage.key)}' is missing")
    place = places[storage.key]
    if storage.count * _width(storage.kind) > place.nbytes:
        raise PickleError(f"storage '{shorten(storage.key)}' is cut short")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    inside = 0 in size or (last + 1) * dtype.itemsize <= place.nbytes
    if not inside or math.prod(size) > max(place.nbytes // dtype.itemsize, EXPANDED):
        raise PickleError(f"'{key}' reaches outside its storage")
    strides = None if stride == row_major(size) else stride
    return LazyTensor(path, place.offset + offset * dtype.itemsize, size, dtype, strides)


def read_facts(path: Path) -> dict:
    """What `write_torch` was given as `facts`; empty for any other file.

    Raises:
      UserError: they are there and damaged.
    """
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            if _FACTS not in archive.namelist():
                return {}
            facts = parse_json(_read_entry(archive, _FACTS, 1 << 20))
    except _DAMAGED as error:
        raise UserError(f"{path}: its {_FACTS} is damaged: {shorten(error)}") from None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: its {_FACTS} is damaged: it is no JSON object")
    return facts


def write_torch(path: str | Path, entries: Iterable[Entry], facts: Mapping | None = None) -> None:
    """Writes a flat state dict that `torch.load(path, weights_only=True)` reads; atomic, lean.

    Args:
      path: file to write.
      entries: what is in it, in order.
      facts: JSON for `read_facts`, in an entry of the zip that torch.load does not look at.
    """
    entries = list(entries)
    names = {dtype: name for name, dtype in STORAGES.items()}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with _entry(archive, "archive/data.pkl") as file:
            file.write(_pickle([(key, shape, names[dtype]) for key, shape, dtype, _ in entries]))
        with _entry(archive, "archive/byteorder") as file:
            file.write(b"little")
        for number, (key, shape, dtype, read) in enumerate(entries):
            array = np.asarray(read(), order="C")
            if array.dtype != dtype or array.shape != tuple(shape):
                raise ValueError(f"{key}: {array.shape} {array.dtype} is not {shape} {dtype}")
            with _entry(archive, f"archive/data/{number}") as file:
                file.write(array.reshape(-1).view(np.uint8).data)
        with _entry(archive, "archive/version") as file:
            file.write(b"3\n")
        if facts:
            with _entry(archive, _FACTS) as file:
                file.write(json.dumps(dict(facts), indent=2).encode())


@contextlib.contextmanager
def _entry(archive: zipfile.ZipFile, name: str):
    """An uncompressed entry whose data begins at a multiple of 64 bytes, as torch's own."""
    info = zipfile.ZipInfo(name)
    zip64 = 20  # the length of the zip64 extra field that force_zip64 adds
    assert archive.fp is not None  # it is open
    begin = archive.fp.tell() + 30 + len(name.encode()) + zip64 + 4
    padding = -begin % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=True) as file:
        yield file


def _pickle(entries: list[tuple[str, tuple[int, ...], str]]) -> bytes:
    """The pickle (protocol 2) of an OrderedDict of tensors, opcode by opcode."""

    def text(value):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw

    def number(value):
        if value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    empty = b"ccollections\nOrderedDict\n)R"
    out = [b"\x80\x02", empty, b"("]
    for index, (key, shape, storage) in enumerate(entries):
        out.append(text(key))
        out.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.append(text("storage") + f"ctorch\n{storage}\n".encode())
        out.append(text(str(index)) + text("cpu") + number(math.prod(shape)) + b"tQ")
        out.append(number(0) + numbers(shape) + numbers(row_major(tuple(shape))))
        out.append(b"\x89" + empty + b"tR")
    out.append(b"u.")
    return b"".join(out)
