"""STL and OFF: triangles with at most a colour for each vertex.

Every count that a file declares is checked against its bytes before anything is made of that size.
"""

import array
import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from iso3d_jax.data.meshes import (
    GREY,
    MOST_TRIANGLES,
    BadMesh,
    Part,
    check_count,
    shading_normals,
)

_LONGEST_LINE = 1_000_000


def surface(
    points: Float[np.ndarray, "V 3"],
    corners: Int[np.ndarray, "T 3"],
    tint: Float[np.ndarray, "T 3 3"] | None = None,
) -> Part:
    """A part of triangles; `tint` is sRGB.

    Raises:
      BadMesh: no triangles, too many, vertices that are not there or not finite.
    """
    if not len(corners):
        raise BadMesh("the file has no triangles")
    check_count(len(corners))
    if corners.max() >= len(points) or corners.min() < 0:
        raise BadMesh("a face names a vertex that is not there")
    with np.errstate(invalid="ignore"):
        xyz = np.asarray(points, np.float64)[corners]
    if not np.isfinite(xyz).all():
        raise BadMesh("coordinates that are not finite")
    part = Part(xyz, shading_normals(xyz), np.zeros((len(xyz), 3, 2), np.float32), GREY)
    if tint is not None:
        whole = np.ones((len(xyz), 3, 4), np.float32)
        whole[..., :3] = tint
        part.tint, part.colour, part.alpha = whole, (1.0, 1.0, 1.0), "opaque"
    return part


def fans(rings: Int[np.ndarray, "F n"]) -> Int[np.ndarray, "F n-2 3"]:
    """Triangles of polygons of one size, each a fan of its first corner."""
    k = np.arange(1, max(rings.shape[1] - 1, 1))
    first = np.broadcast_to(rings[:, :1], (len(rings), len(k)))
    return np.stack([first, rings[:, k], rings[:, k + 1]], -1)


def rows(data: bytes) -> Iterator[list[bytes]]:
    """The words of each line that has some; what follows a # is left out."""
    for line in io.BytesIO(data):
        if len(line) > _LONGEST_LINE:
            raise BadMesh(f"a line of more than {_LONGEST_LINE:,} bytes")
        words = line.partition(b"#")[0].split()
        if words:
            yield words


def read_stl(data: bytes) -> list[Part]:
    """Reads an STL file, binary or text.

    Raises:
      BadMesh: damaged, or without triangles.
    """
    if len(data) >= 84:
        triangles = struct.unpack_from("<I", data, 80)[0]
        text = data[:5].lower() == b"solid" and b"\0" not in data[80:1000]
        if len(data) == 84 + 50 * triangles or not text:
            if len(data) < 84 + 50 * triangles:
                raise BadMesh(
                    f"the STL says it has {triangles:,} triangles, and its bytes are enough for "
                    f"{(len(data) - 84) // 50:,}"
                )
            check_count(triangles)
            facets = np.frombuffer(data, np.uint8, 50 * triangles, 84).reshape(-1, 50)
            points = np.ascontiguousarray(facets[:, 12:48]).view("<f4").reshape(-1, 3)
            return [surface(points, np.arange(len(points)).reshape(-1, 3))]
    found = array.array("d")
    for match in re.finditer(rb"^[ \t]*vertex[ \t]+([^\r\n]*)", data, re.IGNORECASE | re.MULTILINE):
        try:
            x, y, z = (float(word) for word in match[1][:1000].split()[:3])
        except ValueError:
            raise BadMesh("a vertex of the STL that is not three numbers") from None
        found.extend((x, y, z))
        if len(found) > 9 * MOST_TRIANGLES:
            check_count(len(found) // 9 + 1)
    points = np.array(found).reshape(-1, 3)
    return [surface(points, np.arange(len(points) // 3 * 3).reshape(-1, 3))]


def read_off(data: bytes) -> list[Part]:
    """Reads an OFF file of text; of COFF the vertex colours too.

    Raises:
      BadMesh: damaged, binary, or without triangles.
    """
    words = rows(data)
    first = next(words, [b""])
    # Some write the counts on the same line, some without a space between.
    match = re.fullmatch(rb"((?:ST)?C?N?OFF)(\d*)", first[0].upper())
    if not match:
        raise BadMesh("the file does not begin with OFF")
    head, first = match[1], [match[1], *([match[2]] if match[2] else []), *first[1:]]
    try:
        vertices, faces = (int(w) for w in (first[1:] or next(words))[:2])
        if vertices < 0 or faces < 0 or 2 * (vertices + faces) > len(data):
            raise BadMesh("the OFF says it has more than its bytes can hold")
        points, colours = array.array("d"), array.array("d")
        coloured = head == b"COFF"
        for _ in range(vertices):
            row = next(words)
            points.extend((float(row[0]), float(row[1]), float(row[2])))
            if coloured:
                colours.extend((float(row[3]), float(row[4]), float(row[5])))
        triangles = array.array("q")
        for _ in range(faces):
            row = next(words)
            ring = [int(w) for w in row[1 : 1 + int(row[0])]]
            if len(ring) < int(row[0]):
                raise BadMesh("a face of the OFF ends too soon")
            for k in range(1, len(ring) - 1):
                triangles.extend((ring[0], ring[k], ring[k + 1]))
            if len(triangles) > 3 * MOST_TRIANGLES:
                check_count(len(triangles) // 3)
    except BadMesh:
        raise
    except (StopIteration, ValueError, IndexError, OverflowError):
        raise BadMesh("the OFF's numbers end too soon, or are none") from None
    corners = np.array(triangles, np.int64).reshape(-1, 3)
    if not coloured or not len(colours):
        return [surface(np.array(points).reshape(-1, 3), corners)]
    if corners.size and (corners.max() >= vertices or corners.min() < 0):
        raise BadMesh("a face names a vertex that is not there")
    tint = np.nan_to_num(np.array(colours).reshape(-1, 3), posinf=1, neginf=0)
    tint = np.clip(tint / (255.0 if tint.max() > 1 else 1.0), 0, 1)
    return [surface(np.array(points).reshape(-1, 3), corners, tint[corners])]
