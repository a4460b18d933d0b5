"""glTF 2.0 files: JSON, buffers, and accessors as arrays.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3.6 and 4. Nothing in a file is
believed: every index, count and length is checked against what is there before it is used.
"""

import base64
import binascii
import importlib
import json
import struct
import urllib.parse

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped

from iso3d_jax.core import extras
from iso3d_jax.data.beside import MOST_BYTES, NotThere, ReadFile
from iso3d_jax.data.meshes import MOST_TRIANGLES, BadMesh

_TYPES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_MESHOPT_PACKAGE = "meshopt"
_MESHOPT = ("KHR_meshopt_compression", "EXT_meshopt_compression")
MOST_COUNT = 3 * MOST_TRIANGLES  # elements of an accessor
MOST_MARKS = 4_000_000  # values in the JSON, a few hundred bytes each when read
MOST_BUFFERS = 2 * MOST_BYTES  # bytes of all buffers


class Document:
    """One file: `json` as it is, and typed access to what it refers to.

    Args:
      data: bytes of a .glb or .gltf file.
      read_file: returns the bytes of a file named relative to it; raises NotThere.

    Raises:
      BadMesh: not glTF 2.0.
    """

    def __init__(self, data: bytes, read_file: ReadFile):
        self._read_file = read_file
        self._binary: memoryview | None = None
        text = memoryview(data)
        if data[:4] == b"glTF":
            text = self._chunks(data)
        marks = sum(bytes(text).count(mark) for mark in (b",", b"[", b"{"))
        if marks > MOST_MARKS:
            raise BadMesh(f"the glTF's JSON has more than {MOST_MARKS:,} values")
        try:
            self.json = json.loads(bytes(text).decode("utf-8-sig"))
        except (ValueError, RecursionError) as e:
            raise BadMesh(f"the glTF's JSON cannot be read: {e}") from None
        if not isinstance(self.json, dict):
            raise BadMesh("the glTF's JSON is not an object")
        version = member(self.json, "asset", dict, {}).get("version")
        if not isinstance(version, str) or not version.startswith("2."):
            shown = f"version {version!r}"[:40] if version is not None else "no version"
            raise BadMesh(f"a glTF of {shown}, and 2.0 is what is read")
        self._buffers: dict[int, memoryview] = {}
        self._unpacked: dict[int, memoryview] = {}
        self._dense: dict[int, np.ndarray] = {}
        self._bytes_left, self._dense_left = MOST_BUFFERS, MOST_BYTES

    def _chunks(self, data: bytes) -> memoryview:
        """The JSON chunk of a GLB; keeps the binary one."""
        if len(data) < 20:
            raise BadMesh("the GLB ends within its header")
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise BadMesh(f"a GLB of version {version}, and 2 is what is read")
        if length > len(data):
            raise BadMesh(f"the GLB should have {length:,} bytes and has {len(data):,}")
        view, at, text = memoryview(data), 12, None
        while at + 8 <= len(data):
            size, kind = struct.unpack_from("<I4s", data, at)
            chunk = view[at + 8 : at + 8 + size]
            if len(chunk) < size:
                raise BadMesh(f"a chunk of the GLB should have {size:,} bytes, has {len(chunk):,}")
            if kind == b"JSON" and text is None:
                text = chunk
            elif kind == b"BIN\0" and self._binary is None:
                self._binary = chunk
            at += 8 + size
        if text is None:
            raise BadMesh("the GLB has no JSON chunk")
        return text

    def item(self, kind: str, index) -> dict:
        """The object `index` of a list at the top, such as `meshes`."""
        items = member(self.json, kind, list, [])
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(items):
            raise BadMesh(f"the glTF has no {kind} {str(index)[:20]}")
        if not isinstance(items[index], dict):
            raise BadMesh(f"{kind} {index} of the glTF is not an object")
        return items[index]

    def uri(self, text: str) -> bytes:
        """The bytes of a `data:` URI, or of the file that a relative one names.

        Raises:
          NotThere: no such file, or not base64.
        """
        if text[:5].lower() == "data:":
            head, comma, body = text.partition(",")
            if not comma:
                raise NotThere("a data: URI without data")
            if not head.lower().rstrip().endswith(";base64"):
                return urllib.parse.unquote_to_bytes(body)
            try:
                return base64.b64decode(urllib.parse.unquote_to_bytes(body) + b"==")
            except (binascii.Error, ValueError):
                raise NotThere("a data: URI that is not base64") from None
        if text[:5].lower() in ("http:", "https"):
            raise NotThere(f"{text[:60]} is on the network")
        try:
            return self._read_file(urllib.parse.unquote(text))
        except NotThere:
            if "%" not in text:
                raise
            return self._read_file(text)  # names with a percent sign that was not encoded

    def _buffer(self, index) -> memoryview:
        buffer = self.item("buffers", index)
        if index in self._buffers:
            return self._buffers[index]
        uri = member(buffer, "uri", str, None)
        if uri is None:
            if index != 0 or self._binary is None:
                raise BadMesh(f"buffer {index} of the glTF has no data")
            data = self._binary
        else:
            try:
                data = memoryview(self.uri(uri))
            except NotThere as e:
                raise BadMesh(f"buffer {index} of the glTF is missing: {e}") from None
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise BadMesh(f"the glTF's buffers have more than {MOST_BUFFERS:,} bytes")
        self._buffers[index] = data
        return data

    def view(self, index) -> memoryview:
        """The bytes of a buffer view, unpacked where the package meshopt is there to do so."""
        view = self.item("bufferViews", index)
        extensions = member(view, "extensions", dict, {})
        name = next((e for e in _MESHOPT if e in extensions), None)
        if name is None:
            return self._slice(view, f"bufferView {index}")
        if extras.is_installed(_MESHOPT_PACKAGE):
            if index not in self._unpacked:
                self._unpacked[index] = self._unpack(member(extensions, name, dict, {}), name)
            return self._unpacked[index]
        missing = (
            f"it is compressed by {name}, which the package {_MESHOPT_PACKAGE} reads: install it"
        )
        if _is_placeholder(self.item("buffers", view.get("buffer"))):
            raise BadMesh(missing)
        try:
            return self._slice(view, f"bufferView {index}")
        except BadMesh:
            raise BadMesh(missing) from None

    def _slice(self, of: dict, name: str) -> memoryview:
        """The bytes of a buffer that a view, or its extension, names."""
        start, length = count(of, "byteOffset", 0), count(of, "byteLength", None)
        data = self._buffer(of.get("buffer"))
        if start + length > len(data):
            raise BadMesh(
                f"{name} of the glTF wants bytes up to {start + length:,} of a buffer "
                f"of {len(data):,}"
            )
        return data[start : start + length]

    def _unpack(self, rule: dict, name: str) -> memoryview:
        """What a view compressed by meshoptimizer holds.

        Args:
          rule: the view's extension.
          name: that extension's.
        """
        number, stride = count(rule, "count", None), count(rule, "byteStride", None)
        self._bytes_left -= number * stride
        if self._bytes_left < 0:
            raise BadMesh(f"the glTF's buffers have more than {MOST_BUFFERS:,} bytes")
        packed = bytes(self._slice(rule, f"a view of {name}"))
        if not number:
            return memoryview(b"")
        try:
            values = importlib.import_module(_MESHOPT_PACKAGE).decode_gltf_buffer(
                packed, number, stride, rule.get("mode"), rule.get("filter")
            )
        except Exception as e:  # of the library's own kinds
            raise BadMesh(f"its {name} data cannot be unpacked ({e})") from None
        return memoryview(np.ascontiguousarray(values).tobytes())

    def accessor(self, index, width: int | None = None) -> Shaped[np.ndarray, "N C"]:
        """The elements of an accessor as they are stored; a view where that is possible.

        Args:
          width: the components it must have; None for any.
        """
        accessor = self.item("accessors", index)
        code, kind = count(accessor, "componentType", 0), member(accessor, "type", str, "")
        if code not in _COMPONENTS or kind not in _TYPES:
            raise BadMesh(f"accessor {index} of the glTF has no type that is known")
        components = _TYPES[kind]
        if width is not None and components != width:
            raise BadMesh(f"accessor {index} of the glTF is {kind}, where {width} are needed")
        if index in self._dense:
            return self._dense[index]
        dtype, number = np.dtype(_COMPONENTS[code]), count(accessor, "count", None)
        if number > MOST_COUNT:
            raise BadMesh(f"accessor {index} of the glTF has {number:,} elements, too many")
        if accessor.get("bufferView") is None:
            values = np.broadcast_to(np.zeros(1, dtype), (number, components))
        else:
            values = self._elements(
                accessor["bufferView"], count(accessor, "byteOffset", 0), number, kind, dtype,
                f"accessor {index}",
            )  # fmt: skip
        if "sparse" in accessor:
            values = self._with_sparse(index, member(accessor, "sparse", dict, {}), values, kind)
        return values

    def _elements(
        self, view: object, offset: int, number: int, kind: str, dtype: np.dtype, name: str
    ) -> Shaped[np.ndarray, "N C"]:
        """Elements with their stride; columns of matrices begin at multiples of four bytes.

        Args:
          view: the index of a buffer view as the file has it, whatever that is.
        """
        rows = int(kind[-1]) if kind.startswith("MAT") else _TYPES[kind]
        columns = rows if kind.startswith("MAT") else 1
        column = rows * dtype.itemsize
        if columns > 1:
            column = -(-column // 4) * 4
        size = column * (columns - 1) + rows * dtype.itemsize
        data = self.view(view)
        stride = count(self.item("bufferViews", view), "byteStride", 0) or column * columns
        if offset + stride * (number - 1) + size > len(data) and number:
            raise BadMesh(
                f"{name} of the glTF wants {offset + stride * (number - 1) + size:,} bytes of a "
                f"bufferView of {len(data):,}"
            )
        if not number:
            return np.zeros((0, rows * columns), dtype)
        shape, strides = (number, columns, rows), (stride, column, dtype.itemsize)
        found = np.ndarray(shape, dtype, data, offset, strides)
        return found[:, 0] if columns == 1 else found.reshape(number, -1)

    def _with_sparse(self, index: int, sparse: dict, values: np.ndarray, kind: str) -> np.ndarray:
        number = count(sparse, "count", None)
        where, what = member(sparse, "indices", dict, {}), member(sparse, "values", dict, {})
        code = count(where, "componentType", 0)
        if code not in (5121, 5123, 5125):
            raise BadMesh(f"the sparse indices of accessor {index} of the glTF have no known type")
        name = f"the sparse accessor {index}"
        at = self._elements(
            where.get("bufferView"), count(where, "byteOffset", 0), number, "SCALAR",
            np.dtype(_COMPONENTS[code]), name,
        )[:, 0]  # fmt: skip
        new = self._elements(
            what.get("bufferView"), count(what, "byteOffset", 0), number, kind, values.dtype, name
        )
        if number and at.max() >= len(values):
            raise BadMesh(f"{name} of the glTF replaces elements that are not there")
        self._dense_left -= values.nbytes
        if self._dense_left < 0:
            raise BadMesh(f"the glTF's sparse accessors have more than {MOST_BYTES:,} bytes")
        dense = np.array(values)
        dense[at] = new
        self._dense[index] = dense
        return dense

    def is_normalized(self, index) -> bool:
        return self.item("accessors", index).get("normalized") is True


def _is_placeholder(buffer: dict) -> bool:
    """Whether a buffer only says how large what is compressed would be."""
    extensions = member(buffer, "extensions", dict, {})
    said = any(member(extensions, e, dict, {}).get("fallback") is True for e in _MESHOPT)
    return said and buffer.get("uri") is None


def to_float(values: Shaped[np.ndarray, "N C"], normalized: bool) -> Float[np.ndarray, "N C"]:
    """Elements as float64: integers as they are, or as the fractions that `normalized` means."""
    out = values.astype(np.float64)
    if normalized and values.dtype.kind in "iu":
        out = np.maximum(out / np.iinfo(values.dtype).max, -1.0)
    return out


def member(of, key: str, kind: type | tuple, default):
    """A value of a JSON object, which must be of a type; `default` where it is not there."""
    if not isinstance(of, dict):
        raise BadMesh("the glTF has something else where an object should be")
    value = of.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadMesh(f"{key} of the glTF is {str(value)[:40]!r}, which it cannot be")
    return value


def count(of: dict, key: str, default: int | None) -> int:
    """A whole number of at least 0; required where `default` is None."""
    value = member(of, key, (int, float), default)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if value is None or not whole or value < 0:
        raise BadMesh(f"{key} of the glTF is {str(value)[:40]}, and should count something")
    return int(value)


def numbers(of: dict, key: str, default: tuple[float, ...]) -> Float[np.ndarray, "N"]:
    """A list of as many finite numbers as `default` has."""
    value = member(of, key, list, list(default))
    good = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in value]
    if len(value) != len(default) or not all(good):
        raise BadMesh(f"{key} of the glTF is not {len(default)} numbers")
    try:
        out = np.array(value, np.float64)
    except OverflowError:
        raise BadMesh(f"{key} of the glTF is not finite") from None
    if not np.isfinite(out).all():
        raise BadMesh(f"{key} of the glTF is not finite")
    return out


def number(of: dict, key: str, default: float) -> float:
    """A finite number."""
    value = member(of, key, (int, float), default)
    return float(numbers({key: [value]}, key, (default,))[0])


def as_index(values: Integer[np.ndarray, "N 1"]) -> Int[np.ndarray, "N"]:
    return values[:, 0].astype(np.int64)
