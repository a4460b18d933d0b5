"""Scores of meshes against closed forms: spheres, shifted cubes, planes."""

import dataclasses

import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist

from iso3d_jax.metrics import shapes, surface_points
from iso3d_jax.metrics.isotropy import isotropy

SPHERE = trimesh.creation.icosphere(subdivisions=4, radius=0.5)


def box(low, high):
    return trimesh.creation.box(bounds=[low, high])


def test_normalise_scales_the_longest_side_to_one_and_centres():
    points = shapes.normalise(np.random.default_rng(0).random((50, 3)) * [1, 4, 2] + 5)
    assert np.ptp(points, 0).max() == pytest.approx(1.0)
    np.testing.assert_allclose(points.min(0), -points.max(0))
    with pytest.raises(ValueError, match="no extent"):
        shapes.normalise(np.ones((3, 3)))


def test_chamfer_and_f_score_are_those_of_all_pairs():
    a, b = np.random.default_rng(0).random((2, 60, 3))
    d = cdist(a, b)
    assert shapes.chamfer(a, b) == pytest.approx((d.min(0).mean() + d.min(1).mean()) / 2)
    precision, recall = (d.min(1) <= 0.1).mean(), (d.min(0) <= 0.1).mean()
    want = 2 * precision * recall / (precision + recall)
    assert shapes.f_score(a, b, 0.1) == pytest.approx(want)
    assert shapes.chamfer(a, a) == 0 and shapes.f_score(a, a) == 1
    assert shapes.f_score(a, a + 9) == 0


def test_concentric_spheres_are_apart_by_their_radii():
    rng = np.random.default_rng(1).normal(size=(20_000, 3))
    unit = rng / np.linalg.norm(rng, axis=-1, keepdims=True)
    assert shapes.chamfer(0.5 * unit, 0.4 * unit[::-1]) == pytest.approx(0.1, rel=0.01)


def test_normal_consistency_of_planes_at_an_angle():
    points = np.random.default_rng(2).random((40, 3))
    up = np.broadcast_to([0.0, 0.0, 1.0], points.shape)
    tilted = np.broadcast_to([0.0, np.sin(np.pi / 3), -np.cos(np.pi / 3)], points.shape)
    assert shapes.normal_consistency(points, up, points, -up) == pytest.approx(1.0)
    assert shapes.normal_consistency(points, up, points, tilted) == pytest.approx(0.5)


def test_inside_of_a_sphere_a_box_and_overlapping_bodies():
    centres = (np.arange(64) + 0.5) / 32 - 1
    x = np.stack(np.meshgrid(centres, centres, centres, indexing="ij"), -1)
    radius = np.linalg.norm(x, axis=-1)
    inside = shapes.occupancy(SPHERE.vertices, SPHERE.faces)
    assert inside[radius < 0.498].all() and not inside[radius > 0.5].any()
    first, second = box([-0.5, -0.4, -0.3], [0.2, 0.4, 0.3]), box([0.0, -0.2, -0.4], [0.4, 0.2, 0])
    both = trimesh.util.concatenate([first, second])
    both.faces[::2] = both.faces[::2, ::-1]  # wound either way
    want = ((x > [-0.5, -0.4, -0.3]) & (x < [0.2, 0.4, 0.3])).all(-1) | (
        (x > [0.0, -0.2, -0.4]) & (x < [0.4, 0.2, 0])
    ).all(-1)
    np.testing.assert_array_equal(shapes.occupancy(both.vertices, both.faces), want)


def test_volume_iou_of_a_shifted_cube():
    cube = box([-0.5] * 3, [0.5] * 3)
    shift = 0.25  # 8 cubes of the grid
    a = shapes.occupancy(cube.vertices, cube.faces)
    b = shapes.occupancy(cube.vertices + [shift, 0, 0], cube.faces)
    assert shapes.volume_iou(a, b) == pytest.approx((1 - shift) / (1 + shift))
    assert shapes.volume_iou(a, a) == 1
    assert np.isnan(shapes.volume_iou(a & False, a & False))


def test_what_is_seen_of_a_sphere():
    points, normals = surface_points.visible_points(SPHERE.vertices, SPHERE.faces, size=128)
    radius = np.linalg.norm(points, axis=-1)
    assert 0.495 < radius.min() and radius.max() <= 0.5
    assert (np.abs((points * normals).sum(-1)) / radius).min() > 0.99
    # The lowest tangent from 30 degrees above, 1.5 away: 30 - acos(0.5 / 1.5) degrees.
    lowest = 0.5 * np.sin(np.radians(30) - np.arccos(0.5 / 1.5))
    assert points[:, 2].min() == pytest.approx(lowest, abs=0.02)
    assert points[:, 2].max() == pytest.approx(0.5, abs=0.01)


def test_hidden_surfaces_are_not_seen():
    inner = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    both = trimesh.util.concatenate([SPHERE, inner])
    points, _ = surface_points.visible_points(both.vertices, both.faces, size=64)
    assert np.linalg.norm(points, axis=-1).min() > 0.49


def test_compare_is_perfect_for_the_same_mesh_whatever_its_size_and_place():
    moved = SPHERE.copy()
    moved.apply_transform(trimesh.transformations.scale_matrix(3.0))
    moved.apply_translation([1, 2, 3])
    sphere = shapes.measure(SPHERE, size=64)
    same = shapes.compare(shapes.measure(moved, size=64), sphere)
    assert same["chamfer"] < 1e-6 and same["f_score"] == 1
    assert same["volume_iou"] == pytest.approx(1, abs=1e-3)
    assert same["normal_consistency"] == pytest.approx(1, abs=1e-3)
    cube = shapes.compare(shapes.measure(box([-1] * 3, [1] * 3), size=64), sphere)
    assert cube["volume_iou"] == pytest.approx(np.pi / 6, rel=0.02)  # a ball in its cube
    assert cube["chamfer"] > 0.05 and cube["f_score"] < 0.5


def sides_of(vertices):
    """Scores by side of a deformed sphere (+X is the picture's side) against the sphere."""
    sphere = shapes.measure_as_is(SPHERE.vertices, SPHERE.faces, size=64)
    each = shapes.compare_sides(shapes.measure_as_is(vertices, SPHERE.faces, size=64), sphere)
    azimuth = np.array([surface_points.AZIMUTHS_DEG])
    return each, {k: isotropy(v[None], azimuth) for k, v in each.items()}


def test_a_smaller_sphere_is_as_wrong_from_every_side():
    each, figures = sides_of(0.9 * SPHERE.vertices)
    assert each["distance"].shape == (16,)
    # Most of what is seen of it has its nearest point 0.05 outwards; below, nothing is seen.
    assert each["distance"] == pytest.approx(0.05, rel=0.1)
    assert (each["f_score"] == 0).all() and each["normal_consistency"] == pytest.approx(1, abs=0.02)
    assert figures["distance"]["back_to_front"] == pytest.approx(1, abs=0.03)
    assert figures["distance"]["spread"] < 0.001


def test_a_shape_that_is_wrong_behind_alone():
    x = np.array(SPHERE.vertices)
    x[:, 0] = np.where(x[:, 0] < 0, 0.6 * x[:, 0], x[:, 0])
    each, figures = sides_of(x)
    assert figures["distance"]["back_to_front"] > 3 and figures["f_score"]["back_to_front"] < 0.6
    assert figures["distance"]["octants"][4] > figures["distance"]["octants"][2]
    assert each["f_score"][0] > 0.95
    assert figures["distance"]["spread"] > 1.2 * figures["distance"]["spread_by_chance"]
    mirrored = sides_of(x * [-1, 1, 1])[1]["distance"]  # wrong in front
    assert mirrored["back_to_front"] == pytest.approx(
        1 / figures["distance"]["back_to_front"], rel=0.1
    )


def test_a_side_that_sees_nothing_is_unknown():
    sphere = shapes.measure_as_is(SPHERE.vertices, SPHERE.faces, size=32)
    nothing = np.zeros((0, 3))
    blind = [(nothing, nothing), *sphere.sides[1:]]
    each = shapes.compare_sides(dataclasses.replace(sphere, sides=blind), sphere)
    assert np.isnan(each["distance"][0]) and (each["distance"][1:] < 0.01).all()
    figures = isotropy(each["f_score"][None], np.array([surface_points.AZIMUTHS_DEG]))
    assert figures["octants"] == [1.0] * 8 and sum(figures["views"]) == 15


def test_a_flat_mesh_has_a_frame():
    centre, side = shapes.box_frame(np.array([[1.0, 2, 5], [4, 2, 5], [1, 3, 5]]))
    np.testing.assert_allclose(centre, [2.5, 2.5, 5])
    assert side == 3


def test_vertices_a_ten_millionth_apart_are_one():
    first = np.array([[0.0, 0, 0], [1, 0, 0], [0.1, 1, 0]])
    beside = np.array([[0.1000003, 1, 0], [1, 2, 0], [2, 2, 0]])
    faces = np.arange(6).reshape(2, 3)
    assert shapes.split_parts(np.concatenate([first, beside]), faces)[1] == 1
    assert shapes.split_parts(np.concatenate([first, beside + [1e-5, 0, 0]]), faces)[1] == 2


def test_triangles_larger_than_the_grid_are_crossed_inside_of_it():
    centres = np.linspace(-0.4, 0.4, 5)
    triangle = np.array([[[0.1, -3.0, -3.0], [0.1, 3.0, -3.0], [0.1, 0.0, 3.0]]])
    _, i, j, coordinate = shapes._crossings(triangle, 0, centres)
    np.testing.assert_allclose(coordinate, 0.1)
    assert len(i) == 25 and set(i) == set(j) == set(range(5))
