"""PLY, STL and OFF: the same square in every spelling, colours, and counts that lie."""

import struct

import numpy as np
import pytest
from gltf_files import png

from iso3d_jax.data.beside import NotThere
from iso3d_jax.data.meshes import BadMesh
from iso3d_jax.data.plain_meshes import read_off, read_stl
from iso3d_jax.data.ply import read_ply

POINTS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
FACES = [[0, 1, 2, 3]]
CORNERS = POINTS[[[0, 1, 2], [0, 2, 3]]]


def ply(form="ascii", faces=FACES, colours=None, face_colours=None, vertices=4, extra=""):
    """A PLY of the square, with colours of its vertices or faces."""
    rgb = "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    text = f"ply\nformat {form} 1.0\n{extra}element vertex {vertices}\n"
    text += "".join(f"property float {c}\n" for c in "xyz") + (rgb if colours is not None else "")
    text += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    text += (rgb if face_colours is not None else "") + "end_header\n"
    rows = []
    for k, p in enumerate(POINTS):
        rows.append(
            [(v, "f") for v in p] + [(c, "B") for c in (() if colours is None else colours[k])]
        )
    for k, face in enumerate(faces):
        more = () if face_colours is None else face_colours[k]
        rows.append([(len(face), "B")] + [(i, "i") for i in face] + [(c, "B") for c in more])
    if form == "ascii":
        return (text + "".join(" ".join(f"{v:g}" for v, _ in row) + "\n" for row in rows)).encode()
    order = "<" if form == "binary_little_endian" else ">"
    out = text.encode()
    for row in rows:
        for value, code in row:
            out += struct.pack(order + code, value if code == "f" else int(value))
    return out


FORMS = ["ascii", "binary_little_endian", "binary_big_endian"]


def read(data, notes=None, **stored):
    def read_file(name):
        if name not in stored:
            raise NotThere(f"{name} is not there")
        return stored[name]

    (part,) = read_ply(data, read_file, ([] if notes is None else notes).append)
    return part


@pytest.mark.parametrize("form", FORMS)
def test_plys_of_every_form(form):
    np.testing.assert_array_equal(read(ply(form)).positions, CORNERS)
    mixed = read(ply(form, [[0, 1, 2], [0, 1, 2, 3], [1]]))
    np.testing.assert_array_equal(mixed.positions, np.concatenate([CORNERS[:1], CORNERS]))
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 51, 51]])
    part = read(ply(form, colours=colours))
    np.testing.assert_allclose(part.tint[1, :, :3] * 255, colours[[0, 2, 3]], atol=1e-4)
    assert part.colour == (1.0, 1.0, 1.0) and (part.tint[..., 3] == 1).all()
    part = read(ply(form, [[0, 1, 2], [0, 2, 3]], face_colours=colours))
    np.testing.assert_allclose(part.tint[1, :, :3] * 255, [[0, 255, 0]] * 3, atol=1e-4)


def test_plys_with_a_texture_have_it_or_a_note():
    text = ply(extra="comment TextureFile oak.png\n").replace(
        b"property float z\n", b"property float z\nproperty float s\nproperty float t\n"
    )
    lines = text.split(b"\n")
    at = lines.index(b"end_header") + 1
    for k in range(4):
        lines[at + k] += b" 0.%d 0.5" % k
    part = read(b"\n".join(lines), **{"oak.png": png([[[1, 2, 3]]])})
    np.testing.assert_allclose(part.uv[1], [[0, 0.5], [0.2, 0.5], [0.3, 0.5]], atol=1e-6)
    assert part.texture.tolist() == [[[1, 2, 3, 255]]]
    notes = []
    assert read(b"\n".join(lines), notes).texture is None
    assert notes == ["no texture: oak.png is not there"]
    read(ply(extra="comment TextureFile oak.png\n"), notes)
    assert notes[-1] == "the PLY's texture has no coordinates"


@pytest.mark.parametrize("form", FORMS)
def test_what_a_ply_says_is_checked_against_its_bytes(form):
    whole = ply(form)
    for data, said in (
        (ply(form, vertices=10**12), "more than its bytes can hold"),
        (whole[:-3], "ends too soon|is no numbers|bytes can hold"),
        (ply(form, [[0, 1, 99]]), "names a vertex that is not there"),
        (ply(form, [[0, 1, -1]]), "names a vertex that is not there"),
        (ply(form, []), "no faces"),
        (ply(form, [[0, 1]]), "no triangles"),
        (whole.replace(b"float x", b"float w"), "no vertices"),
        (whole.replace(b"end_header", b"end_heades"), "header"),
        (whole.replace(b"uchar int", b"uchar xyz"), "cannot be read: 'property list uchar xyz"),
        (whole.replace(b"element vertex 4", b"element vertex -4"), "cannot be read"),
        (b"play" + whole[3:], "does not begin with ply"),
    ):
        with pytest.raises(BadMesh, match=said):
            read(data)
    short = ply().rpartition(b"4 0 1 2 3")[0]
    with pytest.raises(BadMesh, match="the PLY has fewer rows of 'face' than it says"):
        read(short)


def stl(triangles, declared=None):
    out = b"solid but binary".ljust(80) + struct.pack("<I", declared or len(triangles))
    for corners in triangles:
        out += np.concatenate([[0, 0, 1], np.ravel(corners)]).astype("<f4").tobytes() + b"\0\0"
    return out


def test_stls_binary_and_text():
    (part,) = read_stl(stl(CORNERS))
    np.testing.assert_array_equal(part.positions, CORNERS)
    lines = ["solid x"]
    for corners in CORNERS:
        lines += ["facet normal 0 0 1", " outer loop"]
        lines += [f"  vertex {x} {y} {z}" for x, y, z in corners] + [" endloop", "endfacet"]
    (part,) = read_stl("\r\n".join(lines).encode())
    np.testing.assert_array_equal(part.positions, CORNERS)
    for data, said in (
        (stl(CORNERS, 10**9), "bytes are enough for 2"),
        (b"solid x\nvertex a b c", "not three numbers"),
        (b"solid x\nendsolid", "no triangles"),
        (b"", "no triangles"),
        (stl(CORNERS * np.nan), "not finite"),
    ):
        with pytest.raises(BadMesh, match=said):
            read_stl(data)


def test_offs_with_and_without_colours():
    (part,) = read_off(b"OFF # a square\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    np.testing.assert_array_equal(part.positions, CORNERS)
    (part,) = read_off(b"\t OFF4 1 0 # so too\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    np.testing.assert_array_equal(part.positions, CORNERS)
    text = b"COFF 4 1 0\n0 0 0 255 0 0 255\n1 0 0 0 0 0 1\n1 1 0 0 0 0 1\n0 1 0 0 0 0 1\n3 0 1 2\n"
    (part,) = read_off(text)
    np.testing.assert_array_equal(part.tint[0, :, 0], [1, 0, 0])
    for data, said in (
        (b"OFF\n1000000000 1 0\n", "more than its bytes"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "not there"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n", "end too soon"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 x\n0 1 0\n3 0 1 2\n", "end too soon, or are none"),
        (b"OFF", "end too soon"),
        (b"OFF BINARY\n", "end too soon, or are none"),
        (b"PFF\n", "does not begin with OFF"),
    ):
        with pytest.raises(BadMesh, match=said):
            read_off(data)
