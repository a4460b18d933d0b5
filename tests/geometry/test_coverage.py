"""Pixels of triangles by hand."""

import numpy as np

from iso3d_jax.geometry import coverage


def inside(corners, point):
    """Barycentric weights of a point in a triangle."""
    a, b, c = corners
    matrix = np.stack([b - a, c - a], -1)
    v, w = np.linalg.solve(matrix, point - a)
    return np.array([1 - v - w, v, w])


def all_fragments(corners, size):
    found = {}
    x, y = np.moveaxis(corners - 0.5, -1, 0)
    for some in coverage.fragments(x, y, size, coverage.SLACK):
        for *key, w in zip(*some, strict=True):
            assert tuple(map(int, key)) not in found
            found[tuple(map(int, key))] = w
    return found


def test_fragments_are_the_pixels_whose_centres_lie_in_triangles():
    """Triangles of many sizes and both orientations, some partly outside; one without area."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(-3, 16, (30, 3, 2))
    corners[:10] = rng.uniform(2, 11, (10, 1, 2)) + rng.uniform(-1.5, 1.5, (10, 3, 2))
    corners[5] = [[2, 2], [3, 3], [6, 6]]
    found = all_fragments(corners, 13)
    want = {}
    for f, corner in enumerate(corners):
        if f == 5:
            continue
        for column, row in np.ndindex(13, 13):
            w = inside(corner, np.array([column + 0.5, row + 0.5]))
            if w.min() >= 0:
                want[(f, column, row)] = w
    assert len(want) > 300 and set(found) == set(want)
    for key, w in want.items():
        np.testing.assert_allclose(found[key], w, atol=1e-6)


def test_centres_on_a_border_belong_to_both_triangles():
    square = np.array([[[0, 0], [4, 0], [0, 4]], [[4, 0], [4, 4], [0, 4]]], float)
    found = all_fragments(square, 4)
    both = {p for f, *p in map(tuple, [(k[0], k[1:]) for k in found]) for p in p if f == 0}
    assert len(found) == 16 + 4 and {(0, 3), (3, 0), (1, 2), (2, 1)} <= both


def test_many_triangles_are_taken_in_parts():
    corners = np.tile(np.array([[0.0, 0.0], [31.0, 1.0], [2.0, 30.0]]), (5000, 1, 1))
    parts = list(coverage.fragments(*np.moveaxis(corners - 0.5, -1, 0), 32))
    counts = np.bincount(np.concatenate([face for face, *_ in parts]), minlength=5000)
    assert (counts == counts[0]).all() and 400 < counts[0] < 500 and len(parts) == 2


def test_no_triangles_cover_nothing():
    nothing = np.zeros((0, 3))
    ((triangle, column, row, weights),) = coverage.fragments(nothing, nothing, 8)
    assert [len(triangle), len(column), len(row)] == [0, 0, 0] and weights.shape == (0, 3)


def test_slack_lets_in_what_lies_just_outside():
    x, y = np.array([[0.0, 4.0, 0.0]]) + 1e-7, np.array([[0.0, 0.0, 4.0]])
    counts = [sum(len(t) for t, *_ in coverage.fragments(x, y, 9, s)) for s in (0.0, 1e-6)]
    assert counts == [10, 15]  # the left column lies a ten-millionth outside


def test_a_corner_on_a_pixels_centre_has_that_pixel():
    found = all_fragments(np.array([[[2.5, 1.5], [6.5, 1.5], [2.5, 5.5]]]), 9)
    assert (0, 2, 1) in found
    np.testing.assert_allclose(found[0, 2, 1], [1, 0, 0], atol=1e-9)
