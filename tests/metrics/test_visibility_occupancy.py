"""The space hidden from outside, of solids and of surfaces that are not closed."""

import numpy as np
import pytest
import trimesh

from iso3d_jax.metrics import shapes
from iso3d_jax.metrics.surface_points import camera_axes
from iso3d_jax.metrics.visibility_occupancy import directions, visibility_occupancy

CENTRES = (np.arange(64) + 0.5) / 32 - 1
GRID = np.stack(np.meshgrid(CENTRES, CENTRES, CENTRES, indexing="ij"), -1)
BOX = trimesh.creation.box(bounds=[[-0.5, -0.4, -0.3], [0.5, 0.4, 0.3]])


def without(mesh, normal):
    """The mesh without the triangles that face a way."""
    kept = mesh.face_normals @ np.asarray(normal) < 0.9
    return mesh.vertices, mesh.faces[kept]


def test_directions_are_unit_vectors_spread_evenly():
    d = np.stack([camera_axes(*angles)[0][2] for angles in directions()])
    assert d.shape == (100, 3)
    np.testing.assert_allclose(np.linalg.norm(d, axis=-1), 1)
    np.testing.assert_allclose(d.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(d.T @ d / len(d), np.eye(3) / 3, atol=0.01)


def test_closed_meshes_have_the_inside_that_crossings_give():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    torus = trimesh.creation.torus(0.35, 0.15)
    for mesh in (sphere, BOX, torus):
        by_crossings = shapes.occupancy(mesh.vertices, mesh.faces)
        sealed = visibility_occupancy(mesh.vertices, mesh.faces, 64)
        assert shapes.volume_iou(by_crossings, sealed) > 0.95


def test_what_is_hidden_does_not_depend_on_winding_or_on_inner_walls():
    inner = trimesh.creation.icosphere(subdivisions=2, radius=0.2)
    both = trimesh.util.concatenate([BOX, inner])
    faces = np.array(both.faces)
    faces[::2] = faces[::2, ::-1]
    np.testing.assert_array_equal(
        visibility_occupancy(both.vertices, faces, 64),
        visibility_occupancy(BOX.vertices, BOX.faces, 64),
    )


def test_walls_with_gaps_keep_their_inside():
    # Four triangles a side, drawn apart: no two share a vertex, and slits of 0.01 lie between.
    vertices = np.array(BOX.subdivide().triangles)
    middle = vertices.mean(1, keepdims=True)
    vertices = (middle + 0.99 * (vertices - middle)).reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    sealed = visibility_occupancy(vertices, faces, 64)
    whole = (np.abs(GRID) < [0.5, 0.4, 0.3]).all(-1)
    assert shapes.volume_iou(sealed, whole) > 0.9
    assert shapes.occupancy(vertices, faces).sum() < 0.1 * whole.sum()  # why crossings do not do


def test_an_open_box_is_hollow_and_a_sheet_is_nothing():
    hollow = visibility_occupancy(*without(BOX, [0, 0, 1]), 64)
    assert hollow.sum() < 0.1 * visibility_occupancy(BOX.vertices, BOX.faces, 64).sum()
    sheet = trimesh.creation.box(bounds=[[-0.5, -0.5, 0], [0.5, 0.5, 0.001]])
    edge = (np.abs(GRID[..., :2]) > 0.45).any(-1)
    assert not visibility_occupancy(sheet.vertices, sheet.faces, 64)[~edge].any()


def test_scores_say_which_truths_are_closed():
    cube = shapes.measure_as_is(BOX.vertices, BOX.faces, size=48)
    # Without its lid: lines along two of the three axes still cross two walls.
    open_one = shapes.measure_as_is(*without(BOX, [0, 0, 1]), size=48)
    scores = shapes.compare(cube, cube)
    assert scores["closed_volume_iou"] == scores["volume_iou"] == scores["sealed_iou"] == 1
    scores = shapes.compare(cube, open_one)
    assert np.isnan(scores["closed_volume_iou"]) and scores["sealed_iou"] < 0.2
    assert scores["volume_iou"] == pytest.approx(1, abs=0.1)  # by crossings it is solid
