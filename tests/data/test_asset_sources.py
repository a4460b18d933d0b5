"""Catalogues, folders of meshes, OBJ and MTL files, and the fixed split."""

import numpy as np
import pytest
from furniture_files import COLOURS, cube_mtl, cube_obj, write_catalogue, write_folder

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, meshes, obj


def read_cube(**sizes):
    return obj.read_obj(cube_obj(**sizes).encode(), lambda name: cube_mtl().encode(), print)


def test_split_never_changes():
    names = ["chair", "scopia-maceta", "object4", "object10", "object28", "object32"]
    splits = [asset_sources.assign_split(n) for n in names]
    assert splits == ["train", "train", "validation", "test", "test", "validation"]
    many = [asset_sources.assign_split(f"object {k}") for k in range(4000)]
    shares = [many.count(s) / len(many) for s in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.85, 0.05, 0.10], atol=0.015)


def test_properties_with_escapes_and_continuations():
    text = (
        "# comment\nlicense=Public domain\nname#2=Caf\\u00e9\nname#1=Long \\\n   name\nid#1=a\\:b\n"
    )
    general, objects = asset_sources.parse_properties(text)
    assert general == {"license": "Public domain"}
    assert objects == [{"name": "Long name", "id": "a:b"}, {"name": "Caf\u00e9"}]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Public domain", "CC0-1.0"),
        ("Creative Commons Attribution 3.0 license", "CC-BY-3.0"),
        ("Creative Commons Attribution 3.0 United States license  Copyright X", "CC-BY-3.0-US"),
        ("", "unknown"),
    ],
)
def test_licence_names(text, name):
    assert asset_sources.licence_name(text) == name


def test_catalogue_entries(tmp_path):
    rotation = "1 0 0 0 0 1 0 -1 0"
    path = write_catalogue(
        tmp_path / "Some-CC.sh3f",
        [
            {"stem": "chair", "name": "Arm chair", "creator": "B"},
            {"stem": "gate", "category": "Doors and windows"},
            {"stem": "turned", "modelRotation": rotation},
            {"stem": "steps", "name": "Garden stairs"},
        ],
    )
    chair, gate, turned, steps = asset_sources.find_assets([str(path)])
    assert (chair.name, chair.title, chair.creator) == ("some_cc-chair", "Arm chair", "B")
    assert (chair.license, chair.source, chair.rotation) == ("CC0-1.0", "Some-CC", None)
    assert asset_sources.icon_bytes(chair) == b"icon of chair"
    assert turned.rotation == (1, 0, 0, 0, 0, 1, 0, -1, 0)
    assert [bool(asset_sources.unwanted(a)) for a in (chair, gate, turned, steps)] == [
        False, True, False, True,
    ]  # fmt: skip


def test_two_objects_of_one_name_stay_apart(tmp_path):
    a = write_folder(tmp_path / "a", ["chair"])
    b = write_folder(tmp_path / "b", ["chair"])
    names = [asset.name for asset in asset_sources.find_assets([str(a), str(b)])]
    assert names == ["chair", "chair-2"]


def test_world_turns_the_front_to_azimuth_0_inside_the_unit_sphere():
    parts = meshes.to_world(read_cube(x=1.0, y=2.0, z=3.0))
    points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1).max(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(points.max(0), np.array([3, 1, 2]) / np.sqrt(14), rtol=1e-12)
    by_colour = {tuple(np.round(p.colour, 3)): p for p in parts}
    front = by_colour[COLOURS["front"]]
    np.testing.assert_allclose(front.positions[..., 0], 3 / np.sqrt(14))
    np.testing.assert_allclose(np.abs(front.normals[..., 0]), 1.0, atol=1e-9)


def test_model_rotation_comes_before_the_turn_to_z_up():
    rotation = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # the file's z becomes y: up
    parts = meshes.to_world(read_cube(x=1.0, y=2.0, z=3.0), rotation)
    points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
    np.testing.assert_allclose(points.max(0), np.array([2, 1, 3]) / np.sqrt(14), rtol=1e-12)
    front = next(p for p in parts if p.colour == COLOURS["front"])
    np.testing.assert_allclose(front.positions[..., 2], 3 / np.sqrt(14))


def test_smooth_normals_of_a_sphere_and_flat_ones_of_a_cube():
    import trimesh

    ball = trimesh.creation.icosphere(2)
    xyz = ball.vertices[ball.faces]
    smooth = meshes.shading_normals(xyz)
    np.testing.assert_allclose((smooth * xyz).sum(-1), 1.0, atol=2e-3)
    box = trimesh.creation.box()
    flat = meshes.shading_normals(box.vertices[box.faces])
    np.testing.assert_allclose(np.abs(flat).max(-1), 1.0, atol=1e-9)


def test_materials():
    text = (
        "newmtl a b\nKd 0.2 0.4 1.5\nTr 0.25\n"
        "newmtl c\nd -halo 0.5\nmap_Kd -s 1 1 1 wood.png\nKd x y z\n"
        "newmtl d\nmap_Kd sub\\oak wood.jpg\n"
    )
    materials = obj.parse_mtl(text.encode(), print)
    assert materials["a b"].colour == (0.2, 0.4, 1.0) and materials["a b"].opacity == 0.75
    assert materials["c"].opacity == 0.5 and materials["c"].texture.file == "wood.png"
    assert materials["d"].texture.file == "sub\\oak wood.jpg"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v 0 0 0\n", "no triangles"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "not there"),
        ("v 0 0 0\nv 1 0 0\nv 0 x 0\nf 1 2 3\n", "not numbers"),
        ("v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "not finite"),
        ("v 0 0 0\nf 1 b c\n", "cannot be read"),
    ],
)
def test_bad_obj_files_say_why(text, reason):
    with pytest.raises(meshes.BadMesh, match=reason):
        obj.read_obj(text.encode(), lambda name: b"", print)


def test_flat_and_thin_shapes_are_refused():
    assert asset_sources.shape_refusal(read_cube()) is None
    assert "flat" in asset_sources.shape_refusal(read_cube(y=0.02))
    assert "thin" in asset_sources.shape_refusal(read_cube(x=0.08, y=0.08))


def test_glb_with_its_linear_colour(tmp_path):
    import trimesh

    mesh = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[0.2158605, 0.0, 1.0, 1.0])
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    mesh.export(tmp_path / "box.glb")
    (asset,) = asset_sources.find_assets([str(tmp_path)])
    (part,) = asset_sources.load_asset(asset)
    np.testing.assert_allclose(part.colour, (0.5, 0.0, 1.0), atol=0.01)


def test_places_without_objects_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        asset_sources.find_assets([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no OBJ, GLB or .sh3f"):
        asset_sources.find_assets([str(tmp_path)])
    text = tmp_path / "fake.sh3f"
    text.write_text("not a zip")
    with pytest.raises(UserError, match="not a furniture catalogue"):
        asset_sources.find_assets([str(text)])
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    with pytest.raises(UserError, match="not a mesh or a catalogue"):
        asset_sources.find_assets([str(picture)])


def box_stl(x, y, z):
    import trimesh

    return trimesh.creation.box((x, y, z)).export(file_type="stl")


def test_up_is_an_axis_of_the_file(tmp_path):
    """The longest side of a tower is upright in our world, whose up is z."""
    for axis, size in (("x", (4, 1, 2)), ("y", (1, 4, 2)), ("z", (1, 2, 4))):
        (tmp_path / "tower.stl").write_bytes(box_stl(*size))
        (asset,) = asset_sources.find_assets([str(tmp_path)], axis)
        (part,) = asset_sources.load_asset(asset)
        sides = np.ptp(part.positions.reshape(-1, 3), axis=0)
        assert sides.argmax() == 2, axis
        assert np.linalg.det(np.reshape(asset.rotation or np.eye(3), (3, 3))) > 0


def test_z_up_files_face_their_minus_y(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 -1 0\nv 1 0 0\nv -1 0 0\nv 0 0 1\nf 1 2 4\nf 2 3 1\n")
    (asset,) = asset_sources.find_assets([str(tmp_path)], "z")
    (part,) = asset_sources.load_asset(asset)
    nearest = part.positions.reshape(-1, 3)[0]  # the file's -y: our azimuth 0
    assert nearest[0] > 0.3 and abs(nearest[1]) < 1e-9


def test_names_are_those_of_the_files_in_any_script_and_length(tmp_path):
    long = "a" * 250
    for name in (
        "\u6905\u5b50",
        "\u0441\u0442\u0443\u043b",
        "Caf\u00e9 2",
        "!!!",
        long,
        long[:-1] + "b",
    ):
        (tmp_path / f"{name}.obj").write_text(cube_obj())
    assets = asset_sources.find_assets([str(tmp_path)])
    names = [a.name for a in assets]
    assert {"\u6905\u5b50", "\u0441\u0442\u0443\u043b", "caf\u00e9_2", "object"} < set(names)
    assert len(set(names)) == 6 and max(len(n.encode()) for n in names) <= 160
    assert all(asset_sources.load_asset(a) for a in assets)
    (tmp_path / "b").mkdir()
    raw = str(tmp_path / "b").encode() + b"/\xff\xfe.obj"
    with open(raw, "w") as file:
        file.write(cube_obj())
    (asset,) = asset_sources.find_assets([str(tmp_path / "b")])
    assert asset.name.encode() and asset.title.encode() and asset_sources.load_asset(asset)


def test_links_to_folders_are_followed_once(tmp_path):
    write_folder(tmp_path / "elsewhere" / "inner", ["chair"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    names = [a.name for a in asset_sources.find_assets([str(root)])]
    assert names == ["linked_inner_chair"]


def test_hidden_files_and_what_is_no_file_are_passed_over(tmp_path):
    import os

    write_folder(tmp_path, ["chair"])
    (tmp_path / "._chair.obj").write_bytes(b"Mac OS X")
    os.mkfifo(tmp_path / "pipe.obj")
    (tmp_path / "folder.obj").mkdir()
    (tmp_path / "null.obj").symlink_to("/dev/null")
    assert [a.name for a in asset_sources.find_assets([str(tmp_path)])] == ["chair"]


def test_a_bad_object_of_a_catalogue_is_known_before_it_is_read(tmp_path):
    entries = [
        {"stem": "good"},
        {"stem": "letters", "modelRotation": "a b c"},
        {"stem": "short", "modelRotation": "1 0 0"},
        {"stem": "endless", "modelRotation": "1 0 0 0 1 0 0 0 inf"},
        {"stem": "flat", "modelRotation": "1 0 0 0 1 0 0 0 0"},
        {"stem": "half", "name": "\\ud800"},
        {"stem": "pair", "name": "\\ud83e\\ude91"},
    ]
    path = write_catalogue(tmp_path / "c.sh3f", entries)
    assets = {a.name[2:]: a for a in asset_sources.find_assets([str(path)])}
    faults = {name: asset_sources.unwanted(a) for name, a in assets.items()}
    assert faults["good"] is None and faults["pair"] is None
    assert assets["pair"].title == "\U0001fa91"
    for name in ("letters", "short", "endless"):
        assert "modelRotation is not nine numbers" in faults[name]
    assert "no inverse" in faults["flat"] and "half a character" in faults["half"]
    for asset in assets.values():
        asset.title.encode()


def damage(path, start):
    """Changes a byte of the member whose data begin with `start`, stored as they are."""
    data = bytearray(path.read_bytes())
    data[data.index(start) + 1] ^= 1
    path.write_bytes(data)


def test_damaged_members_cost_one_object_and_damaged_catalogues_one_sentence(tmp_path):
    path = write_catalogue(tmp_path / "c.sh3f", [{"stem": "a"}])
    damage(path, b"mtllib")
    (asset,) = asset_sources.find_assets([str(path)])
    with pytest.raises(meshes.BadMesh, match="damaged in its archive"):
        asset_sources.load_asset(asset)
    damage(path, b"icon of a")
    assert asset_sources.icon_bytes(asset) is None
    damage(path, b"license=")
    with pytest.raises(UserError, match="is damaged: PluginFurnitureCatalog"):
        asset_sources.find_assets([str(path)])
    write_folder(tmp_path, ["chair"])
    chair, broken = sorted(asset_sources.find_assets([str(tmp_path)]), key=lambda a: a.fault)
    assert chair.name == "chair" and "damaged" in asset_sources.unwanted(broken)
