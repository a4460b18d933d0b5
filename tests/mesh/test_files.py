"""Files of a mesh, read line by line; its axes, and what is written beside it."""

import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.mesh import files, print_files
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


@pytest.mark.parametrize("name", ["m.fbx", "m", "m.glb.txt"])
def test_other_formats_are_refused_before_anything_is_made(mesh, tmp_path, name):
    with pytest.raises(UserError, match="ends in .glb, .obj, .ply, .stl, .3mf or .usdz, not in"):
        files.write(tmp_path / "new" / name, mesh)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("m.glb", dict(size_mm=80.0), "size_mm is for stl and 3mf files, not for 'm.glb'"),
        ("m.ply", dict(unlit=True), "unlit is for glb files, not for 'm.ply'"),
        ("m.obj", dict(points=5), "points is for ply files, not for 'm.obj'"),
        ("m.stl", dict(size_mm=0.0), "size_mm is above zero, not 0"),
        ("m.stl", dict(size_mm=float("nan")), "size_mm is above zero, not nan"),
        ("m.ply", dict(points=0), "points is at least 1, not 0"),
    ],
)
def test_options_that_a_format_has_not_are_refused(mesh, tmp_path, name, options, words):
    with pytest.raises(UserError, match=words):
        files.write(tmp_path / "new" / name, mesh, files.FileOptions(**options))
    assert not (tmp_path / "new").exists()


def test_an_stl_file_is_closed_stands_on_the_plate_and_has_the_size(cut_cube, tmp_path):
    tall = cut_cube._replace(vertices=cut_cube.vertices * np.float32([1, 2, 4]) + 7)
    for size in (None, 30.0):
        (path,) = files.write(tmp_path / "c.stl", tall, files.FileOptions(size_mm=size))
        loaded = trimesh.load(path)
        side = size or 100.0
        np.testing.assert_allclose(
            loaded.bounds, [[-side / 8, -side / 4, 0], [side / 8, side / 4, side]], atol=1e-4
        )
        assert loaded.is_watertight and loaded.volume == pytest.approx(side**3 / 8, rel=1e-5)


def test_a_3mf_file_has_the_closed_mesh_with_its_texture(cut_cube, tmp_path):
    title = files.FileOptions(facts={"title": "a < b"})
    (path,) = files.write(tmp_path / "c.3mf", cut_cube, title)
    first = path.read_bytes()
    files.write(path, cut_cube, title)
    assert path.read_bytes() == first
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (relation,) = ElementTree.fromstring(archive.read("_rels/.rels"))
        model = ElementTree.fromstring(archive.read(relation.get("Target")[1:]))
        (picture,) = ElementTree.fromstring(archive.read("3D/_rels/3dmodel.model.rels"))
        texture = np.asarray(Image.open(archive.open(picture.get("Target")[1:])))
    assert names[0] == "[Content_Types].xml"
    np.testing.assert_array_equal(texture, cut_cube.texture)
    core, more = (f"{{{space}}}" for space in (print_files._CORE, print_files._MATERIALS))
    assert model.get("unit") == "millimeter"
    assert model.find(f"{core}metadata").text == "a < b"
    find = lambda name, *keys: [[row.get(k) for k in keys] for row in model.iter(name)]  # noqa: E731
    vertices = np.array(find(f"{core}vertex", "x", "y", "z"), float)
    triangles = np.array(find(f"{core}triangle", "v1", "v2", "v3"), int)
    loaded = trimesh.Trimesh(vertices, triangles, process=False)
    assert len(vertices) == 8 and loaded.is_watertight
    assert loaded.volume == pytest.approx(1e6)
    places = np.array(find(f"{more}tex2coord", "u", "v"), float)
    used = np.array(find(f"{core}triangle", "p1", "p2", "p3"), int)
    np.testing.assert_allclose(places[used], cut_cube.uv[cut_cube.faces], atol=1e-6)
    (group,) = set(map(tuple, find(f"{core}triangle", "pid")))
    assert group == (model.find(f".//{more}texture2dgroup").get("id"),)
    assert model.find(f".//{more}texture2d").get("path") == picture.get("Target")
    (item,) = model.find(f"{core}build")
    assert item.get("objectid") == model.find(f".//{core}object").get("id")


def test_a_glb_says_where_it_comes_from_and_that_it_is_unlit(mesh, tmp_path):
    options = files.FileOptions(unlit=True, facts={"seed": 3, "model": "tiny"})
    (path,) = files.write(tmp_path / "m.glb", mesh, options)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert tree["asset"]["extras"] == {"seed": 3, "model": "tiny"}
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert tree["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    (path,) = files.write(tmp_path / "lit.glb", mesh)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert b"unlit" not in data and "extras" not in tree["asset"]


def test_points_lie_evenly_on_the_surface_with_its_colours(cut_cube, tmp_path):
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0], texture[1, 1] = (255, 0, 0), (0, 0, 255)  # v = 1 is the first row
    uv = np.where(cut_cube.vertices[:, 2:] > 0, [[0.1, 0.9]], [[0.9, 0.1]]).astype(np.float32)
    mesh = cut_cube._replace(texture=texture, uv=uv)
    (path,) = files.write(tmp_path / "p.ply", mesh, files.FileOptions(points=6000))
    loaded = trimesh.load(path)
    points, colours = np.asarray(loaded.vertices), np.asarray(loaded.colors)[:, :3]
    assert len(points) == 6000
    side = np.argmax(np.abs(points), 1)
    np.testing.assert_allclose(np.abs(points[np.arange(6000), side]), 0.5, atol=1e-6)
    count = np.bincount(2 * side + (points[np.arange(6000), side] > 0), minlength=6)
    assert count.min() > 850 and count.max() < 1150
    flat = side == 2
    want = np.where(points[flat, 2:] > 0, [[255, 0, 0]], [[0, 0, 255]])
    np.testing.assert_array_equal(colours[flat], want)
    header, _, body = path.read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, np.dtype([("p", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)]))
    np.testing.assert_allclose(np.abs(rows["n"][np.arange(6000), side]), 1.0, atol=1e-6)
    again = files.write(tmp_path / "q.ply", mesh, files.FileOptions(points=6000))[0]
    assert again.read_bytes() == path.read_bytes()


def test_a_usdz_file_passes_the_checks_of_apples_packages(mesh, tmp_path):
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    (path,) = files.write(tmp_path / "m.usdz", mesh)
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20  # what usdchecker runs
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetMessage() for error in found] == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    surface = UsdGeom.Mesh(stage.GetPrimAtPath("/object/surface"))
    np.testing.assert_allclose(surface.GetPointsAttr().Get(), mesh.vertices[:, [1, 2, 0]])
    np.testing.assert_array_equal(
        np.reshape(surface.GetFaceVertexIndicesAttr().Get(), (-1, 3)), mesh.faces
    )
    places = UsdGeom.PrimvarsAPI(surface).GetPrimvar("st").Get()
    np.testing.assert_allclose(places, mesh.uv)
    material, _ = UsdShade.MaterialBindingAPI(surface.GetPrim()).ComputeBoundMaterial()
    assert material.GetPath() == "/object/material"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        texture = np.asarray(Image.open(archive.open(names[1])))
    assert names[0].endswith(".usdc")
    np.testing.assert_array_equal(texture, mesh.texture)


def test_usdz_without_its_package_is_one_sentence(mesh, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package pxr.*iso3d_jax\[usd\]"):
        files.write(tmp_path / "new" / "m.usdz", mesh)
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
