"""Writes textured meshes as GLB, OBJ, PLY, STL, 3MF and USDZ.

The scene is Z up and the picture shows it from +x. glTF is Y up and a model's front faces +Z: the
axes are renamed (x, y, z) -> (y, z, x), a rotation. OBJ gets the same axes, which Blender's and
most other importers expect (Y up, -Z forward is their word for the camera's side), and so does
USDZ. PLY has no convention and stays Z up; so do STL and 3MF, which printers read
(mesh/print_files.py).

Colours are sRGB pixels throughout: glTF's baseColorTexture, OBJ's map_Kd and PLY's vertex colours
are all sRGB by definition or custom, so nothing is converted. (glTF's vertex colours would be
linear: they are not used.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange import gltf, ply
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.mesh import print_files, usd_file
from iso3d_jax.mesh.texture import TexturedMesh
from iso3d_jax.mesh.welding import weld

FORMATS = ("glb", "obj", "ply", "stl", "3mf", "usdz")
SIZE_MM = 100.0  # of what is printed, where nobody says
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963  # glTF 2.0, bufferView.target


def to_y_up(vectors: np.ndarray) -> np.ndarray:
    """Scene axes to glTF's: front +x to +Z, up +z to +Y, left +y to +X."""
    return np.ascontiguousarray(vectors[..., [1, 2, 0]])


def _material(mesh: TexturedMesh) -> PBRMaterial:
    return PBRMaterial(
        name="surface",
        baseColorTexture=Image.fromarray(mesh.texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=0.9,
    )


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """What some formats leave open.

    Attributes:
      size_mm: the longest side of .stl and .3mf files, in millimetres; 100 where None.
      unlit: the .glb shows its colours as they are, without light (KHR_materials_unlit).
      points: the .ply holds so many points of the surface, with colours and normals, and no faces.
      facts: where the mesh comes from, kept in the .glb (`asset.extras`).
    """

    size_mm: float | None = None
    unlit: bool = False
    points: int | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, path: Path) -> str:
        """The format that a path names.

        Raises:
          UserError: none of ours, or one that an option says nothing to.
        """
        suffix = path.suffix.lower().lstrip(".")
        if suffix not in FORMATS:
            last = FORMATS[-1]
            names = f"{', '.join(f'.{name}' for name in FORMATS[:-1])} or .{last}"
            raise UserError(f"a mesh file ends in {names}, not in {path.name!r}")
        for given, name, fit in (
            (self.size_mm is not None, "size_mm", ("stl", "3mf")),
            (self.unlit, "unlit", ("glb",)),
            (self.points is not None, "points", ("ply",)),
        ):
            if given and suffix not in fit:
                raise UserError(f"{name} is for {' and '.join(fit)} files, not for {path.name!r}")
        if self.size_mm is not None and not 0 < self.size_mm < math.inf:
            raise UserError(f"size_mm is above zero, not {self.size_mm:g}")
        if self.points is not None and self.points < 1:
            raise UserError(f"points is at least 1, not {self.points}")
        if suffix == "usdz":
            extras.require("pxr")
        return suffix


def write(path: str | Path, mesh: TexturedMesh, options: FileOptions | None = None) -> list[Path]:
    """Writes a mesh in the format of the path's suffix.

    Returns:
      The files written: one, or for OBJ also the .mtl and the .png beside it.

    Raises:
      UserError: a suffix of no format, or an option that it does not have.
    """
    path, options = Path(path), options or FileOptions()
    suffix = options.check(path)
    make_folder(path.parent)
    size_mm = options.size_mm or SIZE_MM
    if suffix == "obj":
        return _write_obj(path, mesh)
    if suffix == "glb":
        _write_glb(path, mesh, options)
    elif suffix == "ply":
        _write_points(path, mesh, options.points) if options.points else _write_ply(path, mesh)
    elif suffix == "stl":
        print_files.write_stl(path, weld(mesh), size_mm)
    elif suffix == "3mf":
        print_files.write_3mf(path, mesh, size_mm, str(options.facts.get("title", path.stem)))
    else:
        turned = mesh._replace(vertices=to_y_up(mesh.vertices), normals=to_y_up(mesh.normals))
        usd_file.write_usdz(path, turned)
    return [path]


def _write_glb(path: Path, mesh: TexturedMesh, options: FileOptions) -> None:
    visual = TextureVisuals(uv=mesh.uv, material=_material(mesh))
    model = trimesh.Trimesh(
        to_y_up(mesh.vertices), mesh.faces, vertex_normals=to_y_up(mesh.normals), visual=visual,
        process=False,
    )  # fmt: skip
    scene = trimesh.Scene()
    scene.add_geometry(model, node_name="object", geom_name="object")

    def finish(tree: dict) -> None:
        _say_what_buffers_are(tree)
        if options.facts:
            tree["asset"]["extras"] = dict(options.facts)
        if options.unlit:
            for material in tree["materials"]:
                material["extensions"] = {"KHR_materials_unlit": {}}
            tree["extensionsUsed"] = ["KHR_materials_unlit"]

    data = gltf.export_glb(scene, include_normals=True, tree_postprocessor=finish)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _say_what_buffers_are(tree: dict) -> None:
    """Marks buffer views as vertices or indices, which glTF recommends and trimesh leaves out."""
    accessors, views = tree["accessors"], tree["bufferViews"]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            views[accessors[primitive["indices"]]["bufferView"]]["target"] = ELEMENT_ARRAY_BUFFER
            for index in primitive["attributes"].values():
                views[accessors[index]["bufferView"]]["target"] = ARRAY_BUFFER


def _lines_of(word: str, rows: np.ndarray, digits: int) -> tuple[list[str], np.ndarray]:
    """Different rows of numbers as lines of an OBJ, and the line of each row, counted from 1.

    What the unwrapping cut apart has the same coordinates, so it is one vertex again.
    """
    texts = [f"{word} " + " ".join(f"{x:.{digits}f}" for x in row) for row in rows + 0.0]
    lines: dict[str, int] = {}
    index = np.array([lines.setdefault(text, len(lines) + 1) for text in texts])
    return list(lines), index


def _write_obj(path: Path, mesh: TexturedMesh) -> list[Path]:
    """Not by trimesh, which gives material and picture one name and says nothing of light."""
    points, point = _lines_of("v", to_y_up(mesh.vertices), 6)
    places, place = _lines_of("vt", mesh.uv, 6)
    normals, normal = _lines_of("vn", to_y_up(mesh.normals), 4)
    corners = [f"{point[k]}/{place[k]}/{normal[k]}" for k in range(len(point))]
    cut = np.ones(len(mesh.faces), bool)  # what is written as triangles
    cut[: 2 * mesh.quads] = np.repeat(~mesh.is_whole(), 2)
    polygons = [*mesh.whole_quads(), *mesh.faces[cut]]
    faces = [face for face in polygons if len({int(point[k]) for k in face}) == len(face)]
    lines = [f"mtllib {path.stem}.mtl", "usemtl surface", *points, *places, *normals]
    lines += ["f " + " ".join(corners[k] for k in face) for face in faces]
    image, material = path.with_suffix(".png"), path.with_suffix(".mtl")
    with atomic_path(image) as temporary:
        Image.fromarray(mesh.texture).save(temporary)
    with atomic_path(material) as temporary:
        temporary.write_text(
            f"newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {image.name}\n"
        )
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    return [path, material, image]


def _write_ply(path: Path, mesh: TexturedMesh) -> None:
    mesh = weld(mesh)
    alpha = np.full((len(mesh.colours), 1), 255, np.uint8)
    model = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.normals,
        vertex_colors=np.concatenate([mesh.colours, alpha], 1), process=False,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_bytes(ply.export_ply(model, vertex_normal=True))


def sample_points(mesh: TexturedMesh, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points spread evenly over a surface, the same each time.

    Returns:
      Points [N, 3] and unit normals [N, 3], float32, and the texture's colours there [N, 3], uint8.
    """
    rng = np.random.default_rng(0)
    corners = mesh.vertices[mesh.faces].astype(np.float64)  # [F, 3, 3]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ends = np.cumsum(np.linalg.norm(sides, axis=-1))
    chosen = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
    faces = mesh.faces[np.minimum(chosen, len(mesh.faces) - 1)]
    weights = rng.dirichlet(np.ones(3), count)[..., None]  # even over a triangle
    points = (mesh.vertices[faces] * weights).sum(1)
    normals = (mesh.normals[faces] * weights).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    u, v = (mesh.uv[faces] * weights).sum(1).T
    height, width = mesh.texture.shape[:2]
    row = np.clip(((1 - v) * height).astype(int), 0, height - 1)
    colours = mesh.texture[row, np.clip((u * width).astype(int), 0, width - 1)]
    return points.astype(np.float32), normals.astype(np.float32), colours


def _write_points(path: Path, mesh: TexturedMesh, count: int) -> None:
    """Binary PLY of points. Not by trimesh, whose point clouds have no normals."""
    points, normals, colours = sample_points(mesh, count)
    names = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    kinds = [(name, "<f4") for name in names[:6]] + [(name, "u1") for name in names[6:]]
    rows = np.empty(count, kinds)
    for name, column in zip(names, [*points.T, *normals.T, *colours.T], strict=True):
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in kinds]
    with atomic_path(path) as temporary:
        temporary.write_bytes("\n".join([*header, "end_header\n"]).encode() + rows.tobytes())
