"""PyTorch's checkpoints, read without PyTorch: zips (`torch.save` since 1.6) and those from before.

A zip is uncompressed: `NAME/data.pkl` holds the structure, `NAME/data/N` the raw storages. An old
file is a row of pickles (a magic number, a version, facts about the machine, the structure, the
storages' keys) and then every storage, its number of elements (int64) first. A pickle can name any
function to call, so ours may name only what a state dict needs; anything else is refused before it
is looked up. Zips are also written.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.weights.safetensors_file import Entry
from iso3d_jax.weights.tensors import LazyTensor, row_major

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
WRAPPERS = ("state_dict", "module", "model")  # under which trainers put the state dict
_ALIGNMENT = 64
_FACTS = "archive/iso3d_jax/model.json"
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number


class _Storage:
    """A storage of the file: where its bytes begin and how many elements it has."""

    __slots__ = ("count", "dtype", "offset", "path")

    def __init__(self, path, offset, dtype, count):
        self.path, self.offset, self.dtype, self.count = path, offset, dtype, count

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a storage has no state")


def _rebuild_tensor(storage, storage_offset, size, stride, *_):
    """torch._utils._rebuild_tensor_v2: a view of a storage, which must lie inside it."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor has no storage")
    numbers = (storage_offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor has an impossible shape")
    last = storage_offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    size, stride = tuple(size), tuple(stride)
    return LazyTensor(
        storage.path,
        storage.offset + storage_offset * storage.dtype.itemsize,
        size,
        storage.dtype,
        None if stride == row_major(size) else stride,
    )


def _rebuild_parameter(data, *_):
    """torch._utils._rebuild_parameter: the tensor itself."""
    return data


_ALLOWED: dict[tuple[str, str], Callable | np.dtype] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows `_ALLOWED` and nothing else."""

    def __init__(self, file, path: Path, storages: dict[str, tuple[int, int]]):
        super().__init__(file, encoding="utf-8")
        self._path, self._storages = path, storages

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._path} is refused: its pickle asks for '{module}.{name}', which is more "
                "than weights need and could run code; get the weights as .safetensors instead"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid):
        dtype, key, count = _storage_id(pid)
        if not isinstance(dtype, np.dtype) or type(count) is not int or key not in self._storages:
            raise pickle.UnpicklingError(f"storage {key!r} is missing")
        offset, size = self._storages[key]
        if count < 0 or count * dtype.itemsize > size:
            raise pickle.UnpicklingError(f"storage {key!r} is cut short")
        return _Storage(self._path, offset, dtype, count)


def _storage_id(pid) -> tuple:
    """Type, key and number of elements; old files add a view, which ours never have."""
    if not (isinstance(pid, tuple) and pid[:1] == ("storage",) and len(pid) in (5, 6)):
        raise pickle.UnpicklingError("an unknown kind of persistent object")
    if pid[5:] not in ((), (None,)):
        raise pickle.UnpicklingError("a storage is a view of another")
    return pid[1], pid[2], pid[4]


class _Survey(_Unpickler):
    """Only finds out which storages there are, and of what type: in old files they come later."""

    def __init__(self, file, path: Path):
        super().__init__(file, path, {})
        self.dtypes: dict[str, np.dtype] = {}

    def persistent_load(self, pid):
        dtype, key, count = _storage_id(pid)
        if not isinstance(dtype, np.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"storage {key!r} is impossible")
        self.dtypes[key] = dtype
        return _Storage(self._path, 0, dtype, count)


def _open_old(path: Path):
    """The content of a file that torch.save wrote before 1.6."""
    with open(path, "rb") as raw:
        _, _, machine = (_Unpickler(raw, path, {}).load() for _ in range(3))
        if not machine.get("little_endian", True):
            raise UserError(f"{path} was written on a big-endian machine; save it again")
        begin = raw.tell()
        survey = _Survey(raw, path)
        survey.load()
        keys = _Unpickler(raw, path, {}).load()
        offset, storages = raw.tell(), {}
        for key in keys:
            raw.seek(offset)
            (count,) = struct.unpack("<q", raw.read(8))
            size = count * survey.dtypes[key].itemsize
            storages[key] = (offset + 8, size)
            offset += 8 + size
            if count < 0 or offset > path.stat().st_size:
                raise ValueError(f"storage {key!r} is cut short")
        raw.seek(begin)
        return _Unpickler(raw, path, storages).load()


def _open_zip(path: Path):
    """The content of a zip file."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(names) != 1:
            raise UserError(f"{path} is a zip file, but not one that torch.save wrote")
        root = names[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            if archive.read(root + "byteorder") != b"little":
                raise UserError(f"{path} was written on a big-endian machine; save it again")
        prefix = root + "data/"
        storages = {
            info.filename.removeprefix(prefix): (_data_offset(raw, info), info.file_size)
            for info in archive.infolist()
            if info.filename.startswith(prefix)
        }
        return _Unpickler(io.BytesIO(archive.read(names[0])), path, storages).load()


def open_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a torch file, by key; a wrapper such as 'state_dict' is opened.

    Raises:
      UserError: not such a file, damaged, or with a pickle that wants more than weights.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            old = file.read(len(_OLD)) == _OLD
        content = _open_old(path) if old else _open_zip(path)
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is not a checkpoint that can be read: neither safetensors nor a "
            "file of torch.save; it may be damaged or cut short"
        ) from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise UserError(f"{path} is damaged: {error}") from None
    return _state_dict(content, path)


def _state_dict(content, path: Path) -> dict[str, LazyTensor]:
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    tensors = content if isinstance(content, dict) else {}
    tensors = {k: v for k, v in tensors.items() if isinstance(v, LazyTensor)}
    if not tensors:
        raise UserError(f"{path} holds no state dict: no tensors by name were found in it")
    return tensors


def _data_offset(raw, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin; they must be stored as they are."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch.save does not do")
    raw.seek(info.header_offset)
    header = raw.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename} has no header")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name_length + extra_length


def read_facts(path: Path) -> dict:
    """What `write_torch` was given as `facts`; empty for any other file.

    Raises:
      UserError: they are there and damaged.
    """
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        if _FACTS not in archive.namelist():
            return {}
        try:
            facts = json.loads(archive.read(_FACTS))
        except (ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: its {_FACTS} is damaged: {error}") from None
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
