"""Wavefront OBJ and MTL files as they are found: our own reader.

Kept is what matters for colours (Kd as sRGB, map_Kd with its options, d and Tr, vertex colours).
Lines are read as bytes (obj_lines.py), since some letters hold bytes that look like ends of lines.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Float, Int

from iso3d_jax.data import obj_lines
from iso3d_jax.data.beside import NotThere, ReadFile
from iso3d_jax.data.meshes import (
    GREY,
    MOST_PARTS,
    BadMesh,
    Note,
    Part,
    finite_uv,
    shading_normals,
)
from iso3d_jax.data.textures import BadTexture, Textures

_NUMBERS_OF = {"-o": 3, "-s": 3, "-t": 3, "-mm": 2}  # of a map's options; one of the others
_CLIPPED = 100  # corners of the largest polygon that is cut by its ears
_EARS_TRIED = 300_000  # of all polygons; the others become fans


@dataclasses.dataclass
class Map:
    """A `map_` statement: a file, and how its coordinates are scaled and moved."""

    file: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False


@dataclasses.dataclass
class Material:
    """What we keep of one `newmtl` block."""

    colour: tuple[float, float, float] = GREY
    opacity: float = 1.0
    texture: Map | None = None
    tr_is_1: bool = False  # and it is taken as opaque


def parse_mtl(data: bytes, note: Note) -> dict[str, Material]:
    """Materials by name. Kd is taken as sRGB, as the tools behind most OBJ files mean it."""
    materials: dict[str, Material] = {}
    current, given_d = Material(), False
    for line in obj_lines.split_lines(data):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        key, rest = words[0].lower(), words[1:]
        try:
            if key == b"newmtl":
                current, given_d = materials.setdefault(obj_lines.rest_of(line), Material()), False
            elif key == b"kd" and len(rest) >= 3:
                current.colour = (_unit(rest[0]), _unit(rest[1]), _unit(rest[2]))
            elif key == b"d" and rest:
                current.opacity, current.tr_is_1, given_d = _unit(rest[-1]), False, True
            elif key == b"tr" and rest and not given_d:  # where both are, they often disagree
                # MeshLab and others write `Tr 1` for what is opaque; none needs the invisible.
                current.tr_is_1 = _unit(rest[0]) == 1
                current.opacity = 1 - _unit(rest[0]) if not current.tr_is_1 else 1.0
            elif key == b"map_kd" and rest:
                current.texture = _map(obj_lines.rest_of(line))
            elif key == b"map_d" and rest:
                _note_map_d(current, _map(obj_lines.rest_of(line)), note)
        except ValueError:
            continue  # a malformed line leaves the default
    return materials


def _note_map_d(material: Material, alpha: Map, note: Note):
    if material.texture is None or alpha.file != material.texture.file:
        note(f"the opacity in map_d {alpha.file!r} is not used")


def _unit(word: bytes) -> float:
    value = float(word)
    if value != value:
        raise ValueError("not a number")
    return min(max(value, 0.0), 1.0)


def _map(argument: str) -> Map:
    """The options of a map statement, and the file name that follows them, with its spaces."""
    found = Map("")
    while match := re.match(r"(-[a-zA-Z]+)\s+", argument):
        option, rest = match[1].lower(), argument[match.end() :]
        values = []
        for _ in range(_NUMBERS_OF.get(option, 1)):
            value = re.match(r"(\S+)\s+", rest)
            if not value or (values and not _is_number(value[1])):
                break
            values.append(value[1])
            rest = rest[value.end() :]
        if not values:
            break
        if option in ("-s", "-o") and _is_number(values[0]):
            numbers = [min(max(float(v), -1e6), 1e6) for v in values if _is_number(v)]
            numbers += [1.0 if option == "-s" else 0.0] * 2
            if option == "-s":
                found.scale = (numbers[0], numbers[1])
            else:
                found.offset = (numbers[0], numbers[1])
        elif option == "-clamp":
            found.clamp = values[0].lower() == "on"
        argument = rest
    found.file = argument.strip().strip('"')
    return found


def _is_number(word: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word))


def _load_materials(libraries: list[str], read_file: ReadFile, note: Note) -> dict[str, Material]:
    """The materials of every library. A statement names one file, with spaces, or several."""
    materials: dict[str, Material] = {}
    for statement in dict.fromkeys(libraries):
        try:
            texts = [read_file(statement)]
        except NotThere as error:
            texts = []
            for name in re.findall(r"\S.*?\.mtl(?=\s|$)", statement, re.IGNORECASE) or [""]:
                try:
                    if name in ("", statement):
                        raise error
                    texts.append(read_file(name))
                except NotThere as e:
                    note(f"no materials: {e}")
        for text in texts:
            materials.update(parse_mtl(text, note))
    return materials


def read_obj(data: bytes, read_file: ReadFile, note: Note) -> list[Part]:
    """Reads a Wavefront OBJ.

    Args:
      data: the bytes of the .obj file.
      read_file: returns the bytes of a file named relative to the .obj (materials, textures);
        raises NotThere.
      note: is told what is missing.

    Returns:
      One part for each material in use.

    Raises:
      BadMesh: no triangles, coordinates that are not numbers, faces of vertices that are not there.
    """
    scan = obj_lines.scan(data)
    used = {name: group for name, group in scan.groups.items() if group[0]}
    if not used:
        raise BadMesh("the OBJ file has no triangles")
    if scan.lines_or_points:
        note(f"{scan.lines_or_points} lines or points are not drawn")
    v = np.array(scan.positions).reshape(-1, 3)
    if not len(v):
        raise BadMesh("the OBJ file has faces and no vertices")
    if not np.isfinite(v).all():
        raise BadMesh("coordinates that are not finite")
    vt = finite_uv(np.array(scan.uvs or [0.0, 0.0]).reshape(-1, 2))
    vn = np.nan_to_num(np.array(scan.normals or [0.0] * 3).reshape(-1, 3), posinf=0, neginf=0)
    colours = None
    if scan.coloured and len(scan.colours) == len(scan.positions):
        colours = np.nan_to_num(np.array(scan.colours).reshape(-1, 3), posinf=1, neginf=0)
        colours = np.clip(colours / (255.0 if colours.max() > 1 else 1.0), 0, 1)
    elif len(scan.colours) or not scan.coloured:
        note("only some of the vertices have a colour: none is used")
    materials = _load_materials(scan.libraries, read_file, note)
    if len(used) > MOST_PARTS:
        raise BadMesh(f"more than {MOST_PARTS:,} materials")
    by_case = {name.casefold(): material for name, material in materials.items()}
    textures = Textures()
    parts = []
    for name, (sizes, corners) in used.items():
        material = materials.get(name) or by_case.get(name.casefold())
        if material is None:
            if name:
                note(f"the material {name[:60]!r} is not there")
            material = Material()
        index = _triangulate(np.array(sizes), np.array(corners).reshape(-1, 3), v)
        parts.append(_part(name, index, v, vt, vn, colours, material, textures, read_file, note))
    return parts


def _part(
    name, index, v, vt, vn, colours, material: Material, textures: Textures, read_file, note
) -> Part:
    """One material's triangles; `index` is [T, corner, (v, vt, vn)]."""
    xyz = v[index[..., 0]]
    given = (index[..., 2] >= 0) & (index[..., 2] < len(vn))
    file_n = vn[np.where(given, index[..., 2], 0)]
    length = np.linalg.norm(file_n, axis=-1, keepdims=True)
    given &= length[..., 0] > 1e-8
    n = file_n / np.maximum(length, 1e-8)
    if not given.all():
        n = np.where(given[..., None], n, shading_normals(xyz))
    has_uv = (index[..., 1] >= 0) & (index[..., 1] < len(vt))
    uv = np.where(has_uv[..., None], vt[np.where(has_uv, index[..., 1], 0)], 0.0)
    part = Part(xyz, n, uv, material.colour, material.opacity)
    if material.opacity < 0.01:
        note(f"the material {name[:60]!r} is invisible, by its d")
    if material.tr_is_1:
        note(f"the material {name[:60]!r} has Tr 1, which is taken as opaque")
    how = material.texture
    if how is not None and not has_uv.any():
        note(f"the texture {how.file[:60]!r} has no coordinates")
    elif how is not None:
        try:
            part.texture = textures.get(how.file, lambda: read_file(how.file))
        except (NotThere, BadTexture) as e:
            shown = "" if isinstance(e, NotThere) else f"{how.file[-60:]}: "
            note(f"no texture: {shown}{e}")
    if part.texture is not None and how is not None:
        # A texture replaces the material's colour: Kd beside a map is whatever the exporter left
        # there (often dark), and the catalogues' own pictures ignore it too.
        part.colour = (1.0, 1.0, 1.0)
        part.uv = finite_uv(uv * how.scale + how.offset)
        part.wrap = ("clamp", "clamp") if how.clamp else ("repeat", "repeat")
    elif colours is not None:
        tint = np.ones((*index.shape[:2], 4))
        tint[..., :3] = colours[index[..., 0]]
        part.tint, part.colour = tint, (1.0, 1.0, 1.0)
    return part


def _triangulate(
    sizes: Int[np.ndarray, "F"], corners: Int[np.ndarray, "N 3"], v: Float[np.ndarray, "V 3"]
) -> Int[np.ndarray, "T 3 3"]:
    """Polygons as fans of their first corner; those that turn inwards are cut by their ears.

    Raises:
      BadMesh: a face of a vertex that is not there.
    """
    if corners[:, 0].max() >= len(v) or corners[:, 0].min() < 0:
        raise BadMesh("a face names a vertex that is not there")
    starts = np.cumsum(sizes) - sizes
    blades = np.repeat(starts, sizes - 2)  # each triangle's polygon
    first = np.cumsum(sizes - 2) - (sizes - 2)
    step = np.arange(len(blades)) - np.repeat(first, sizes - 2)
    index = np.stack([blades, blades + step + 1, blades + step + 2], -1)
    points = v[corners[:, 0]]
    budget = [_EARS_TRIED]
    for size in np.unique(sizes):
        if not 3 < size <= _CLIPPED:
            continue
        polygons = np.flatnonzero(sizes == size)
        for k in polygons[_concave(points[starts[polygons][:, None] + np.arange(size)])]:
            ears = _ears(points[starts[k] : starts[k] + size], budget)
            index[first[k] : first[k] + size - 2] = starts[k] + ears
    return corners[index]


def _concave(rings: Float[np.ndarray, "P n 3"]) -> np.ndarray:
    """Which polygons have a corner that turns against the others."""
    edge = np.roll(rings, -1, 1) - rings
    turn = np.cross(np.roll(edge, 1, 1), edge)
    normal = np.cross(rings - rings[:, :1], np.roll(rings, -1, 1) - rings[:, :1]).sum(1)
    along = np.einsum("pnk,pk->pn", turn, normal)
    return (along < -1e-6 * np.abs(along).max(1, keepdims=True)).any(1)


def _ears(ring: Float[np.ndarray, "n 3"], budget: list[int]) -> Int[np.ndarray, "n-2 3"]:
    """Triangles of a polygon in space, cut off one ear after the other."""
    normal = np.cross(ring - ring[0], np.roll(ring, -1, 0) - ring[0]).sum(0)
    drop = int(np.abs(normal).argmax())
    flat = np.delete(ring, drop, 1)[:, :: 1 if normal[drop] * (-1) ** drop > 0 else -1]
    left, out = list(range(len(ring))), []
    while len(left) > 3 and budget[0] > 0:
        for k in range(len(left)):
            budget[0] -= 1
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            others = flat[[i for i in left if i not in (a, b, c)]]
            if _is_ear(flat[a], flat[b], flat[c], others):
                break
        else:  # crosses itself: what is left becomes a fan
            break
        out.append((a, b, c))
        left.pop(k)
    out += [(left[0], left[k], left[k + 1]) for k in range(1, len(left) - 1)]
    return np.array(out)


def _is_ear(a, b, c, others) -> bool:
    """Whether a triangle turns outwards and holds none of the other corners."""

    def side(p, q, r):
        return (q[0] - p[0]) * (r[..., 1] - p[1]) - (q[1] - p[1]) * (r[..., 0] - p[0])

    if side(a, b, c) <= 0:
        return False
    inside = (side(a, b, others) >= 0) & (side(b, c, others) >= 0) & (side(c, a, others) >= 0)
    return not inside.any()
