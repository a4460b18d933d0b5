"""PLY files: text or binary, with colours of vertices or faces, or a texture as MeshLab writes it.

Every count that a file declares is checked against its bytes before anything is made of that size.
"""

import array
import dataclasses
import io
import struct

import numpy as np
from jaxtyping import Float, Int, Shaped

from iso3d_jax.data.beside import NotThere, ReadFile
from iso3d_jax.data.meshes import MOST_TRIANGLES, BadMesh, Note, Part, check_count, finite_uv
from iso3d_jax.data.plain_meshes import fans, surface
from iso3d_jax.data.textures import BadTexture, Textures

_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h",
    "ushort": "H", "uint16": "H", "int": "i", "int32": "i", "uint": "I", "uint32": "I",
    "float": "f", "float32": "f", "double": "d", "float64": "d",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 100_000
_LONGEST_LINE = 1_000_000
_LONGEST_LIST = 100_000
_MOST_VALUES = 9 * MOST_TRIANGLES  # of one column
_FACES = ("vertex_indices", "vertex_index")
_COLOURS = ("red", "green", "blue")
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))


@dataclasses.dataclass
class _Property:
    """A column: its name, its type, and the type of its length where it is a list."""

    name: str
    code: str
    length: str | None = None


@dataclasses.dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _List:
    """A column of lists: how long each is, and all their values one after the other."""

    sizes: Int[np.ndarray, "N"]
    values: Shaped[np.ndarray, "M"]


def read_ply(data: bytes, read_file: ReadFile, note: Note) -> list[Part]:
    """Reads a PLY file.

    Raises:
      BadMesh: damaged, or without triangles.
    """
    order, elements, texture, at = _header(data)
    body = memoryview(data)[at:]
    read = _Text(bytes(body)) if not order else _Binary(body, order)
    tables = {}
    for element in elements:
        least = sum(struct.calcsize(f"={p.length or p.code}") for p in element.properties)
        least = least if order else 2 * len(element.properties)
        if element.count * max(least, 1) > len(body) + 1:
            raise BadMesh(
                f"the PLY says it has {element.count:,} of {element.name[:40]!r}, more than its "
                "bytes can hold"
            )
        if element.count > 3 * MOST_TRIANGLES:
            raise BadMesh(f"{element.count:,} of {element.name[:40]!r} in the PLY, too many")
        table = read.table(element)
        if element.name in ("vertex", "face"):
            tables[element.name] = table
        elif element.count:
            note(f"{element.name[:40]!r} of the PLY is not drawn")
    return [_build(tables, texture, read_file, note)]


def _header(data: bytes):
    """(byte order, elements, texture file, where the body begins)."""
    stream = io.BytesIO(data[:_LONGEST_HEADER])
    if stream.readline().strip() != b"ply":
        raise BadMesh("the file does not begin with ply")
    order, elements, texture = None, [], None
    for line in stream:
        words = line.decode("utf-8", "replace").split()
        if not words:
            continue
        if words[0] == "end_header":
            break
        try:
            if words[0] == "format":
                order = _ORDERS[words[1]]
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2])))
                if elements[-1].count < 0:
                    raise ValueError("a negative count")
            elif words[0] == "property" and words[1] == "list":
                code, length = _TYPES[words[3]], _TYPES[words[2]]
                elements[-1].properties.append(_Property(words[4], code, length))
            elif words[0] == "property":
                elements[-1].properties.append(_Property(words[2], _TYPES[words[1]]))
            elif words[0] == "comment" and len(words) > 2 and words[1].lower() == "texturefile":
                texture = " ".join(words[2:])
        except (KeyError, IndexError, ValueError):
            shown = " ".join(words)[:60]
            raise BadMesh(f"a line of the PLY's header that cannot be read: {shown!r}") from None
    else:
        raise BadMesh("the PLY's header does not end")
    if order is None:
        raise BadMesh("the PLY's header names no format")
    return order, elements, texture, stream.tell()


def _extend(column: array.array, values):
    column.extend(values)
    if len(column) > _MOST_VALUES:
        raise BadMesh(f"a column of the PLY has more than {_MOST_VALUES:,} values")


class _Text:
    """Rows of a PLY in ASCII."""

    def __init__(self, data: bytes):
        self._lines = io.BytesIO(data)

    def table(self, element: _Element) -> dict:
        columns = [array.array("d") for _ in element.properties]
        sizes = [array.array("q") for _ in element.properties]
        for _ in range(element.count):
            words = self._words()
            if not words and element.properties:
                raise BadMesh(f"the PLY has fewer rows of {element.name[:40]!r} than it says")
            at = 0
            try:
                for p, column, size in zip(element.properties, columns, sizes, strict=True):
                    number = 1
                    if p.length:
                        number, at = int(words[at]), at + 1
                        size.append(number)
                    values = [float(w) for w in words[at : at + number]]
                    if number < 0 or len(values) < number:
                        raise ValueError("a list that ends too soon")
                    _extend(column, values)
                    at += number
            except (ValueError, IndexError, OverflowError):
                raise BadMesh(f"a row of {element.name[:40]!r} in the PLY is no numbers") from None
        return {
            p.name: _List(np.array(s, np.int64), np.array(c)) if p.length else np.array(c)
            for p, c, s in zip(element.properties, columns, sizes, strict=True)
        }

    def _words(self) -> list[bytes]:
        while line := self._lines.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise BadMesh(f"a line of more than {_LONGEST_LINE:,} bytes")
            if words := line.split():
                return words
        return []


class _Binary:
    """Rows of a binary PLY."""

    def __init__(self, data: memoryview, order: str):
        self._data, self._order, self._at = data, order, 0

    def table(self, element: _Element) -> dict:
        found = self._same_sizes(element)
        return self._row_by_row(element) if found is None else found

    def _same_sizes(self, element: _Element) -> dict | None:
        """All rows at once, where the lists of each column are as long as its first."""
        if not element.count or not element.properties:
            return None
        at, lengths, fields = self._at, {}, []
        for k, p in enumerate(element.properties):
            if p.length:
                (lengths[k],) = self._unpack(p.length, at)
                at += struct.calcsize(f"={p.length}")
                fields.append((f"size{k}", self._order + p.length))
                if lengths[k] < 0 or lengths[k] > len(self._data):
                    return None
            fields.append((f"value{k}", self._order + p.code, (int(lengths.get(k, 1)),)))
            at += int(lengths.get(k, 1)) * struct.calcsize(f"={p.code}")
        dtype = np.dtype(fields)
        if self._at + dtype.itemsize * element.count > len(self._data):
            return None
        rows = np.frombuffer(self._data, dtype, element.count, self._at)
        if any((rows[f"size{k}"] != length).any() for k, length in lengths.items()):
            return None
        self._at += dtype.itemsize * element.count
        table = {}
        for k, p in enumerate(element.properties):
            values = rows[f"value{k}"].ravel()
            sizes = np.full(element.count, lengths.get(k, 1), np.int64)
            table[p.name] = _List(sizes, values) if p.length else values
        return table

    def _unpack(self, codes: str, at: int) -> tuple:
        try:
            return struct.unpack_from(self._order + codes, self._data, at)
        except struct.error:
            raise BadMesh("the PLY ends too soon") from None

    def _row_by_row(self, element: _Element) -> dict:
        columns = [array.array("d") for _ in element.properties]
        sizes = [array.array("q") for _ in element.properties]
        for _ in range(element.count):
            for p, column, size in zip(element.properties, columns, sizes, strict=True):
                number = 1
                if p.length:
                    number = int(self._unpack(p.length, self._at)[0])
                    self._at += struct.calcsize(f"={p.length}")
                    size.append(number)
                width = struct.calcsize(f"={p.code}")
                if not 0 <= number <= _LONGEST_LIST:
                    raise BadMesh(f"a list of {number:,} values in the PLY")
                _extend(column, self._unpack(f"{number}{p.code}", self._at))
                self._at += number * width
        return {
            p.name: _List(np.array(s, np.int64), np.array(c)) if p.length else np.array(c)
            for p, c, s in zip(element.properties, columns, sizes, strict=True)
        }


def _build(tables: dict, texture: str | None, read_file: ReadFile, note: Note) -> Part:
    """The triangles, with whatever colour the file gives them."""
    vertex, face = tables.get("vertex", {}), tables.get("face", {})
    if any(isinstance(vertex.get(k), (_List, type(None))) for k in "xyz"):
        raise BadMesh("the PLY has no vertices")
    points = np.stack([vertex[k] for k in "xyz"], -1).astype(np.float64)
    rings = next((face[k] for k in _FACES if isinstance(face.get(k), _List)), None)
    if rings is None or not len(rings.sizes):
        raise BadMesh("the PLY has no faces: points alone are not drawn")
    check_count(int(np.maximum(rings.sizes - 2, 0).sum()))
    places, owner = _fans(rings.sizes)
    with np.errstate(invalid="ignore"):  # indices that are not numbers become none
        corners = rings.values[places].astype(np.int64)
    if corners.size and (corners.max() >= len(points) or corners.min() < 0):
        raise BadMesh("a face names a vertex that is not there")
    tint = None
    if (of_vertices := _colours(vertex)) is not None:
        tint = of_vertices[corners]
    elif (of_faces := _colours(face)) is not None:
        tint = np.repeat(of_faces[owner][:, None], 3, axis=1)
    part = surface(points, corners, tint)
    if texture is None:
        return part
    uv = None
    coordinates = face.get("texcoord")
    for u, v in _UVS:
        if all(isinstance(vertex.get(k), np.ndarray) for k in (u, v)):
            uv = np.stack([vertex[u], vertex[v]], -1)[corners]
    if isinstance(coordinates, _List) and (coordinates.sizes == 2 * rings.sizes).all():
        uv = coordinates.values.reshape(-1, 2)[places]
    if uv is None:
        note("the PLY's texture has no coordinates")
        return part
    try:
        part.texture = Textures().get(texture, lambda: read_file(texture))
    except (NotThere, BadTexture) as e:
        note(f"no texture: {e}")
        return part
    part.uv, part.colour, part.tint = finite_uv(uv), (1.0, 1.0, 1.0), None
    return part


def _fans(sizes: Int[np.ndarray, "F"]):
    """Triangles of polygons: where their corners stand [T, 3], and each triangle's polygon."""
    starts = np.cumsum(sizes) - sizes
    places, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(sizes[sizes > 2]):
        these = np.flatnonzero(sizes == size)
        triangles = fans(starts[these][:, None] + np.arange(size))
        places.append(triangles.reshape(-1, 3))
        owners.append(np.repeat(these, size - 2))
    return np.concatenate(places), np.concatenate(owners)


def _colours(table: dict) -> Float[np.ndarray, "N 3"] | None:
    """sRGB in [0, 1] from integers of 0 to 255 or fractions."""
    columns = [table.get(k, table.get(f"diffuse_{k}")) for k in _COLOURS]
    columns = [c for c in columns if isinstance(c, np.ndarray) and len(c)]
    if len(columns) < 3:
        return None
    values = np.nan_to_num(np.stack(columns, -1).astype(np.float64), posinf=1, neginf=0)
    return np.clip(values / (255.0 if values.max() > 1 else 1.0), 0, 1)
