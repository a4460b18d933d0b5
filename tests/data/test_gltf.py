"""glTF by its own rules: shapes, colours, textures, and what is refused by which name."""

import io
import json
import struct
import sys
import types

import numpy as np
import pytest
from gltf_files import INDICES, SQUARE, Gltf, png
from PIL import Image

from iso3d_jax.core import extras
from iso3d_jax.data import gltf, gltf_document, meshes
from iso3d_jax.data.beside import NotThere
from iso3d_jax.data.meshes import BadMesh

UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "f4")
CORNERS = SQUARE[INDICES.reshape(-1, 3)]
RED = [[[255, 0, 0]]]


def read(file, notes=None, **stored):
    data = file if isinstance(file, bytes) else file.glb()

    def read_file(name):
        if name not in stored:
            raise NotThere(f"{name} is not there")
        return stored[name]

    notes = [] if notes is None else notes
    parts = gltf.read_gltf(data, read_file, notes.append)
    return parts


def simple(**mesh):
    file = Gltf()
    file.mesh(**mesh)
    return file


# Shapes


def test_indices_of_any_type_or_none_and_strips_and_fans():
    for dtype in "BHI":
        (part,) = read(simple(indices=INDICES.astype(dtype)))
        np.testing.assert_array_equal(part.positions, CORNERS)
        np.testing.assert_array_equal(part.normals, np.broadcast_to([0, 0, 1], (2, 3, 3)))
    (part,) = read(simple(indices=None, POSITION=SQUARE[INDICES]))
    np.testing.assert_array_equal(part.positions, CORNERS)
    strip, fan = np.array([0, 1, 3, 2], "H"), np.array([0, 1, 2, 3], "H")
    (part,) = read(simple(indices=strip, mode=5))
    np.testing.assert_array_equal(part.positions, SQUARE[[[0, 1, 3], [1, 2, 3]]])
    (part,) = read(simple(indices=fan, mode=6))
    np.testing.assert_array_equal(part.positions, SQUARE[[[1, 2, 0], [2, 3, 0]]])
    assert (part.normals[..., 2] == 1).all()  # all of them turn the same way


def test_points_and_lines_are_noted():
    notes = []
    file = simple()
    file.json["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})
    assert len(read(file, notes)) == 1 and notes == ["points and lines are not drawn"]
    with pytest.raises(BadMesh, match=r"no triangles that are drawn \(points and lines"):
        read(simple(mode=0))


def test_nodes_turn_scale_and_move_from_the_child_to_the_root():
    file = simple(NORMAL=np.tile(np.array([[1, 0, 1]], "f4"), (4, 1)))
    half = 0.5**0.5
    file.json["nodes"] = [
        {"children": [1], "rotation": [0, 0, half, half], "translation": [1, 2, 3]},
        {"mesh": 0, "scale": [2, 3, 4]},
    ]
    (part,) = read(file)
    x, y, z = np.moveaxis(CORNERS, -1, 0)
    np.testing.assert_allclose(part.positions, np.stack([1 - 3 * y, 2 + 2 * x, 3 + 4 * z], -1))
    want = np.array([0, 1 / 2, 1 / 4])  # slopes are divided by the scale
    np.testing.assert_allclose(part.normals[0, 0], want / np.linalg.norm(want), atol=1e-6)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = [[0, -3, 0], [2, 0, 0], [0, 0, 4]], [1, 2, 3]
    file.json["nodes"] = [{"mesh": 0, "matrix": matrix.T.ravel().tolist()}]
    (again,) = read(file)
    np.testing.assert_allclose(again.positions, part.positions)


def test_a_mirrored_node_keeps_its_front():
    file = simple()
    file.json["nodes"][0]["scale"] = [-1, 1, 1]
    (part,) = read(file)
    cross = np.cross(*(part.positions[:, k] - part.positions[:, 0] for k in (1, 2)))
    assert (cross[:, 2] > 0).all() and (part.normals[..., 2] == 1).all()


def test_the_default_scene_is_drawn_or_the_first_or_all_nodes():
    file = simple()
    file.json["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}]
    file.json["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]
    notes = []
    file.json["scene"] = 1
    assert read(file, notes)[0].positions[0, 0, 0] == 5 and notes == ["scene 1 of 2 is drawn"]
    del file.json["scene"]
    assert read(file)[0].positions[0, 0, 0] == 0
    del file.json["scenes"]
    assert len(read(file, notes)[0].positions) == 4 and "no scene" in notes[-1]


def test_invisible_nodes_hide_what_is_under_them():
    file = simple()
    file.json["nodes"] = [
        {"children": [1], "extensions": {"KHR_node_visibility": {"visible": False}}}, {"mesh": 0},
    ]  # fmt: skip
    with pytest.raises(BadMesh, match="no meshes"):
        read(file)


def test_skins_stand_as_their_joints_do_and_not_where_their_node_is():
    joints = np.array([[0, 1, 0, 0]] * 4, "B")
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [1, 1, 0, 0]], "f4")
    file = simple(JOINTS_0=joints, WEIGHTS_0=weights)
    bind = np.tile(np.eye(4), (2, 1, 1))
    bind[1, :3, 3] = [0, 0, -7]
    file.json["skins"] = [
        {
            "joints": [1, 2],
            "inverseBindMatrices": file.accessor(
                bind.transpose(0, 2, 1).reshape(2, 16).astype("f4")
            ),
        }
    ]
    file.json["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [100, 0, 0]},
        {"translation": [1, 0, 0]},  # outside of the scene, and still where it is
        {"translation": [0, 0, 9]},
    ]
    (part,) = read(file)
    moved = np.array([[1, 0, 0], [0, 0, 2], [0.5, 0, 1], [0.5, 0, 1]])
    np.testing.assert_allclose(part.positions, (SQUARE + moved)[INDICES.reshape(-1, 3)], atol=1e-6)
    file.json["skins"][0]["joints"] = [1]
    with pytest.raises(BadMesh, match="joint that is not there"):
        read(file)


def test_morph_targets_by_the_weights_of_the_node_or_else_of_the_mesh():
    file = simple()
    shift = file.accessor(np.tile(np.array([[0, 0, 2]], "f4"), (4, 1)))
    file.json["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": shift}]
    assert read(file)[0].positions[0, 0, 2] == 0
    file.json["meshes"][0]["weights"] = [0.5]
    assert read(file)[0].positions[0, 0, 2] == 1
    file.json["nodes"][0]["weights"] = [2.0]
    assert read(file)[0].positions[0, 0, 2] == 4


def test_instances_stand_each_in_its_place():
    file = simple()
    place = np.array([[0, 0, 0], [0, 5, 0]], "f4")
    size = np.array([[1, 1, 1], [2, 2, 2]], "f4")
    rule = {"attributes": {"TRANSLATION": file.accessor(place), "SCALE": file.accessor(size)}}
    file.json["nodes"][0] |= {
        "extensions": {"EXT_mesh_gpu_instancing": rule}, "translation": [0, 0, 1],
    }  # fmt: skip
    (part,) = read(file)
    want = np.concatenate([CORNERS, 2 * CORNERS + [0, 5, 0]]) + [0, 0, 1]
    np.testing.assert_allclose(part.positions, want)


def test_accessors_with_strides_sparse_values_and_whole_numbers():
    file = simple()
    rows = np.zeros((4, 5), "f4")
    rows[:, 1:4] = SQUARE
    accessor = file.json["accessors"][0]
    accessor |= {"bufferView": file.view(rows.tobytes(), byteStride=20), "byteOffset": 4}
    np.testing.assert_array_equal(read(file)[0].positions, CORNERS)

    file = simple()
    sparse = {
        "count": 1,
        "indices": {"bufferView": file.view(b"\2"), "componentType": 5121},
        "values": {"bufferView": file.view(np.array([7, 8, 9], "f4").tobytes())},
    }
    file.json["accessors"][0]["sparse"] = sparse
    want = SQUARE.copy()
    want[2] = [7, 8, 9]
    np.testing.assert_array_equal(read(file)[0].positions, want[INDICES.reshape(-1, 3)])
    del file.json["accessors"][0]["bufferView"]  # the others are zero then
    np.testing.assert_array_equal(read(file)[0].positions[0], [[0] * 3, [0] * 3, [7, 8, 9]])

    file = simple(POSITION=(SQUARE * 100).astype("b"))
    np.testing.assert_array_equal(read(file)[0].positions, 100 * CORNERS)
    file.json["accessors"][0]["normalized"] = True
    np.testing.assert_allclose(read(file)[0].positions, 100 / 127 * CORNERS)
    file = simple(POSITION=(SQUARE * -32768).astype("h"))
    file.json["accessors"][0]["normalized"] = True
    np.testing.assert_allclose(read(file)[0].positions, -CORNERS)


def test_only_vertices_in_use_are_looked_at():
    many = np.full((50, 3), np.nan, "f4")
    many[40:44] = SQUARE
    (part,) = read(simple(POSITION=many, indices=INDICES + np.uint16(40)))
    np.testing.assert_array_equal(part.positions, CORNERS)


# Colours


def test_no_material_and_no_factor_mean_white():
    (part,) = read(simple())
    assert part.colour == (1.0, 1.0, 1.0) and part.alpha == "opaque" and not part.two_sided
    file = Gltf()
    file.mesh(file.material(doubleSided=True))
    (part,) = read(file)
    assert part.colour == (1.0, 1.0, 1.0) and part.two_sided and part.linear


def test_factors_are_linear_and_stand_beside_textures():
    file = Gltf()
    pbr = {"baseColorFactor": [0.2158605, 1.0, 0.0, 0.25]}
    file.mesh(file.material(RED, pbrMetallicRoughness=pbr, alphaMode="BLEND"), TEXCOORD_0=UV)
    (part,) = read(file)
    np.testing.assert_allclose(part.colour, [0.502, 1, 0], atol=1e-3)
    assert (part.opacity, part.alpha) == (0.25, "blend")
    np.testing.assert_array_equal(part.texture, [[[255, 0, 0, 255]]])
    uv = UV[INDICES.reshape(-1, 3)]
    np.testing.assert_allclose(part.uv, np.stack([uv[..., 0], 1 - uv[..., 1]], -1))


def test_specular_glossiness_gives_its_diffuse_colour_and_texture():
    file = Gltf()
    rule = {"diffuseFactor": [0, 1, 0, 1], "diffuseTexture": {"index": file.texture(RED)}}
    material = file.material(
        pbrMetallicRoughness={"baseColorFactor": [0, 0, 1, 1]},
        extensions={"KHR_materials_pbrSpecularGlossiness": rule},
    )
    file.mesh(material, TEXCOORD_0=UV)
    (part,) = read(file)
    assert part.colour == (0.0, 1.0, 0.0) and part.texture is not None


@pytest.mark.parametrize("dtype", ["f4", "B", "H"])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colours_are_fractions_of_any_type(dtype, width):
    colours = np.array([[0, 0.2, 0.4, 0.6], [1, 0.8, 0.6, 0.4], [0, 0, 0, 0], [1, 1, 1, 1]])
    most = 1 if dtype == "f4" else np.iinfo(dtype).max
    (part,) = read(simple(COLOR_0=(colours[:, :width] * most).astype(dtype)))
    want = colours.copy()
    if width == 3:
        want[:, 3] = 1
    np.testing.assert_allclose(part.tint, want[INDICES.reshape(-1, 3)], atol=0.01)
    assert part.linear


def test_modes_of_alpha_and_what_needs_no_light():
    for mode, cutoff in (("OPAQUE", 0.5), ("MASK", 0.1), ("BLEND", 0.5)):
        file = Gltf()
        file.mesh(file.material(alphaMode=mode, alphaCutoff=cutoff))
        (part,) = read(file)
        assert (part.alpha, part.cutoff, part.unlit) == (mode.lower(), cutoff, False)
    file = Gltf()
    file.mesh(file.material(extensions={"KHR_materials_unlit": {}}, emissiveFactor=[1, 1, 1]))
    (part,) = read(file)
    assert part.unlit and part.glow is None


def test_emission_has_its_factor_strength_and_texture():
    file = Gltf()
    light = {"index": file.texture(RED), "texCoord": 1}
    strong = {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}
    file.mesh(
        file.material(emissiveFactor=[0.1, 0.2, 0.3], emissiveTexture=light, extensions=strong),
        TEXCOORD_1=UV / 2,
    )
    (part,) = read(file)
    np.testing.assert_allclose(part.glow.colour, [0.2, 0.4, 0.6])
    np.testing.assert_allclose(part.glow.uv[0, 1], [0.5, 1.0])
    np.testing.assert_array_equal(part.glow.texture, [[[255, 0, 0, 255]]])


def test_textures_have_a_set_a_transform_and_edges():
    file = Gltf()
    turn = {"offset": [0.1, 0.2], "rotation": np.pi / 2, "scale": [2, 3], "texCoord": 1}
    texture = {"texCoord": 0, "extensions": {"KHR_texture_transform": turn}}
    file.mesh(file.material(RED, texture), TEXCOORD_0=0 * UV, TEXCOORD_1=UV)
    file.json["samplers"] = [{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}]
    file.json["textures"][0]["sampler"] = 0
    (part,) = read(file)
    # Scaled, turned counter-clockwise as seen with v downwards, moved: (u, v) -> (3v, -2u).
    u, v = np.moveaxis(UV[INDICES.reshape(-1, 3)], -1, 0)
    np.testing.assert_allclose(part.uv, np.stack([0.1 + 3 * v, 1 - (0.2 - 2 * u)], -1), atol=1e-6)
    assert part.wrap == ("clamp", "mirror") and part.nearest


def test_pictures_are_files_data_or_parts_of_the_buffer_and_of_several_formats():
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (0, 255, 0)).save(buffer, "WEBP", lossless=True)
    stored = {"my oak.png": png(RED), "100%.png": png(RED)}
    webp = {"EXT_texture_webp": {"source": 0}}
    for image, texture in (
        ({"uri": "my%20oak.png"}, {"source": 0}),
        ({"uri": "100%.png"}, {"source": 0}),
        ({"uri": "data:image/png;base64," + __import__("base64").b64encode(png(RED)).decode()},
         {"source": 0}),
        ({"data": buffer.getvalue()}, {"extensions": webp}),
    ):  # fmt: skip
        file = Gltf()
        file.mesh(file.material(RED), TEXCOORD_0=UV)
        if "data" in image:
            image = {"bufferView": file.view(image["data"])}
            file.json["extensionsRequired"] = ["EXT_texture_webp"]
        file.json["images"], file.json["textures"] = [image], [texture]
        notes = []
        (part,) = read(file, notes, **stored)
        assert not notes and part.texture.shape == (1, 1, 4)


def test_a_missing_texture_is_noted_and_its_factor_drawn():
    file = Gltf()
    file.mesh(file.material(RED, pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 1]}))
    notes = []
    (part,) = read(file, notes)
    assert part.texture is None and notes == ["a texture has no coordinates (TEXCOORD_0)"]
    for image, said in (
        ({"uri": "gone.png"}, "no texture: gone.png is not there"),
        ({"uri": "http://x/y.png"}, "on the network"),
        ({"uri": "data:image/png;base64,AAAA"}, "image 0: it is not a picture"),
    ):
        file.json["images"] = [image]
        (part,) = read(file, notes)
        assert said in notes[-1] and part.colour == (1.0, 0.0, 0.0)


# Refusals


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ("KHR_texture_basisu", "requires the extension KHR_texture_basisu"),
        ("XYZ_unheard_of", "requires the extension XYZ_unheard_of"),
        ("KHR_draco_mesh_compression", "DracoPy"),
    ],
)
def test_required_extensions_that_are_not_read_are_named(required, said, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda package: package != "DracoPy")
    file = simple()
    file.json["extensionsRequired"] = [required]
    with pytest.raises(BadMesh, match=said):
        read(file)


def test_textures_of_basis_alone_leave_the_object_out():
    file = Gltf()
    file.mesh(file.material(RED), TEXCOORD_0=UV)
    rule = {"extensions": {"KHR_texture_basisu": {"source": 0}}}
    file.json["textures"] = [rule]
    with pytest.raises(BadMesh, match="KHR_texture_basisu"):
        read(file)
    file.json["textures"] = [rule | {"source": 0}]  # with a picture for those who cannot
    assert read(file)[0].texture is not None


def test_meshopt_is_read_where_the_data_are_there_too(monkeypatch):
    """Without its package; a buffer that only says how large the data would be is none."""
    monkeypatch.setattr(extras, "is_installed", lambda package: package != "meshopt")
    file = simple()
    view = file.json["bufferViews"][0]
    view["extensions"] = {"EXT_meshopt_compression": {"buffer": 0}}
    assert len(read(file)) == 1
    view["buffer"] = 1
    file.json["buffers"] = [{"byteLength": len(file.data)}, {"byteLength": 48}]
    with pytest.raises(BadMesh, match="EXT_meshopt_compression, which the package meshopt reads"):
        read(file)
    view["buffer"] = 0
    rule = {"EXT_meshopt_compression": {"fallback": True}}
    file.json["buffers"] = [{"byteLength": len(file.data), "extensions": rule}]
    with pytest.raises(BadMesh, match="EXT_meshopt_compression"):
        read(file)


def pack(file, accessor, mode, stride, values, name="EXT_meshopt_compression", **rule):
    """Lets an accessor's view hold `values` as meshoptimizer packs them, and nothing else."""
    meshopt = pytest.importorskip("meshopt")
    packed = meshopt.encode_gltf_buffer(values, mode)
    at = file.json["bufferViews"][file.view(packed)]
    rule |= {"mode": mode, "count": len(values), "byteStride": stride}
    number = file.json["accessors"][accessor]["bufferView"]
    file.json["bufferViews"][number] = {
        "buffer": 1, "byteLength": stride * len(values), "byteOffset": 0,
        "extensions": {name: at | rule},
    } | ({"byteStride": stride} if mode == "ATTRIBUTES" else {})  # fmt: skip


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_meshopt_compression"])
@pytest.mark.parametrize("mode", ["TRIANGLES", "INDICES"])
def test_what_meshoptimizer_packs_is_read_back(name, mode):
    """Indices in both ways, floats as they are, and normals by a filter; the parent has no data."""
    meshopt = pytest.importorskip("meshopt")
    turned = np.array([[0.6, 0, 0.8]] * 4, "f4")
    file = simple(NORMAL=turned, TEXCOORD_0=UV)
    attributes = file.json["meshes"][0]["primitives"][0]["attributes"]
    pack(file, attributes["POSITION"], "ATTRIBUTES", 12, SQUARE, name)
    pack(file, file.json["meshes"][0]["primitives"][0]["indices"], mode, 2, INDICES, name)
    normals = meshopt.encode_filter_oct(np.hstack([turned, np.ones((4, 1), "f4")]), 4, 8)
    pack(file, attributes["NORMAL"], "ATTRIBUTES", 4, normals, name, filter="OCTAHEDRAL")
    file.json["accessors"][attributes["NORMAL"]] |= {"componentType": 5120, "normalized": True}
    file.json["extensionsRequired"] = [name]
    file.json["buffers"] = [{"byteLength": len(file.data)}, {"byteLength": 48}]
    (part,) = read(file)
    np.testing.assert_array_equal(part.positions, CORNERS)
    np.testing.assert_allclose(part.normals, np.broadcast_to([0.6, 0, 0.8], (2, 3, 3)), atol=0.02)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"byteLength": 20}, "EXT_meshopt_compression data cannot be unpacked"),
        ({"mode": "OTHER"}, "EXT_meshopt_compression data cannot be unpacked"),
        ({"byteStride": 13}, "EXT_meshopt_compression data cannot be unpacked"),
        ({"filter": "OCTAHEDRAL"}, "EXT_meshopt_compression data cannot be unpacked"),
        ({"count": 3}, "wants 48 bytes of a bufferView of 36"),
        ({"count": 10**9}, "buffers have more than"),
        ({"count": -1}, "count of the glTF is -1"),
        ({"byteLength": 10**6}, "a view of EXT_meshopt_compression of the glTF wants bytes"),
    ],
)
def test_meshopt_data_that_lie_are_refused(rule, said):
    file = simple()
    position = file.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    pack(file, position, "ATTRIBUTES", 12, SQUARE)
    view = file.json["bufferViews"][file.json["accessors"][position]["bufferView"]]
    view["extensions"]["EXT_meshopt_compression"] |= rule
    file.json["buffers"] = [{"byteLength": len(file.data)}, {"byteLength": 48}]
    with pytest.raises(BadMesh, match=said):
        read(file)


def test_draco_by_its_library_or_by_the_data_beside_it_or_not_at_all(monkeypatch):
    """Where the library is not there, and where its data lie; this stands for its `decode`."""
    file = simple(TEXCOORD_0=UV)
    rule = {"bufferView": file.view(b"packed"), "attributes": {"POSITION": 5, "TEXCOORD_0": 6}}
    file.json["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": rule}
    monkeypatch.setattr(extras, "is_installed", lambda package: package != "DracoPy")
    assert len(read(file)) == 1
    for accessor in file.json["accessors"]:
        del accessor["bufferView"]
    with pytest.raises(BadMesh, match="KHR_draco_mesh_compression.*DracoPy"):
        read(file)

    def decode(data):
        if data != b"packed":
            raise ValueError("not of mine")
        held = {5: SQUARE, 6: UV}
        found = types.SimpleNamespace(faces=INDICES.reshape(-1, 3))
        found.get_attribute_by_unique_id = lambda key: {"data": held[key]}
        return found

    monkeypatch.setattr(extras, "is_installed", lambda package: package == "DracoPy")
    monkeypatch.setitem(sys.modules, "DracoPy", types.SimpleNamespace(decode=decode))
    np.testing.assert_array_equal(read(file)[0].positions, CORNERS)
    rule["attributes"]["POSITION"] = 9
    with pytest.raises(BadMesh, match="has no POSITION"):
        read(file)
    rule["bufferView"] = 0
    with pytest.raises(BadMesh, match="cannot be unpacked"):
        read(file)


def test_what_dracopy_packs_is_read_back():
    draco = pytest.importorskip("DracoPy")
    file = simple(TEXCOORD_0=UV)
    packed = draco.encode(
        SQUARE, INDICES.reshape(-1, 3).astype(np.uint32), quantization_bits=20,
        preserve_order=True, tex_coord=np.asarray(UV, np.float64), tex_coord_quantization_bits=20,
    )  # fmt: skip
    held = {a["attribute_type"]: a["unique_id"] for a in draco.decode(packed).attributes}
    rule = {
        "bufferView": file.view(packed),
        "attributes": {"POSITION": held[0], "TEXCOORD_0": held[3]},  # Draco's own numbers of kinds
    }
    file.json["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": rule}
    for accessor in file.json["accessors"]:
        del accessor["bufferView"]
    (part,) = read(file)
    np.testing.assert_allclose(part.positions, CORNERS, atol=1e-5)
    file = simple(TEXCOORD_0=UV)
    np.testing.assert_allclose(part.uv, read(file)[0].uv, atol=1e-5)


def change(path, value):
    def apply(file):
        at = file.json
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("accessors", 0, "count"), 1_000_000, "wants"),
        (("accessors", 0, "count"), 10**30, "too many"),
        (("accessors", 0, "count"), -1, "should count"),
        (("accessors", 0, "count"), float("inf"), "should count"),
        (("accessors", 0, "count"), "x", "cannot be"),
        (("accessors", 0, "type"), "VEC2", "where 3 are needed"),
        (("accessors", 0, "componentType"), 1, "no type that is known"),
        (("accessors", 0, "bufferView"), 9, "no bufferViews 9"),
        (("accessors", 0, "byteOffset"), 10**12, "wants"),
        (("bufferViews", 0, "byteLength"), 10**12, "wants bytes up to"),
        (("bufferViews", 0, "buffer"), 3, "no buffers 3"),
        (("accessors", 1, "count"), 1, "no triangles|vertex"),
        (("meshes", 0, "primitives", 0, "indices"), 0, "where 1 are needed"),
        (("meshes", 0, "primitives", 0, "attributes"), [], "cannot be"),
        (("nodes", 0, "mesh"), 5, "no meshes 5"),
        (("nodes", 0, "mesh"), True, "no meshes True"),
        (("nodes", 0, "scale"), [1, 2], "not 3 numbers"),
        (("nodes", 0, "scale"), [1, 2, None], "not 3 numbers"),
        (("nodes", 0, "scale"), [1e999, 1, 1], "not finite"),
        (("nodes", 0, "scale"), [1e300, 1, 1], "not a finite number"),
        (("nodes", 0, "children"), [0], "hold one another"),
        (("nodes", 0, "children"), ["0"], "no nodes 0"),
        (("nodes",), [{"mesh": 0}, {"children": [0]}, {"children": [0]}], "two parents"),
        (("nodes",), "x", "cannot be"),
        (("scene",), 7, "no scenes 7"),
        (("asset",), {"version": "1.0"}, "2.0 is what is read"),
        (("asset",), {}, "no version"),
        (("buffers",), [{"byteLength": 4, "uri": "gone.bin"}], "gone.bin is not there"),
        (("buffers",), [{"byteLength": 4, "uri": "short.bin"}], "wants bytes up to"),
        (("buffers",), [{"byteLength": 4, "uri": "data:,"}], "wants bytes up to"),
        (("buffers",), [{"byteLength": 4, "uri": "data:"}], "without data"),
    ],
)
def test_what_does_not_fit_is_one_sentence(path, value, said):
    file = simple()
    change(path, value)(file)
    with pytest.raises(BadMesh, match=said) as error:
        read(file, **{"short.bin": b"1234"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vertex_that_is_no_number_says_so(bad):
    with pytest.raises(BadMesh, match="a vertex that is not a finite number"):
        read(simple(POSITION=np.where(SQUARE == 1, np.float32(bad), SQUARE)))


def test_a_triangle_of_a_vertex_that_is_not_there_says_which():
    with pytest.raises(BadMesh, match="a triangle names vertex 9, and there are 4"):
        read(simple(indices=np.array([0, 1, 9], "H")))


def test_files_that_are_cut_short_or_no_gltf():
    whole = simple().glb()
    for data, said in (
        (whole[:10], "ends within its header"),
        (whole[:60], "should have"),
        (whole[:4] + struct.pack("<I", 1) + whole[8:], "version 1"),
        (b"nonsense", "JSON cannot be read"),
        (b"[" * 100_000, "JSON cannot be read"),
        (b"[]", "not an object"),
        (b"\xff\xfe", "JSON cannot be read"),
    ):
        with pytest.raises(BadMesh, match=said):
            read(data)
    assert len(read(b"\xef\xbb\xbf" + simple().gltf())) == 1


def test_counts_are_bounded_before_anything_is_made_of_that_size(monkeypatch):
    monkeypatch.setattr(meshes, "MOST_TRIANGLES", 7)
    file = simple()
    place = np.zeros((4, 3), "f4")
    rule = {"attributes": {"TRANSLATION": file.accessor(place)}}
    file.json["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": rule}
    with pytest.raises(BadMesh, match="8 triangles, and the most is 7"):
        read(file)
    monkeypatch.setattr(gltf_document, "MOST_MARKS", 50)
    with pytest.raises(BadMesh, match="JSON has more than 50 values"):
        read(json.dumps({"a": [0] * 60}).encode())
    monkeypatch.undo()
    file = simple()
    del file.json["accessors"][0]["bufferView"]
    file.json["accessors"][0]["count"] = 10**9
    with pytest.raises(BadMesh, match="too many"):
        read(file)


def test_parts_of_one_material_are_drawn_together():
    file = Gltf()
    red = file.material(pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 1]})
    file.mesh(red)
    file.json["nodes"] = [{"mesh": 0, "translation": [k, 0, 0]} for k in range(5)]
    file.json["scenes"][0]["nodes"] = list(range(5))
    (part,) = read(file)
    assert part.positions.shape == (10, 3, 3)
    file.json["materials"][0]["alphaMode"] = "BLEND"  # sorted by their middle
    assert len(read(file)) == 5
