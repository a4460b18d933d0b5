"""Writes textured meshes as GLB, OBJ and PLY.

The scene is Z up and the picture shows it from +x. glTF is Y up and a model's front faces +Z: the
axes are renamed (x, y, z) -> (y, z, x), a rotation. OBJ gets the same axes, which Blender's and
most other importers expect (Y up, -Z forward is their word for the camera's side); PLY has no
convention and stays Z up.

Colours are sRGB pixels throughout: glTF's baseColorTexture, OBJ's map_Kd and PLY's vertex colours
are all sRGB by definition or custom, so nothing is converted. (glTF's vertex colours would be
linear: they are not used.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange import gltf, ply
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.mesh.texture import TexturedMesh

FORMATS = ("glb", "obj", "ply")
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


def write(path: str | Path, mesh: TexturedMesh) -> list[Path]:
    """Writes a mesh in the format of the path's suffix.

    Returns:
      The files written: one, or for OBJ also the .mtl and the .png beside it.

    Raises:
      UserError: another suffix than .glb, .obj or .ply.
    """
    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise UserError(f"a mesh file ends in .glb, .obj or .ply, not in {path.name!r}")
    make_folder(path.parent)
    if suffix == "glb":
        return [_write_glb(path, mesh)]
    return _write_obj(path, mesh) if suffix == "obj" else [_write_ply(path, mesh)]


def _write_glb(path: Path, mesh: TexturedMesh) -> Path:
    visual = TextureVisuals(uv=mesh.uv, material=_material(mesh))
    model = trimesh.Trimesh(
        to_y_up(mesh.vertices), mesh.faces, vertex_normals=to_y_up(mesh.normals), visual=visual,
        process=False,
    )  # fmt: skip
    scene = trimesh.Scene()
    scene.add_geometry(model, node_name="object", geom_name="object")
    data = gltf.export_glb(scene, include_normals=True, tree_postprocessor=_say_what_buffers_are)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


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


def weld(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with one vertex where the unwrapping had cut; closed where it was.

    Normals are averaged and colours are those of the first; `uv` is the first's and means nothing.
    """
    _, first, index = np.unique(mesh.vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they came
    index = np.argsort(order)[index.reshape(-1)]
    first = first[order]
    normals = np.zeros((len(first), 3), np.float64)
    np.add.at(normals, index, mesh.normals)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), mesh.normals[first])
    faces = index[mesh.faces]
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return TexturedMesh(
        mesh.vertices[first], normals.astype(mesh.normals.dtype), mesh.uv[first], faces[whole],
        mesh.texture, mesh.colours[first],
    )  # fmt: skip


def _write_obj(path: Path, mesh: TexturedMesh) -> list[Path]:
    """Not by trimesh, which gives material and picture one name and says nothing of light."""
    points, point = _lines_of("v", to_y_up(mesh.vertices), 6)
    places, place = _lines_of("vt", mesh.uv, 6)
    normals, normal = _lines_of("vn", to_y_up(mesh.normals), 4)
    corners = [f"{point[k]}/{place[k]}/{normal[k]}" for k in range(len(point))]
    faces = [face for face in mesh.faces if len({int(point[k]) for k in face}) == 3]
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


def _write_ply(path: Path, mesh: TexturedMesh) -> Path:
    mesh = weld(mesh)
    alpha = np.full((len(mesh.colours), 1), 255, np.uint8)
    model = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.normals,
        vertex_colors=np.concatenate([mesh.colours, alpha], 1), process=False,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_bytes(ply.export_ply(model, vertex_normal=True))
    return path
