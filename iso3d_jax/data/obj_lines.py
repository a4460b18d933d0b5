"""The lines of Wavefront OBJ files: coordinates and faces, many of them at a time.

A file of two million triangles has as many lines, and Python takes ten microseconds for each. So
lines are looked at in blocks: NumPy finds their words, and where all faces of a block are of one
spelling, and all its coordinates of one length, they are parsed at once. Whatever else there is
goes line by line, to the same numbers.
"""

from __future__ import annotations

import array
import codecs
import io
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from iso3d_jax.data.meshes import MOST_TRIANGLES, BadMesh, check_count

LONGEST_LINE = 4_000_000  # bytes
MOST_NUMBERS = 3 * 3 * MOST_TRIANGLES  # of positions, of normals, of coordinates
LARGEST_INDEX = 2**31
BLOCK = 1 << 20  # bytes that are looked at together
FEW = 64  # lines that are not worth it
PIECES = 8  # that a block of lines which are not alike is cut into, to try again
_SPACE = np.isin(np.arange(256), list(b" \t\n\r\v\f"))  # what bytes.split() takes for one
# Slashes of a corner, pairs of them, and which of position, coordinate and normal there are.
_SPELLINGS = ((0, 0, [0]), (1, 0, [0, 1]), (2, 0, [0, 1, 2]), (2, 1, [0, 2]))
_SLASH_TO_SPACE = bytes.maketrans(b"/", b" ")


def to_text(data: bytes) -> str:
    """UTF-8, and latin-1 where it is not."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def rest_of(line: bytes) -> str:
    """What follows a statement's first word."""
    words = line.split(None, 1)
    return to_text(words[1].strip()) if len(words) > 1 else ""


def _clean(data: bytes) -> bytes:
    """UTF-8 or latin-1 without a byte-order mark, each line ended by a line feed."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    if re.search(rb"\r(?!\n)", data):  # the ends of lines of old Macs
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def split_lines(data: bytes) -> Iterator[bytes]:
    """Lines without the byte-order mark, joined where a backslash ends one.

    Raises:
      BadMesh: a line that is too long.
    """
    return _join_lines(_clean(data))


def _join_lines(data: bytes) -> Iterator[bytes]:
    """`split_lines` of what is clean already."""
    pending: list[bytes] = []
    length = 0
    for line in io.BytesIO(data):
        length += len(line)
        if length > LONGEST_LINE:
            raise BadMesh(f"a line of more than {LONGEST_LINE:,} bytes")
        if line.endswith((b"\\\n", b"\\\r\n")):
            pending.append(line.rstrip()[:-1])
            continue
        yield b" ".join([*pending, line]) if pending else line
        pending, length = [], 0
    if pending:
        yield b" ".join(pending)


class Scan:
    """The numbers of a file: flat arrays, and the faces of each material.

    Attributes:
      positions, uvs, normals, colours: three, two, three and three numbers each.
      coloured: no vertex lacks a colour that another has.
      libraries: what `mtllib` names, as it stands there.
      groups: for each material the corners of its faces, and for each corner the indices of
        position, coordinate and normal, -1 where there is none.
      lines_or_points: how many there are.
    """

    def __init__(self):
        self.positions, self.uvs, self.normals = (array.array("d") for _ in range(3))
        self.colours = array.array("d")
        self.coloured = True
        self.libraries: list[str] = []
        self.groups: dict[str, tuple[array.array, array.array]] = {}  # sizes, corners
        self.lines_or_points = 0
        self._triangles = 0
        self._use("")

    def _use(self, name: str) -> None:
        self._sizes, self._corners = self.groups.setdefault(
            name, (array.array("i"), array.array("i"))
        )

    def read(self, line: bytes) -> None:
        """Takes one line.

        Raises:
          BadMesh: coordinates or a face that cannot be read, or too many.
        """
        words = line.split()
        if not words:
            return
        key = words[0]
        if key == b"v":
            self._add_vertex(words)
        elif key == b"f":
            self._add_face(words[1:], line)
        elif key == b"vt":
            _extend(self.uvs, (words[1:3] + [b"0"])[:2], 2)
        elif key == b"vn":
            _extend(self.normals, words[1:4], 3)
        elif key == b"usemtl":
            self._use(rest_of(line))
        elif key == b"mtllib":
            self.libraries.append(rest_of(line))
        elif key in (b"l", b"p"):
            self.lines_or_points += 1

    def _add_vertex(self, words: list[bytes]) -> None:
        _extend(self.positions, words[1:4], 3)
        if len(words) >= 7 and self._may_colour(1):
            _extend(self.colours, words[4:7], 3)

    def _may_colour(self, new: int) -> bool:
        """Whether the last `new` vertices may have colours, as all before them had.

        Where some have a colour and others none, it is not known what the others would be.
        """
        if self.coloured and len(self.colours) + 3 * new != len(self.positions):
            self.coloured = False
        return self.coloured

    def _add_face(self, tokens: list[bytes], line: bytes) -> None:
        counts = self._counts()
        size = 0
        for token in tokens:
            if token.startswith(b"#"):
                break
            fields = token.split(b"/")
            for k in range(3):
                try:
                    value = int(fields[k]) if k < len(fields) and fields[k] else 0
                except ValueError:
                    shown = to_text(line.strip())[:60]
                    raise BadMesh(f"a face that cannot be read: {shown!r}") from None
                if abs(value) >= LARGEST_INDEX:
                    raise BadMesh("a face names a vertex that is not there")
                if k == 0 and not value:
                    raise BadMesh("a face names a vertex that is not there")
                self._corners.append(value - 1 if value > 0 else counts[k] + value if value else -1)
            size += 1
        if size < 3:
            del self._corners[len(self._corners) - 3 * size :]
            return
        self._sizes.append(size)
        self._count_triangles(size - 2)

    def _counts(self) -> tuple[int, int, int]:
        """What negative indices of a face count back from."""
        return len(self.positions) // 3, len(self.uvs) // 2, len(self.normals) // 3

    def _count_triangles(self, more: int) -> None:
        self._triangles += more
        if self._triangles > MOST_TRIANGLES:
            check_count(self._triangles)

    def take(self, lines: _Alike) -> None:
        """Takes lines that were parsed together.

        Raises:
          BadMesh: too many.
        """
        for values, new, width in (
            (self.positions, lines.positions, 3), (self.uvs, lines.uvs, 2),
            (self.normals, lines.normals, 3),
        ):  # fmt: skip
            values.frombytes(np.ascontiguousarray(new[:, :width]).tobytes())
            _check_numbers(values)
        if lines.positions.shape[1] >= 6 and self._may_colour(len(lines.positions)):
            self.colours.frombytes(np.ascontiguousarray(lines.positions[:, 3:6]).tobytes())
        self._count_triangles(int((lines.sizes - 2).sum()))
        self._sizes.frombytes(lines.sizes.astype(np.intc).tobytes())
        corners = lines.corners
        back = np.where(corners < 0, np.array(self._counts()) + corners, -1)
        corners = np.where(corners > 0, corners - 1, back)
        self._corners.frombytes(corners.astype(np.intc).tobytes())


def _extend(values: array.array, words: list[bytes], count: int) -> None:
    try:
        values.extend([float(w) for w in words])
    except ValueError as e:
        raise BadMesh(f"coordinates that are not numbers: {e}") from None
    if len(words) != count:
        raise BadMesh(f"coordinates that are not {count} numbers")
    _check_numbers(values)


def _check_numbers(values: array.array) -> None:
    if len(values) > MOST_NUMBERS:
        raise BadMesh(f"more than {MOST_NUMBERS // 3:,} vertices")


def scan(data: bytes) -> Scan:
    """Reads the lines of an OBJ file.

    Raises:
      BadMesh: coordinates or a face that cannot be read, or too many.
    """
    found = Scan()
    data = _clean(data)
    if re.search(rb"\\\r?\n", data):  # lines that go on in the next one
        for line in _join_lines(data):
            found.read(line)
        return found
    first = 0
    while first < len(data):
        end = data.find(b"\n", first + BLOCK) + 1 or len(data)
        _Block(data[first:end]).read(found)
        first = end
    return found


class _Different(Exception):
    """Lines that are not alike; they are read one by one then."""


class _Alike(NamedTuple):
    """What lines hold that were parsed together.

    Attributes:
      positions, uvs, normals: a row a line, of all its numbers.
      sizes: corners of each face.
      corners: indices as they are in the file; 0 where there is none.
    """

    positions: Float[np.ndarray, "V C"]
    uvs: Float[np.ndarray, "U C"]
    normals: Float[np.ndarray, "N C"]
    sizes: Int[np.ndarray, "F"]
    corners: Int[np.ndarray, "K 3"]


class _Block:
    """Whole lines, and where their words are."""

    def __init__(self, data: bytes):
        self._data = data
        self._bytes = np.frombuffer(data + b"   ", np.uint8)  # so that what follows is there
        space = _SPACE[self._bytes]
        word = ~space[1:] & space[:-1]
        self._words = np.flatnonzero(np.concatenate([[not space[0]], word]))  # where they begin
        self._ends = np.flatnonzero(~space[:-1] & space[1:]) + 1
        breaks = np.flatnonzero(self._bytes[: len(data)] == ord("\n"))
        edges = np.concatenate([[0], breaks + 1, [len(data)]])
        if np.diff(edges).max() > LONGEST_LINE:
            raise BadMesh(f"a line of more than {LONGEST_LINE:,} bytes")
        word_edges = np.searchsorted(self._words, edges)
        full = np.diff(word_edges) > 0
        self._begins, self._line_ends = edges[:-1][full], edges[1:][full]
        # The words of line k are those from `_first[k]` to `_first[k + 1]`.
        self._first = np.append(word_edges[:-1][full], len(self._words))
        at = self._words[self._first[:-1]]
        one, two, three = self._bytes[at], self._bytes[at + 1], self._bytes[at + 2]
        alone = _SPACE[two]
        self._kinds = np.zeros(len(at), np.uint8)
        self._kinds[(one == ord("v")) & alone] = ord("v")
        self._kinds[(one == ord("f")) & alone] = ord("f")
        for letter in b"tn":
            self._kinds[(one == ord("v")) & (two == letter) & _SPACE[three]] = letter
        # usemtl, mtllib, l, p, and what else begins so; all other lines mean nothing to us.
        self._others = np.flatnonzero(np.isin(one, list(b"umlp")))

    def read(self, found: Scan) -> None:
        """Reads all lines: between statements of other kinds together, where they are alike."""
        if not len(self._others):
            self._read_together(found)
            return
        first = 0
        for other in [*self._others.tolist(), len(self._begins)]:
            if other - first >= FEW:
                _Block(self._data[self._begins[first] : self._line_ends[other - 1]]).read(found)
            else:
                self._read_one_by_one(found, first, other)
            self._read_one_by_one(found, other, min(other + 1, len(self._begins)))
            first = other + 1

    def _read_one_by_one(self, found: Scan, first: int, end: int) -> None:
        for k in range(first, end):
            found.read(self._data[self._begins[k] : self._line_ends[k]])

    def _read_together(self, found: Scan) -> None:
        try:
            alike = self._parse()
        except _Different:
            lines = len(self._begins)
            if lines < PIECES * FEW:
                self._read_one_by_one(found, 0, lines)
                return
            cuts = np.linspace(0, lines, PIECES + 1).astype(int)
            for first, end in itertools.pairwise(cuts):
                _Block(self._data[self._begins[first] : self._line_ends[end - 1]]).read(found)
        else:
            found.take(alike)

    def _parse(self) -> _Alike:
        """All coordinates and faces.

        Raises:
          _Different: they have to be read one by one.
        """
        sizes, corners = self._parse_faces(self._kinds == ord("f"))
        return _Alike(
            self._parse_numbers(self._kinds == ord("v"), 3),
            self._parse_numbers(self._kinds == ord("t"), 2),
            self._parse_numbers(self._kinds == ord("n"), 3),
            sizes, corners,
        )  # fmt: skip

    def _text(self, lines: Bool[np.ndarray, "L"]) -> bytes:
        """These lines one after the other, without their first words."""
        edges = np.zeros(len(self._data) + 1, np.int8)
        edges[self._ends[self._first[:-1]][lines]] += 1
        edges[self._line_ends[lines]] -= 1
        return self._bytes[: len(self._data)][np.cumsum(edges[:-1], dtype=np.int8) > 0].tobytes()

    def _parse_numbers(self, lines: Bool[np.ndarray, "L"], least: int) -> np.ndarray:
        """Their numbers [N, C], of which there are as many in each line."""
        widths = np.diff(self._first)[lines] - 1
        if not len(widths):
            return np.zeros((0, least))
        if widths.min() != widths.max() or widths[0] < least:
            raise _Different
        try:
            values = np.fromiter(map(float, self._text(lines).split()), np.float64)
        except ValueError:
            raise _Different from None
        return values.reshape(-1, widths[0])

    def _parse_faces(
        self, lines: Bool[np.ndarray, "L"]
    ) -> tuple[Int[np.ndarray, "F"], Int[np.ndarray, "N 3"]]:
        """Their sizes and corners, all of one spelling."""
        sizes = np.diff(self._first)[lines] - 1
        if not len(sizes):
            return np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
        if sizes.min() < 3:
            raise _Different
        columns = self._find_spelling(lines)
        text = self._text(lines).translate(_SLASH_TO_SPACE)
        try:
            with warnings.catch_warnings(action="error"):  # an error of its own in newer NumPy
                values = np.fromstring(text, np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            raise _Different from None
        if len(values) != sizes.sum() * len(columns):
            raise _Different
        if (values == 0).any() or np.abs(values).max() >= LARGEST_INDEX:
            raise _Different
        if values.min() < 0 and np.isin(self._kinds, list(b"vtn")).any():
            raise _Different  # what they count back from changes
        corners = np.zeros((int(sizes.sum()), 3), np.int64)
        corners[:, columns] = values.reshape(-1, len(columns))
        return sizes, corners

    def _find_spelling(self, lines: Bool[np.ndarray, "L"]) -> list[int]:
        """Which of position, coordinate and normal all corners of these lines have."""
        word = np.repeat(lines, np.diff(self._first))
        word[self._first[:-1]] = False  # the f
        begins, ends = self._words[word], self._ends[word]
        slash = self._bytes == ord("/")
        if (slash[begins] | slash[ends - 1]).any():
            raise _Different
        before = np.concatenate([[0], np.cumsum(slash)])
        slashes = before[ends] - before[begins]
        before = np.concatenate([[0], np.cumsum(slash[1:] & slash[:-1])])
        doubled = before[ends - 1] - before[begins]
        for count, pairs, columns in _SPELLINGS:
            if (slashes == count).all() and (doubled == pairs).all():
                return columns
        raise _Different
