"""Files of a mesh, read line by line; its axes, and what is written beside it."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.mesh import files
from iso3d_jax.mesh.texture import TexturedMesh


@pytest.fixture
def mesh():
    """A triangle and a half of unlike numbers."""
    vertices = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10], [-1.5, 0.25, 0]], np.float32)
    normals = np.array([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0, -1], [0, 1, 0]], np.float32)
    uv = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.75], [1, 0]], np.float32)
    texture = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
    colours = np.array([[255, 0, 10], [1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    return TexturedMesh(vertices, normals, uv, np.array([[0, 1, 2], [0, 2, 3]]), texture, colours)


def test_axes_are_turned_not_mirrored():
    got = files.to_y_up(np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(got, [[2.0, 3.0, 1.0]])
    assert np.linalg.det(files.to_y_up(np.eye(3))) == pytest.approx(1.0)


def test_an_obj_file_line_by_line(mesh, tmp_path):
    written = files.write(tmp_path / "deep" / "chair.OBJ", mesh)
    assert [p.name for p in written] == ["chair.OBJ", "chair.mtl", "chair.png"]
    lines = written[0].read_text().splitlines()
    assert lines[:3] == ["mtllib chair.mtl", "usemtl surface", "v 2.000000 3.000000 1.000000"]
    assert lines[5] == "v 0.250000 0.000000 -1.500000"
    assert lines[6:8] == ["vt 0.100000 0.200000", "vt 0.300000 0.400000"]
    assert lines[10:12] == ["vn 0.0000 0.0000 1.0000", "vn 0.6000 0.8000 0.0000"]
    assert lines[14:] == ["f 1/1/1 2/2/2 3/3/3", "f 1/1/1 3/3/3 4/4/4"]
    material = written[1].read_text().splitlines()
    assert material == ["newmtl surface", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 1",
                        "map_Kd chair.png"]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(written[2])), mesh.texture)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == sorted(p.name for p in written)


@pytest.fixture
def cut_cube():
    """A closed cube whose six sides were unwrapped apart: 24 vertices for its 8."""
    cube = trimesh.creation.box()
    vertices = np.asarray(cube.vertices[cube.faces].reshape(-1, 3), np.float32)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    normals = np.repeat(cube.face_normals, 3, axis=0).astype(np.float32)
    uv = np.random.default_rng(0).random((len(vertices), 2)).astype(np.float32)
    texture, colours = np.zeros((4, 4, 3), np.uint8), np.zeros((len(vertices), 3), np.uint8)
    return TexturedMesh(vertices, normals, uv, faces, texture, colours)


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_a_closed_mesh_stays_closed(cut_cube, tmp_path, suffix):
    path = files.write(tmp_path / f"cube.{suffix}", cut_cube)[0]
    if suffix == "obj":
        lines = path.read_text().splitlines()
        points = np.array([line.split()[1:] for line in lines if line[:2] == "v "], float)
        corners = [line.split()[1:] for line in lines if line[:2] == "f "]
        faces = np.array([[int(c.split("/")[0]) - 1 for c in corner] for corner in corners])
        loaded = trimesh.Trimesh(points, faces, process=False)
        uv = np.array([line.split()[1:] for line in lines if line[:3] == "vt "], float)
        kept = [uv[int(c.split("/")[1]) - 1] for corner in corners for c in corner]
        np.testing.assert_allclose(kept, cut_cube.uv, atol=1e-6)
    else:
        loaded = trimesh.load(path, process=False)
    assert len(loaded.vertices) == 8 and len(loaded.faces) == 12
    assert loaded.is_watertight and loaded.volume == pytest.approx(1.0)


def test_a_ply_file_keeps_every_number(mesh, tmp_path):
    (path,) = files.write(tmp_path / "chair.ply", mesh)
    loaded = trimesh.load(path, process=False)
    np.testing.assert_allclose(loaded.vertices, mesh.vertices)
    np.testing.assert_array_equal(loaded.faces, mesh.faces)
    np.testing.assert_allclose(loaded.vertex_normals, mesh.normals, atol=1e-6)
    colours = np.concatenate([mesh.colours, np.full((4, 1), 255)], 1)
    np.testing.assert_array_equal(loaded.visual.vertex_colors, colours)


def test_a_glb_file_keeps_every_number(mesh, tmp_path):
    (path,) = files.write(tmp_path / "chair.glb", mesh)
    loaded = trimesh.load(path, process=False)
    ((name, geometry),) = loaded.geometry.items()
    assert name == "object" and list(loaded.graph.nodes_geometry) == ["object"]
    np.testing.assert_allclose(geometry.vertices, mesh.vertices[:, [1, 2, 0]])
    np.testing.assert_allclose(geometry.vertex_normals, mesh.normals[:, [1, 2, 0]], atol=1e-6)
    np.testing.assert_array_equal(geometry.faces, mesh.faces)
    np.testing.assert_allclose(geometry.visual.uv, mesh.uv, atol=1e-6)
    material = geometry.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 0.9)
    assert list(material.baseColorFactor) == [255] * 4 and material.name == "surface"
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture)[..., :3], mesh.texture)


@pytest.mark.parametrize("name", ["m.stl", "m", "m.glb.txt"])
def test_other_formats_are_refused_before_anything_is_made(mesh, tmp_path, name):
    with pytest.raises(UserError, match="ends in .glb, .obj or .ply, not in"):
        files.write(tmp_path / "new" / name, mesh)
    assert not (tmp_path / "new").exists()


def test_a_glb_says_which_buffers_are_vertices_and_which_indices(mesh, tmp_path):
    (path,) = files.write(tmp_path / "m.glb", mesh)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    view = {i: v.get("target") for i, v in enumerate(tree["bufferViews"])}
    (primitive,) = tree["meshes"][0]["primitives"]
    target = lambda accessor: view[tree["accessors"][accessor]["bufferView"]]  # noqa: E731
    assert target(primitive["indices"]) == 34963  # ELEMENT_ARRAY_BUFFER of glTF 2.0
    assert {target(a) for a in primitive["attributes"].values()} == {34962}  # ARRAY_BUFFER
