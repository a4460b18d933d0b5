"""Reading meshes: corners, normals, materials and textures, number by number."""

import io

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data import meshes
from iso3d_jax.data.meshes import Part


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


OBJ = """
mtllib a b.mtl
v 0 0 0
v 2 0 0
v 2 3 0
v 0 3 0
v 1 1 4
vt 0.25 0.5
vt 0.75 1.0
vt 0.0 0.125
vn 0 0 2
vn 3 0 0
usemtl wood
f 1/1/1 2/2/1 3/3/2 4/-1/-2
usemtl steel
f -5 -4 -1
f 3//2 4//1 5
"""
MTL = "newmtl wood\nKd 0.1 0.2 0.3\nmap_Kd oak.png\nnewmtl steel\nKd 0.4 0.5 0.6\nd 0.25\n"


def read(obj=OBJ, **files):
    stored = {"a b.mtl": MTL.encode(), "oak.png": png([[[9, 8, 7]]])} | files
    return meshes.read_obj(obj.encode(), lambda name: stored[name])


def test_faces_are_fans_of_their_corners_with_coordinates_and_normals():
    wood, steel = read()
    corners = np.array([[0, 0, 0], [2, 0, 0], [2, 3, 0], [0, 3, 0], [1, 1, 4]], float)
    np.testing.assert_array_equal(wood.positions, corners[[[0, 1, 2], [0, 2, 3]]])
    uv = np.array([[0.25, 0.5], [0.75, 1.0], [0.0, 0.125]])
    np.testing.assert_array_equal(
        wood.uv, uv[[[0, 1, 2], [0, 2, 2]]]
    )  # the last counts from the end
    up, right = [0, 0, 1], [1, 0, 0]  # unit, and -2 is the first of the two
    np.testing.assert_array_equal(wood.normals, [[up, up, right], [up, right, up]])
    np.testing.assert_array_equal(steel.positions, corners[[[0, 1, 4], [2, 3, 4]]])
    # Given normals where there are, else the face's: (0, -12, 3) and, at the tip, (0, 8, 4).
    np.testing.assert_allclose(steel.normals[0, 0], [0, -4 / 17**0.5, 1 / 17**0.5], atol=1e-9)
    np.testing.assert_allclose(
        steel.normals[1], [right, up, [0, 2 / 5**0.5, 1 / 5**0.5]], atol=1e-9
    )
    assert not steel.uv.any()


def test_materials_are_those_in_use():
    wood, steel = read()
    assert (wood.colour, wood.opacity) == ((0.1, 0.2, 0.3), 1.0)
    assert (steel.colour, steel.opacity, steel.texture) == ((0.4, 0.5, 0.6), 0.25, None)
    np.testing.assert_array_equal(wood.texture, [[[9, 8, 7, 255]]])
    plain, _ = read(**{"a b.mtl": b""})
    assert (plain.colour, plain.opacity, plain.texture) == ((0.8, 0.8, 0.8), 1.0, None)
    broken, _ = read(**{"oak.png": b"no picture"})
    assert broken.texture is None and broken.colour == (0.1, 0.2, 0.3)
    without = read(OBJ.replace("1/1/1 2/2/1 3/3/2 4/-1/-2", "1 2 3"))[0]
    assert without.texture is None  # a texture needs places


def test_a_face_that_names_no_vertex_is_refused_at_either_end():
    for face in ("f 1 2 6", "f -6 1 2", "f 0 1 2"):
        with pytest.raises(meshes.BadMesh):
            read(OBJ + face + "\n")
    assert len(read(OBJ + "f 5 1 2\nf -5 1 2\n")[1].positions) == 4
    # Coordinates and normals that are not there are as good as none.
    (part,) = read("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 1 1\nvn 1 0 0\nf 1/2/2 2/1/1 3/9/9\n")
    np.testing.assert_array_equal(part.uv, [[[0, 0], [1, 1], [0, 0]]])
    np.testing.assert_array_equal(part.normals, [[[0, 0, 1], [1, 0, 0], [0, 0, 1]]])
    # A normal of no length is none.
    (part,) = read("v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 0\nf 1//1 2//1 3//1\n")
    np.testing.assert_array_equal(part.normals, [[[0, 0, 1]] * 3])


def roof(degrees):
    """Two faces that meet at an angle along the y axis; the second is three times as large."""
    turn = np.radians(degrees)
    down = 3 * np.array([np.cos(turn), 0, -np.sin(turn)])
    near, far, left = np.zeros(3), np.array([0, 2.0, 0]), np.array([-1.0, 0, 0])
    return np.array([[near, far, left], [far, near, down]])


def test_normals_are_area_weighted_means_of_faces_that_meet_at_less_than_fifty_degrees():
    for degrees, smooth in ((49.0, True), (51.0, False)):
        xyz = roof(degrees)
        turn = np.radians(degrees)
        one, other = np.array([0, 0, 1.0]), np.array([np.sin(turn), 0, np.cos(turn)])
        mean = one + 3 * other
        mean = mean / np.linalg.norm(mean)
        found = meshes.shading_normals(xyz)
        np.testing.assert_allclose(found[0, 2], one, atol=1e-9)
        np.testing.assert_allclose(found[1, 2], other, atol=1e-9)
        for corner in (found[0, 0], found[0, 1]):
            np.testing.assert_allclose(corner, mean if smooth else one, atol=1e-9)
        for corner in (found[1, 0], found[1, 1]):
            np.testing.assert_allclose(corner, mean if smooth else other, atol=1e-9)


def test_a_fan_of_too_many_faces_keeps_its_own_normals_and_nothing_has_none(monkeypatch):
    monkeypatch.setattr(meshes, "LARGEST_FAN", 1)
    found = meshes.shading_normals(roof(20.0))
    np.testing.assert_allclose(found[0], [[0, 0, 1]] * 3, atol=1e-9)
    monkeypatch.setattr(meshes, "LARGEST_FAN", 2)
    assert meshes.shading_normals(roof(20.0))[0, 0, 0] > 0.1
    flat = np.zeros((1, 3, 3))
    np.testing.assert_array_equal(meshes.shading_normals(flat), flat)
    # Two faces back to back: what they would add up to is nothing, and each keeps its own.
    twice = np.concatenate([roof(20.0)[:1], roof(20.0)[:1, ::-1]])
    found = meshes.shading_normals(twice)
    np.testing.assert_allclose(found[0], -found[1], atol=1e-9)


def test_textures_are_reduced_to_their_largest_side(monkeypatch):
    monkeypatch.setattr(meshes, "LARGEST_TEXTURE", 4)
    pixels = np.arange(8 * 4 * 3).reshape(4, 8, 3)
    small = meshes.load_texture(png(pixels))
    assert small.shape == (2, 4, 4) and (small[..., 3] == 255).all()
    mean = pixels.reshape(2, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(small[..., :3], mean, atol=1)
    assert meshes.load_texture(png(pixels[:, :4])).shape == (4, 4, 4)
    assert meshes.load_texture(png(np.zeros((1, 40, 3)))).shape == (1, 4, 4)


def test_the_srgb_curve():
    found = meshes._linear_to_srgb([-1.0, 0.001, 0.0031308, 0.2158605, 0.5, 2.0])
    want = [0.0, 0.01292, 0.04045, 0.502, 0.7353570, 1.0]
    np.testing.assert_allclose(found, want, atol=2e-4)


def test_lines_of_materials_that_make_no_sense_leave_what_is_there():
    lines = ["newmtl a", "Kd 0.1 0.2 0.3", "Kd 1 2", "d", "Tr", "Tr x", "d 2", "newmtl b", "Tr 1.5"]
    lines += ["newmtl c", "Tr 0.75", "kd -1 0.5 2", "# Kd 1 1 1", "MAP_KD -bm 1 x.png"]
    found = meshes.parse_mtl("\n".join(lines))
    assert found["a"].colour == (0.1, 0.2, 0.3) and found["a"].opacity == 1.0
    assert found["b"].opacity == 0.0 and found["c"].opacity == 0.25
    assert found["c"].colour == (0.0, 0.5, 1.0) and found["c"].texture == "x.png"


def triangle(offset=(0, 0, 0), size=1.0):
    xyz = size * np.array([[[0.0, 0, 0], [4, 0, 0], [0, 0, 2]]]) + offset
    return Part(xyz, np.array([[[0.0, 1, 0]] * 3]), np.zeros((1, 3, 2)))


def test_the_world_is_z_up_with_the_files_front_at_azimuth_0():
    """The file's x, y, z are the world's y, z, x."""
    parts = meshes.to_world([triangle(), triangle((0, 6, 0))])
    points = np.concatenate([p.positions for p in parts]).reshape(-1, 3)
    want = np.array([[0, 0, 0], [0, 4, 0], [2, 0, 0], [0, 0, 6], [0, 4, 6], [2, 0, 6]]) - [1, 2, 3]
    np.testing.assert_allclose(points, want / 14**0.5, atol=1e-12)
    np.testing.assert_allclose(parts[0].normals, [[[0, 0, 1]] * 3], atol=1e-12)
    turned = meshes.to_world([triangle()], np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(turned[0].normals[0, 0], [0, -1, 0], atol=1e-12)
    with pytest.raises(meshes.BadMesh, match="no extent"):
        meshes.to_world([triangle(size=0.0)])


def test_names_inside_a_zip_are_relative_to_the_mesh():
    resolve = meshes.relative_to("models/chair")
    assert resolve("oak.png") == "models/chair/oak.png" and resolve("../a.png") == "models/a.png"


def test_face_colours_become_a_texture_with_a_texel_for_each(tmp_path):
    import trimesh

    mesh = trimesh.creation.box()
    colours = np.random.default_rng(0).integers(0, 256, (12, 4)).astype(np.uint8)
    colours[:, 3] = 255
    mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=colours)
    part = meshes._part_from_trimesh(mesh)
    assert part.colour == (1.0, 1.0, 1.0) and part.opacity == 1.0
    side = part.texture.shape[0]
    assert side == 4
    column = (part.uv[..., 0] * side).astype(int)
    row = ((1 - part.uv[..., 1]) * side).astype(int)
    for corner in range(3):
        np.testing.assert_array_equal(part.texture[row[:, corner], column[:, corner]], colours)
    np.testing.assert_allclose(part.positions, mesh.vertices[mesh.faces])


def test_a_glbs_texture_keeps_its_places_and_is_tinted_by_its_factor():
    import trimesh

    mesh = trimesh.creation.box()
    uv = np.random.default_rng(1).random((8, 2))
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=picture, baseColorFactor=[255, 127, 0, 128]
    )
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    part = meshes._part_from_trimesh(mesh)
    np.testing.assert_array_equal(part.texture[..., :3], np.asarray(picture))
    np.testing.assert_allclose(part.uv, uv[mesh.faces])
    np.testing.assert_allclose(part.colour, (1.0, 0.7346, 0.0), atol=2e-3)
    assert part.opacity == pytest.approx(128 / 255)
    simple = trimesh.visual.material.SimpleMaterial(diffuse=[51, 102, 255, 255])
    mesh.visual = trimesh.visual.TextureVisuals(material=simple)
    np.testing.assert_allclose(meshes._part_from_trimesh(mesh).colour, (0.2, 0.4, 1.0))


def test_files_that_cannot_be_read_say_so(tmp_path):
    (tmp_path / "x.glb").write_bytes(b"nonsense")
    with pytest.raises(meshes.BadMesh, match="cannot be read"):
        meshes.read_with_trimesh(tmp_path / "x.glb")
