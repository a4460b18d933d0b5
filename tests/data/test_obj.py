"""OBJ and MTL files as people have them: corners, materials, textures, and what is noted."""

import io

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data import obj as obj_files
from iso3d_jax.data import obj_lines
from iso3d_jax.data.beside import NotThere
from iso3d_jax.data.meshes import BadMesh


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


def reader(stored):
    """Reads from a dict, by exact names."""

    def read_file(name):
        if name not in stored:
            raise NotThere(f"{name} is not there")
        return stored[name]

    return read_file


NOTES: list[str] = []


@pytest.fixture(autouse=True)
def no_notes():
    NOTES.clear()


def read(text=OBJ, **files):
    stored = {"a b.mtl": MTL.encode(), "oak.png": png([[[9, 8, 7]]])} | files
    return obj_files.read_obj(text.encode(), reader(stored), NOTES.append)


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
    assert (wood.colour, wood.opacity) == ((1.0, 1.0, 1.0), 1.0)  # the texture alone
    assert (steel.colour, steel.opacity, steel.texture) == ((0.4, 0.5, 0.6), 0.25, None)
    np.testing.assert_array_equal(wood.texture, [[[9, 8, 7, 255]]])
    assert not NOTES
    plain, _ = read(**{"a b.mtl": b""})
    assert (plain.colour, plain.opacity, plain.texture) == ((0.8, 0.8, 0.8), 1.0, None)
    assert NOTES == ["the material 'wood' is not there", "the material 'steel' is not there"]
    broken, _ = read(**{"oak.png": b"no picture"})
    assert broken.texture is None and broken.colour == (0.1, 0.2, 0.3)
    assert "oak.png: it is not a picture" in NOTES[-1]
    without = read(OBJ.replace("1/1/1 2/2/1 3/3/2 4/-1/-2", "1 2 3"))[0]
    assert without.texture is None  # a texture needs places
    assert NOTES[-1] == "the texture 'oak.png' has no coordinates"


def test_a_face_that_names_no_vertex_is_refused_at_either_end():
    for face in ("f 1 2 6", "f -6 1 2", "f 0 1 2"):
        with pytest.raises(BadMesh):
            read(OBJ + face + "\n")
    with pytest.raises(BadMesh, match="no vertices"):
        read("f 1 2 3\n")
    assert len(read(OBJ + "f 5 1 2\nf -5 1 2\n")[1].positions) == 4
    # Coordinates and normals that are not there are as good as none.
    (part,) = read("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 1 1\nvn 1 0 0\nf 1/2/2 2/1/1 3/9/9\n")
    np.testing.assert_array_equal(part.uv, [[[0, 0], [1, 1], [0, 0]]])
    np.testing.assert_array_equal(part.normals, [[[0, 0, 1], [1, 0, 0], [0, 0, 1]]])
    # A normal of no length is none.
    (part,) = read("v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 0\nf 1//1 2//1 3//1\n")
    np.testing.assert_array_equal(part.normals, [[[0, 0, 1]] * 3])


def test_lines_of_materials_that_make_no_sense_leave_what_is_there():
    lines = ["newmtl a", "Kd 0.1 0.2 0.3", "Kd 1 2", "d", "Tr", "Tr x", "d 2", "newmtl b", "Tr 1.5"]
    lines += ["newmtl c", "Tr 0.75", "kd -1 0.5 2", "# Kd 1 1 1", "MAP_KD -bm 1 x.png"]
    found = obj_files.parse_mtl("\n".join(lines).encode(), NOTES.append)
    assert found["a"].colour == (0.1, 0.2, 0.3) and found["a"].opacity == 1.0
    assert found["b"].opacity == 1.0 and found["c"].opacity == 0.25
    assert found["c"].colour == (0.0, 0.5, 1.0) and found["c"].texture.file == "x.png"


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3\n"


def coloured(statement, mtl, **files):
    """The part of a triangle whose material is named by `statement`."""
    return read(f"mtllib m.mtl\n{TRIANGLE}usemtl {statement}\n{FACE}", **{"m.mtl": mtl}, **files)[0]


@pytest.mark.parametrize("name", ["\u5168\u7ea2", "r\u00f6t", "\u0418\u0445x"])
@pytest.mark.parametrize("code", ["utf-8", "latin-1"])
def test_names_of_materials_are_of_any_script(name, code):
    """The third holds the byte 0x85 in UTF-8, which ends lines of text in latin-1."""
    if code == "latin-1":
        name = name.encode("latin-1", "ignore").decode("latin-1") or "x\u00e9"
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl {name}\n{FACE}".encode(code)
    mtl = f"newmtl other\nKd 0 0 0\nnewmtl {name}\nKd 0.1 0.2 0.3\n".encode(code)
    (part,) = obj_files.read_obj(text, reader({"m.mtl": mtl}), NOTES.append)
    assert part.colour == (0.1, 0.2, 0.3) and not NOTES


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_the_first_word(mark):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\n{FACE}".encode(mark)
    stored = {"m.mtl": "newmtl a\nKd 0.1 0.2 0.3\n".encode(mark)}
    (part,) = obj_files.read_obj(text, reader(stored), NOTES.append)
    assert part.colour == (0.1, 0.2, 0.3)


def test_lines_go_on_after_a_backslash_and_end_as_on_any_machine():
    for text in (
        "v 0 0 0\nv 1 0 0\nv 0 \\\n1 0\nf 1 \\\n 2 \\\n3\n",
        "v 0 0 0\r\nv 1 0 0\r\nv 0 1 0\r\nf 1 2 \\\r\n3\r\n",
        "v 0 0 0\rv 1 0 0\rv 0 1 0\rf 1 2 3\r",
        "v 0 0 0 # a\nv 1 0 0\nv 0 1 0\nf 1 2 3 # c",
    ):
        (part,) = read(text)
        np.testing.assert_array_equal(part.positions, [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]])


def test_several_libraries_in_one_statement_and_in_several():
    stored = {f"{k}.mtl": f"newmtl {k}\nKd 0.{k} 0 0\n".encode() for k in (1, 2, 3)}
    text = f"mtllib 1.mtl 2.mtl\nmtllib 3.mtl\n{TRIANGLE}"
    text += "".join(f"usemtl {k}\n{FACE}" for k in (1, 2, 3))
    parts = obj_files.read_obj(text.encode(), reader(stored), NOTES.append)
    assert [p.colour[0] for p in parts] == [0.1, 0.2, 0.3] and not NOTES


def test_what_is_missing_is_noted_and_the_rest_is_drawn():
    read(f"mtllib gone.mtl\n{TRIANGLE}usemtl a\n{FACE}")
    assert NOTES == ["no materials: gone.mtl is not there", "the material 'a' is not there"]
    NOTES.clear()
    part = coloured("a", b"newmtl a\nKd 0.5 0 0\nmap_Kd gone.png\n")
    assert NOTES == ["no texture: gone.png is not there"] and part.colour == (0.5, 0.0, 0.0)
    NOTES.clear()
    coloured("a", b"newmtl a\nd 0\n")
    assert NOTES == ["the material 'a' is invisible, by its d"]
    NOTES.clear()
    read(f"{TRIANGLE}{FACE}l 1 2\np 1\n")
    assert NOTES == ["2 lines or points are not drawn"]


def test_d_counts_where_tr_says_something_else():
    for lines in (b"d 1\nTr 1\n", b"Tr 1\nd 1\n"):
        assert coloured("a", b"newmtl a\n" + lines).opacity == 1.0
    assert coloured("a", b"newmtl a\nTr 0.25\n").opacity == 0.75
    assert not NOTES


def test_what_tr_alone_would_hide_is_opaque_as_meshlab_means_it():
    assert coloured("a", b"newmtl a\nTr 1.000000\n").opacity == 1.0
    assert NOTES == ["the material 'a' has Tr 1, which is taken as opaque"]
    assert coloured("a", b"newmtl a\nTr 1\nd 0\n").opacity == 0.0
    assert NOTES[1:] == ["the material 'a' is invisible, by its d"]


def test_options_of_maps_come_before_the_name_and_scale_the_coordinates():
    mtl = b"newmtl a\nmap_Kd -s 2 3 1 -o 0.5 -clamp on -imfchan r my oak.png\n"
    part = coloured("a", mtl, **{"my oak.png": png([[[9, 8, 7]]])})
    np.testing.assert_allclose(part.uv, [[[0.5, 0], [2.5, 0], [0.5, 3]]])
    assert part.wrap == ("clamp", "clamp") and part.texture is not None and not NOTES


def test_vertex_colours_are_srgb_fractions_or_bytes():
    lines = ["v 0 0 0 0.1 0.6 0.2", "v 1 0 0 0.2 0.5 0.1", "v 0 1 0 0 0 1", "f 1 2 3"]
    (part,) = read("\n".join(lines))
    np.testing.assert_allclose(part.tint[0, :, :3], [[0.1, 0.6, 0.2], [0.2, 0.5, 0.1], [0, 0, 1]])
    assert part.colour == (1.0, 1.0, 1.0) and not part.linear
    (part,) = read("v 0 0 0 51 0 0\nv 1 0 0 255 0 0\nv 0 1 0 0 0 0\nf 1 2 3")
    np.testing.assert_allclose(part.tint[0, :, 0], [0.2, 1, 0])
    (part,) = read("v 0 0 0 1 0 0\nv 1 0 0\nv 0 1 0 0 0 0\nf 1 2 3")
    assert part.tint is None and "only some of the vertices" in NOTES[0]


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        ("f 1 2 " + "1" + "0" * 30, "not there"),
        ("f 1 2 " + "1" * 5000, "cannot be read"),
        ("f 1 2 4", "not there"),
        ("v 0 0 1e999\nf 1 2 4", "not finite"),
        ("v 0 0\nf 1 2 3", "not 3 numbers"),
    ],
)
def test_what_no_face_can_be_is_one_sentence(face, reason):
    with pytest.raises(BadMesh, match=reason):
        read(TRIANGLE + face)


def test_polygons_that_turn_inwards_stay_within_their_outline():
    """An L of six corners and an arrow of four, whose fans would cover what is outside."""
    for ring, area in (
        ([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], 3.0),
        ([(0, 0), (1, 1), (0, 3), (-1, 1)], 3.0),
        ([(1, 1), (0, 3), (-1, 0.5), (0.0, 1.0)], None),
    ):
        for turn in (1, -1):
            for axes in ("{0} {1} 0", "0 {0} {1}", "{1} 0 {0}"):
                lines = ["v " + axes.format(*p) for p in ring[::turn]]
                lines += ["f " + " ".join(str(k + 1) for k in range(len(ring)))]
                xyz = read("\n".join(lines))[0].positions
                cross = np.cross(xyz[:, 1] - xyz[:, 0], xyz[:, 2] - xyz[:, 0])
                total = np.linalg.norm(cross, axis=-1).sum() / 2
                x, y = np.array(ring).T
                outline = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
                assert total == pytest.approx(outline) and (area is None or area == outline or area)
                assert (cross @ cross.sum(0) > 0).all()  # all face one way


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(obj_lines, "LONGEST_LINE", 100)
    with pytest.raises(BadMesh, match="a line of more than 100 bytes"):
        read(TRIANGLE + "f" + " 1" * 60)
    with pytest.raises(
        BadMesh, match="a line of more than 100 bytes"
    ):  # and where lines are joined
        read(TRIANGLE + "f" + " 1" * 30 + "\\\n" + " 1" * 30)
    monkeypatch.setattr(obj_lines, "MOST_TRIANGLES", 3)
    monkeypatch.setattr("iso3d_jax.data.meshes.MOST_TRIANGLES", 3)
    with pytest.raises(BadMesh, match="4 triangles, and the most is 3"):
        read(TRIANGLE + FACE * 4)


@pytest.mark.parametrize(
    ("face", "want"),
    [
        ("f 1/1/1 2/2/1 3/3/1", [0, 1, 2]),
        ("f 3/1/1 -2/2/1 1/3/1", [2, 1, 0]),  # some from the end
        ("f 3/1/1 2/2/1 1/3", [2, 1, 0]),
        ("f 3//1 2/2/1/ 1/3/1", [2, 1, 0]),
        ("f 3/1/1 2/2/1 1/3/1 # a/b/c", [2, 1, 0]),
    ],
)
def test_corners_in_every_spelling(face, want):
    (part,) = read(TRIANGLE + "vn 0 0 1\n" + face)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(part.positions, points[[want]])
