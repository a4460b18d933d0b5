"""Remeshing: quads of even size, what becomes of polygons, and quads in an OBJ file."""

import sys

import numpy as np
import pytest
import trimesh

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.mesh import files, isosurface, remeshing, texture


@pytest.fixture(scope="module")
def ring():
    return trimesh.creation.torus(0.6, 0.25, major_sections=96, minor_sections=48)


@pytest.mark.parametrize("kind, corners", [("quads", 4), ("triangles", 3)])
def test_faces_are_even_and_the_surface_stays(ring, kind, corners, capfd):
    said = []
    found = remeshing.remesh(ring, kind, 600, lambda *words: said.append(words))
    count = found.quads if kind == "quads" else len(found.mesh.faces)
    assert count == pytest.approx(600, rel=0.25) and found.open_edges == 0
    assert found.quads == (len(found.mesh.faces) // 2 if kind == "quads" else 0)
    assert isosurface.bad_edges(found.mesh) == 0 and found.mesh.volume > 0
    assert found.mesh.volume == pytest.approx(ring.volume, rel=0.05)
    tube = np.hypot(np.linalg.norm(found.mesh.vertices[:, :2], axis=1) - 0.6,
                    found.mesh.vertices[:, 2])  # fmt: skip
    np.testing.assert_allclose(tube, 0.25, atol=0.006)
    area = found.mesh.area_faces
    area = area.reshape(-1, 2).sum(1) if kind == "quads" else area
    assert area.std() < 0.35 * area.mean()
    assert said == [(f"remeshing {len(ring.faces)} faces to 600 {kind}", 0, 0)]
    assert capfd.readouterr() == ("", "")  # the library says much


SQUARES = np.array(
    [[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [4, 0, 0], [3.5, 1, 0], [5, 1, 0]], float
)


def test_polygons_become_triangles_by_hand():
    """Two quads, cut along their shorter diagonals; one with a corner twice; one that is none."""
    polygons = np.array([[0, 1, 2, 3], [1, 4, 5, 2], [4, 6, 5, 5], [4, 4, 6, 6]])
    found = remeshing.polygons_to_triangles(SQUARES, polygons)
    want = [[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2], [4, 6, 5]]
    np.testing.assert_array_equal(found.mesh.faces, want)
    # of nine edges two lie between two polygons; the line is an edge of the last two
    assert found.quads == 2 and found.open_edges == 7
    leaning = SQUARES * [1, 1, 0]
    leaning[5] = [8.0, 1, 0]
    found = remeshing.polygons_to_triangles(leaning, polygons[:2])
    np.testing.assert_array_equal(found.mesh.faces[2:], [[4, 5, 2], [4, 2, 1]])


def test_faces_are_turned_in_pairs():
    faces = np.array([[0, 1, 2], [0, 2, 3], [7, 8, 9]])
    np.testing.assert_array_equal(remeshing.turn(faces, 1), [[0, 3, 2], [0, 2, 1], [7, 9, 8]])


def test_an_obj_file_has_quads_but_where_the_unwrapping_cut_them(tmp_path):
    """A box of quads, each cut in two by hand; the first is unwrapped apart."""
    corners = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]], np.float32
    )
    vertices = np.concatenate([corners, corners[[0, 2]]])  # 6 and 7: the second chart's 0 and 2
    faces = np.array([[0, 1, 2], [6, 7, 3], [1, 4, 5], [1, 5, 2], [0, 1, 4]])
    uv = np.linspace(0, 1, 16, dtype=np.float32).reshape(8, 2)
    mesh = texture.TexturedMesh(
        vertices, np.tile(np.float32([0, 0, 1]), (8, 1)), uv, faces,
        np.zeros((4, 4, 3), np.uint8), np.zeros((8, 3), np.uint8), quads=2,
    )  # fmt: skip
    np.testing.assert_array_equal(mesh.is_whole(), [False, True])
    np.testing.assert_array_equal(mesh.whole_quads(), [[1, 4, 5, 2]])
    text = files.write(tmp_path / "m.obj", mesh)[0].read_text()
    polygons = [[c.split("/")[0] for c in line.split()[1:]] for line in text.splitlines()
                if line.startswith("f ")]  # fmt: skip
    assert polygons == [list("2563"), list("123"), list("134"), list("125")]
    read = trimesh.load(tmp_path / "m.obj", force="mesh", process=False)
    assert len(read.faces) == 5  # pyright: ignore[reportAttributeAccessIssue]
    plain = mesh._replace(quads=0)
    text = files.write(tmp_path / "t.obj", plain)[0].read_text()
    assert text.count("\nf ") == 5
    glb = trimesh.load(files.write(tmp_path / "m.glb", mesh)[0], force="mesh", process=False)
    assert len(glb.faces) == 5  # pyright: ignore[reportAttributeAccessIssue]


def test_what_cannot_be_remeshed_is_one_sentence(ring, monkeypatch):
    with pytest.raises(UserError, match="remesh is quads or triangles, not 'hexagons'"):
        remeshing.check("hexagons")
    monkeypatch.setattr(remeshing, "_PROGRAM", "import os; os.abort()")
    with pytest.raises(UserError, match=r"remeshing failed \(its process ended with status -6\)"):
        remeshing.remesh(ring, "quads", 600)
    monkeypatch.setattr(remeshing, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(remeshing, "SECONDS", 0.5)
    with pytest.raises(UserError, match="it took more than 0 s"):
        remeshing.remesh(ring, "quads", 600)
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(UserError, match=r"pynanoinstantmeshes.*iso3d_jax\[remesh\]"):
        remeshing.check("quads")
    assert "pynanoinstantmeshes" not in sys.modules
