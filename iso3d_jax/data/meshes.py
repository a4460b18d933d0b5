"""Triangle meshes with materials, as the renderer draws them.

`read_obj` is our own reader: it keeps what matters for colours (Kd as sRGB, map_Kd, d / Tr) and
accepts the bytes of a file inside a zip. Every other format goes through trimesh. Coordinates are
those of the file: turning Y-up into our Z-up world is `to_world`.
"""

import dataclasses
import io
import pathlib
import posixpath
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# OBJ and glTF are Y-up with the front towards +z. Our world is Z-up with the front towards +x
# (azimuth 0): x_world = z_file, y_world = x_file, z_world = y_file. This is the usual Y-up to Z-up
# turn (front at azimuth -90) followed by a quarter turn about z.
WORLD_FROM_Y_UP = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SMOOTH_ANGLE_COSINE = 0.64  # normals are averaged over faces that meet at less than 50 degrees
LARGEST_FAN = 2000  # a vertex of more faces keeps their own normals
LARGEST_TEXTURE = 512


class BadMesh(ValueError):
    """A mesh that cannot be rendered; the message is the reason."""


@dataclasses.dataclass
class Part:
    """Triangles of one material, three corners each, nothing shared.

    Attributes:
      positions: corners.
      normals: unit shading normals, one a corner.
      uv: texture coordinates, origin at the lower left; zeros without a texture.
      colour: sRGB colour of the material in [0, 1]; used where there is no texture.
      opacity: 1 opaque, 0 invisible.
      texture: sRGB picture with alpha, row 0 at the top, or None.
    """

    positions: Float[np.ndarray, "T 3 3"]
    normals: Float[np.ndarray, "T 3 3"]
    uv: Float[np.ndarray, "T 3 2"]
    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    opacity: float = 1.0
    texture: UInt8[np.ndarray, "h w 4"] | None = None


@dataclasses.dataclass
class Material:
    """What we keep of one `newmtl` block."""

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    opacity: float = 1.0
    texture: str | None = None


def _linear_to_srgb(x):
    x = np.clip(np.asarray(x, np.float64), 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def parse_mtl(text: str) -> dict[str, Material]:
    """Materials by name. Kd is taken as sRGB, as the tools behind most OBJ files mean it."""
    materials: dict[str, Material] = {}
    current = Material()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key, rest = words[0].lower(), words[1:]
        try:
            if key == "newmtl":
                current = materials.setdefault(line.split(None, 1)[1].strip(), Material())
            elif key == "kd" and len(rest) >= 3:
                kd = np.clip([float(v) for v in rest[:3]], 0, 1)
                current.colour = tuple(float(v) for v in kd)
            elif key == "d" and rest:
                current.opacity = float(np.clip(float(rest[-1]), 0, 1))
            elif key == "tr" and rest:
                current.opacity = 1 - float(np.clip(float(rest[0]), 0, 1))
            elif key == "map_kd" and rest:
                current.texture = _texture_name(line.split(None, 1)[1].strip())
        except (ValueError, IndexError):
            continue  # a malformed line leaves the default
    return materials


def _texture_name(argument: str) -> str:
    """The file name of a map statement, whose options come first and start with '-'."""
    if not argument.startswith("-"):
        return argument.replace("\\", "/")
    return argument.split()[-1].replace("\\", "/")


def load_texture(data: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """Decodes a texture, no larger than `LARGEST_TEXTURE` pixels a side."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    longest = max(picture.size)
    if longest > LARGEST_TEXTURE:
        size = [max(1, round(s * LARGEST_TEXTURE / longest)) for s in picture.size]
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture)


def shading_normals(
    positions: Float[np.ndarray, "T 3 3"],
) -> Float[np.ndarray, "T 3 3"]:
    """Corner normals: the area-weighted mean over the faces at the same point that meet this face
    at less than 50 degrees, so that curved surfaces are smooth and creases are sharp.

    Args:
      positions: corners of the triangles; corners at the same coordinates count as one vertex.
    """
    cross = np.cross(positions[:, 1] - positions[:, 0], positions[:, 2] - positions[:, 0])
    face = cross / np.maximum(np.linalg.norm(cross, axis=-1, keepdims=True), 1e-20)
    _, vertex = np.unique(positions.reshape(-1, 3), axis=0, return_inverse=True)
    order = np.argsort(vertex.ravel(), kind="stable")  # corners, those of a vertex together
    degrees = np.bincount(vertex.ravel())
    starts = np.cumsum(degrees) - degrees
    out = np.repeat(face, 3, axis=0)  # [3T, 3]
    for degree in np.unique(degrees):
        if degree < 2 or degree > LARGEST_FAN:
            continue
        fans = starts[degrees == degree]
        for first in range(0, len(fans), max(1, 4_000_000 // degree**2)):
            chunk = fans[first : first + max(1, 4_000_000 // degree**2)]
            corners = order[chunk[:, None] + np.arange(degree)]  # [G, degree]
            f = face[corners // 3]
            near = np.einsum("gik,gjk->gij", f, f) > SMOOTH_ANGLE_COSINE
            out[corners] = np.einsum("gij,gjk->gik", near.astype(float), cross[corners // 3])
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    out = np.where(length > 1e-20, out / np.maximum(length, 1e-20), np.repeat(face, 3, axis=0))
    return out.reshape(-1, 3, 3)


def read_obj(data: bytes, read_file: Callable[[str], bytes]) -> list[Part]:
    """Reads a Wavefront OBJ.

    Args:
      data: the bytes of the .obj file.
      read_file: returns the bytes of a file named relative to the .obj (materials, textures);
        raises KeyError or OSError where there is none.

    Returns:
      One part for each material in use.

    Raises:
      BadMesh: no triangles, or coordinates that are not numbers.
    """
    positions, uvs, normals, by_material = _scan_obj(data, read_file)
    materials: dict[str, Material] = by_material.pop(None)
    if not any(by_material.values()):
        raise BadMesh("the OBJ file has no triangles")
    try:
        v = np.array(positions, np.float64).reshape(-1, 3)
        vt = np.array(uvs or [(0.0, 0.0)], np.float64).reshape(-1, 2)
        vn = np.array(normals or [(0.0, 0.0, 0.0)], np.float64).reshape(-1, 3)
    except ValueError as e:
        raise BadMesh(f"coordinates that are not numbers: {e}") from e
    if not np.isfinite(v).all():
        raise BadMesh("coordinates that are not finite")
    parts = []
    for name, corners in by_material.items():
        if not corners:
            continue
        index = np.array(corners, np.int64).reshape(-1, 3, 3)  # [T, corner, (v, vt, vn)]
        if index[..., 0].max() >= len(v) or index[..., 0].min() < 0:
            raise BadMesh("a face names a vertex that is not there")
        xyz = v[index[..., 0]]
        n = shading_normals(xyz)
        given = (index[..., 2] >= 0) & (index[..., 2] < len(vn))
        file_n = vn[np.where(given, index[..., 2], 0)]
        length = np.linalg.norm(file_n, axis=-1, keepdims=True)
        given &= length[..., 0] > 1e-8
        n = np.where(given[..., None], file_n / np.maximum(length, 1e-8), n)
        has_uv = (index[..., 1] >= 0) & (index[..., 1] < len(vt))
        uv = np.where(has_uv[..., None], vt[np.where(has_uv, index[..., 1], 0)], 0.0)
        material = materials.get(name, Material())
        texture = None
        if material.texture and has_uv.any():
            try:
                texture = load_texture(read_file(material.texture))
            except (KeyError, OSError, ValueError):
                texture = None  # a missing or unreadable texture leaves the material's colour
        parts.append(Part(xyz, n, uv, material.colour, material.opacity, texture))
    return parts


def _scan_obj(data: bytes, read_file):
    """Lists of v, vt, vn and the corners of each material; key None holds the materials."""
    positions: list = []
    uvs: list = []
    normals: list = []
    materials: dict[str, Material] = {}
    groups: dict = {None: materials}
    corners = groups.setdefault("", [])
    for line in data.decode("latin-1").splitlines():
        words = line.split()
        if not words:
            continue
        key = words[0]
        if key == "v":
            positions.append(words[1:4])
        elif key == "f":
            ring = []
            for token in words[1:]:
                fields = (token + "//").split("/")
                try:
                    a = int(fields[0])
                    b = int(fields[1]) if fields[1] else 0
                    c = int(fields[2]) if fields[2] else 0
                except ValueError as e:
                    raise BadMesh(f"a face that cannot be read: {line.strip()[:60]!r}") from e
                ring.append(
                    (
                        a - 1 if a > 0 else len(positions) + a,
                        b - 1 if b > 0 else (len(uvs) + b if b else -1),
                        c - 1 if c > 0 else (len(normals) + c if c else -1),
                    )
                )
            for k in range(1, len(ring) - 1):
                corners.append((ring[0], ring[k], ring[k + 1]))
        elif key == "vt":
            uvs.append(words[1:3])
        elif key == "vn":
            normals.append(words[1:4])
        elif key == "usemtl":
            corners = groups.setdefault(line.split(None, 1)[1].strip(), [])
        elif key == "mtllib":
            try:
                text = read_file(line.split(None, 1)[1].strip()).decode("latin-1")
                materials.update(parse_mtl(text))
            except (KeyError, OSError, IndexError):
                pass  # no material file: default grey
    return positions, uvs, normals, groups


def read_with_trimesh(path: pathlib.Path) -> list[Part]:
    """Reads GLB, glTF, PLY, STL or whatever else trimesh knows. Same result as `read_obj`."""
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        meshes = [m for m in scene.dump() if isinstance(m, trimesh.Trimesh)]
    except Exception as e:  # trimesh raises all sorts on bad files
        raise BadMesh(f"cannot be read: {e}") from e
    parts = [_part_from_trimesh(m) for m in meshes if len(m.faces)]
    if not parts:
        raise BadMesh("the file has no triangles")
    return parts


def _part_from_trimesh(mesh) -> Part:
    xyz = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    n = shading_normals(xyz)
    uv = np.zeros((*xyz.shape[:2], 2))
    colour, opacity, texture = (0.8, 0.8, 0.8), 1.0, None
    visual = mesh.visual
    if visual.kind == "texture":
        material = visual.material
        base = getattr(material, "baseColorFactor", None)
        if base is not None:  # glTF: linear
            base = np.asarray(base)
            base = base / (255.0 if base.dtype == np.uint8 else 1.0)
            colour, opacity = tuple(_linear_to_srgb(base[:3])), float(base[3])
        elif hasattr(material, "diffuse"):
            colour = tuple(np.asarray(material.diffuse, np.float64)[:3] / 255)
        picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if picture is not None and visual.uv is not None:
            buffer = io.BytesIO()
            picture.convert("RGBA").save(buffer, "PNG")
            texture = load_texture(buffer.getvalue())
            uv = np.asarray(visual.uv, np.float64)[mesh.faces]
            if base is None:
                colour = (1.0, 1.0, 1.0)
    elif visual.kind in ("vertex", "face"):
        return _part_with_face_colours(mesh, xyz, n)
    return Part(xyz, n, uv, colour, opacity, texture)


def _part_with_face_colours(mesh, xyz, n) -> Part:
    """Vertex or face colours become a texture with one texel a triangle."""
    colours = np.asarray(mesh.visual.face_colors, np.uint8)  # [T, 4]
    side = int(np.ceil(np.sqrt(len(colours))))
    texture = np.zeros((side * side, 4), np.uint8)
    texture[: len(colours)] = colours
    index = np.arange(len(colours))
    centre = np.stack([(index % side + 0.5) / side, 1 - (index // side + 0.5) / side], -1)
    uv = np.repeat(centre[:, None], 3, axis=1)
    return Part(xyz, n, uv, (1.0, 1.0, 1.0), 1.0, texture.reshape(side, side, 4))


def to_world(parts: list[Part], rotation: np.ndarray | None = None) -> list[Part]:
    """Turns Y-up parts into our Z-up world, front at azimuth 0, scaled into the unit sphere.

    Args:
      parts: as read from the file.
      rotation: 3x3, applied to the file's coordinates first (`modelRotation` of a catalogue).

    Returns:
      New parts; the centre of the bounding box is the origin, the farthest vertex has radius 1.

    Raises:
      BadMesh: all vertices in one point.
    """
    turn = WORLD_FROM_Y_UP if rotation is None else WORLD_FROM_Y_UP @ np.asarray(rotation)
    return fitted(
        dataclasses.replace(p, positions=p.positions @ turn.T, normals=p.normals @ turn.T)
        for p in parts
    )


def fitted(parts: Iterable[Part]) -> list[Part]:
    """Parts moved and scaled into the unit sphere, as `to_world` says."""
    parts = list(parts)
    points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
    centre = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - centre, axis=-1).max()
    if not radius > 1e-9:
        raise BadMesh("the mesh has no extent")
    return [dataclasses.replace(p, positions=(p.positions - centre) / radius) for p in parts]


def relative_to(folder: str) -> Callable[[str], str]:
    """A function that resolves a name against a folder inside a zip."""
    return lambda name: posixpath.normpath(posixpath.join(folder, name))
