"""Triangles and their normals, number by number, and the turn to our world."""

import numpy as np
import pytest

from iso3d_jax.data import meshes
from iso3d_jax.data.meshes import Part


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


def test_many_faces_at_few_vertices_cost_no_more_than_many_vertices_do():
    """A hub of 400 vertices with 264,000 faces has 1,980 of them at each."""
    hub = np.full(400, 1980)
    assert meshes._largest_fan(hub) < 1980
    ordinary = np.concatenate([np.full(100_000, 6), [1500]])
    assert meshes._largest_fan(ordinary) == meshes.LARGEST_FAN
    for degrees in (hub, ordinary, np.arange(1, 3000), np.full(2_000_000, 3)):
        compared = degrees[degrees <= meshes._largest_fan(degrees)].astype(np.int64)
        assert (compared**2).sum() <= meshes.PAIRS_OF_FACES + 64 * degrees.sum()


def test_too_many_triangles_and_coordinates_beyond_measure_are_refused():
    with pytest.raises(meshes.BadMesh, match="2,000,001 triangles, and the most is 2,000,000"):
        meshes.check_count(2_000_001)
    with pytest.raises(meshes.BadMesh, match="not finite"):
        meshes.to_world([triangle(size=1e300)])


def test_a_reason_is_one_line_whatever_it_quotes():
    error = meshes.BadMesh("a node \ud800 and\n\x1b[31m a line " + "x" * 900)
    assert str(error).isprintable() and len(str(error)) < 520 and "a node" in str(error)
