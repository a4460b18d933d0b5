"""What cameras see of a mesh: where they stand, which pixel shows which point; by hand."""

import numpy as np
import pytest

from iso3d_jax.metrics import surface_points

# A small triangle in front of a large one, both across the +x camera's view.
NEAR = np.array([[0.3, -0.1, 0.25], [0.3, 0.1, 0.25], [0.3, 0.0, 0.45]])
FAR = np.array([[-0.2, -0.9, -0.6], [-0.2, 0.9, -0.6], [-0.2, 0.0, 1.2]])


def test_cameras_stand_thirty_degrees_up_and_go_round_counter_clockwise():
    axes, position = surface_points.camera_axes(90.0, 30.0)
    np.testing.assert_allclose(position, [0, 1.5 * np.cos(np.pi / 6), 0.75], atol=1e-12)
    np.testing.assert_allclose(axes[0], [-1, 0, 0], atol=1e-12)  # right
    np.testing.assert_allclose(axes[1], [0, -0.5, np.cos(np.pi / 6)], atol=1e-12)  # up
    np.testing.assert_allclose(axes[2], position / 1.5, atol=1e-12)  # backward
    assert (
        surface_points.AZIMUTHS_DEG[:3] == (0.0, 22.5, 45.0)
        and len(surface_points.AZIMUTHS_DEG) == 16
    )


def project(point, azimuth_deg, size):
    """(column, row) of a point by the 35 mm lens on a 32 mm sensor; pixel centres are whole."""
    a, e = np.radians(azimuth_deg), np.radians(30.0)
    position = 1.5 * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    forward = -position / 1.5
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    up = np.cross(right, forward)
    offset = point - position
    depth = offset @ forward
    x, y = 35 / 32 * (offset @ right) / depth, 35 / 32 * (offset @ up) / depth
    return (0.5 + x) * size - 0.5, (0.5 - y) * size - 0.5


@pytest.mark.parametrize("azimuth_deg", [0.0, 22.5, 337.5])
def test_each_hit_lies_on_the_line_through_its_pixel_and_the_nearest_triangle_shows(azimuth_deg):
    vertices, faces = np.concatenate([FAR, NEAR]), np.arange(6).reshape(2, 3)
    size = 24
    triangle, points = surface_points.first_hits(vertices, faces, azimuth_deg, size)
    assert set(triangle) == {0, 1}
    where = np.array([project(point, azimuth_deg, size) for point in points])
    np.testing.assert_allclose(where, np.round(where), atol=1e-6)
    pixels = np.round(where).astype(int)
    assert len({tuple(p) for p in pixels}) == len(points)  # one point a pixel
    numbers = pixels[:, 1] * size + pixels[:, 0]
    assert (np.diff(numbers) > 0).all()
    # Points are on their triangle's plane: x is constant on each.
    np.testing.assert_allclose(points[triangle == 0, 0], -0.2, atol=1e-9)
    np.testing.assert_allclose(points[triangle == 1, 0], 0.3, atol=1e-9)
    # Nothing of the large one shows where the small one stands in front.
    corners = np.array([project(point, azimuth_deg, size) for point in NEAR])
    low, high = corners.min(0), corners.max(0)
    behind = pixels[triangle == 0]
    centre = np.round(corners.mean(0)).astype(int)
    assert not (behind == centre).all(-1).any()
    assert ((pixels[triangle == 1] >= np.floor(low)) & (pixels[triangle == 1] <= high + 1)).all()


def test_pixels_of_a_triangle_by_hand():
    """Corners (0, 0), (4, 0), (0, 4): 15 pixel centres; nearness falls off along the columns."""
    x, y = np.array([[0.0, 4.0, 0.0]]), np.array([[0.0, 0.0, 4.0]])
    nearness = np.array([[1.0, 5.0, 1.0]])
    pixels, triangle, weights, near = surface_points.rasterize(x, y, nearness, 6)
    want = [row * 6 + column for row in range(5) for column in range(5 - row)]
    assert list(pixels) == want and not triangle.any()
    column = pixels % 6
    np.testing.assert_allclose(near, 1.0 + column)
    np.testing.assert_allclose(weights @ x[0], column)
    np.testing.assert_allclose(weights @ y[0], pixels // 6)
    turned = surface_points.rasterize(
        x[:, ::-1], y[:, ::-1], nearness[:, ::-1], 6
    )  # the other winding
    np.testing.assert_array_equal(turned[0], pixels)
    # A second one nearer at the left edge alone, and partly outside the picture.
    x, y = np.concatenate([x, [[-3.0, 1.0, -3.0]]]), np.concatenate([y, [[0.0, 0.0, 9.0]]])
    nearness = np.concatenate([nearness, [[1.5, 1.5, 1.5]]])
    pixels, triangle, _, near = surface_points.rasterize(x, y, nearness, 6)
    shown = dict(zip(pixels.tolist(), triangle.tolist(), strict=True))
    assert shown[0] == 1 and shown[1] == 0 and shown[2] == 0
    picture = surface_points.nearest(x, y, nearness, 6)
    assert picture[0, 0] == 1.5 and picture[0, 2] == 3.0 and np.isneginf(picture[5, 5])
    np.testing.assert_array_equal(np.isfinite(picture).ravel().nonzero()[0], pixels)
    np.testing.assert_allclose(picture.ravel()[pixels], near)


def test_a_triangle_seen_from_its_edge_shows_nothing():
    line = np.array([[0.0, 2.0, 4.0]])
    assert len(surface_points.rasterize(line, line, np.ones((1, 3)), 6)[0]) == 0


def test_points_of_one_small_cube_become_their_mean():
    points = np.array([[0.0, 0, 0], [0.004, 0, 0], [0.009, 0, 0], [0.012, 0, 0], [0.5, 0.2, 0.1]])
    normals = np.eye(3)[[0, 1, 2, 0, 1]]
    mean, kept = surface_points.thinned(points, normals)
    order = np.argsort(mean[:, 0])
    want = [[0.013 / 3, 0, 0], [0.012, 0, 0], [0.5, 0.2, 0.1]]
    np.testing.assert_allclose(mean[order], want, atol=1e-12)
    # The middle one of the three is the nearest to their mean.
    np.testing.assert_array_equal(kept[order], np.eye(3)[[1, 0, 1]])
    nothing = np.zeros((0, 3))
    assert [len(part) for part in surface_points.thinned(nothing, nothing)] == [0, 0]
    with pytest.raises(ValueError, match="cannot be seen from any side"):
        surface_points.together([(nothing, nothing)])


def test_normals_are_the_triangles_and_of_unit_length():
    # Counter-clockwise seen from +x: the normal points there.
    sides = surface_points.seen(NEAR * [1, 3, 1], np.array([[0, 1, 2]]), size=32)
    assert len(sides) == 16
    points, normals = sides[0]
    assert len(points) > 3
    np.testing.assert_allclose(normals, np.broadcast_to([1.0, 0, 0], normals.shape), atol=1e-12)


def test_together_keeps_points_and_normals_apart():
    rng = np.random.default_rng(0)
    points = [rng.uniform(2, 3, (5, 3)), rng.uniform(4, 5, (4, 3))]
    normals = [np.tile([0.0, 0, 1], (5, 1)), np.tile([1.0, 0, 0], (4, 1))]
    found, directions = surface_points.together(list(zip(points, normals, strict=True)))
    assert found.min() >= 2 and len(found) == len(directions) > 1
    wanted = np.where(found[:, :1] < 3.5, [[0.0, 0, 1]], [[1.0, 0, 0]])
    np.testing.assert_array_equal(directions, wanted)
