"""Cameras: a projection round trip, and the properties of each encoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iso3d_jax.geometry import cameras


def test_camera_stands_where_it_should_and_looks_at_the_origin():
    c2w = np.asarray(cameras.camera_to_world(30.0, 90.0, 2.0))
    np.testing.assert_allclose(c2w[:3, 3], [0, 2 * np.cos(np.pi / 6), 1.0], atol=1e-6)
    np.testing.assert_allclose(c2w[:3, 2], c2w[:3, 3] / 2.0, atol=1e-6)  # backward
    np.testing.assert_allclose(c2w[:3, :3] @ c2w[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(c2w[:3, :3]) > 0.999 and c2w[2, 1] > 0  # right-handed, up is up


def test_rays_and_projection_undo_each_other():
    c2w = cameras.camera_to_world(
        np.array([10.0, -5.0]), np.array([40.0, 200.0]), np.array([2.0, 3.0])
    )
    rays_o, rays_d = cameras.get_rays(c2w, np.array([35.0, 50.0]), 6, 8)
    points = np.asarray(rays_o + 1.7 * rays_d)
    for i, fov in enumerate((35.0, 50.0)):
        local = (points[i] - np.asarray(c2w)[i, :3, 3]) @ np.asarray(c2w)[i, :3, :3]
        focal = 0.5 * 6 / np.tan(np.radians(fov) / 2)
        column = local[..., 0] / -local[..., 2] * focal + 4.0
        row = 3.0 - local[..., 1] / -local[..., 2] * focal
        np.testing.assert_allclose(column, np.broadcast_to(np.arange(8) + 0.5, (6, 8)), atol=1e-4)
        np.testing.assert_allclose(
            row, np.broadcast_to(np.arange(6)[:, None] + 0.5, (6, 8)), atol=1e-4
        )


def test_mvdream_matrix_is_the_documented_one():
    s, c = np.sin(np.radians(15)), np.cos(np.radians(15))
    want = [[1, 0, 0, 0], [0, s, -c, -c], [0, c, s, s], [0, 0, 0, 1]]
    got = cameras.camera_condition(np.array([15.0]), np.array([0.0]), "mvdream")
    np.testing.assert_allclose(np.reshape(got, (4, 4)), want, atol=1e-6)


@pytest.mark.parametrize("encoding", cameras.ENCODINGS)
def test_conditioning_wraps_azimuth(encoding):
    elevation = np.full(3, 10.0)
    a = cameras.camera_condition(elevation, np.array([-90.0, 360.0, 725.0]), encoding, 40.0, 3.0)
    b = cameras.camera_condition(elevation, np.array([270.0, 0.0, 5.0]), encoding, 40.0, 3.0)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_harmonics_are_the_documented_numbers():
    a, e = np.radians(35.0), np.radians(22.0)
    waves = [f(k * a) for k in (1, 2, 3, 4, 6) for f in (np.cos, np.sin)]
    height = 5 * (np.sin(e) - np.sin(np.radians(15)))
    want = [*waves, height, *(height * w for w in waves[:4]), height**2]
    got = cameras.camera_condition(np.array([22.0]), np.array([35.0]), "harmonics")
    assert got.shape == (1, 16) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], want, atol=1e-6)


def test_harmonics_with_a_lens_are_the_documented_numbers():
    a, e, f = np.radians(35.0), np.radians(22.0), np.radians(50.0)
    waves = [g(k * a) for k in (1, 2, 3, 4) for g in (np.cos, np.sin)]
    height = 5 * (np.sin(e) - np.sin(np.radians(15)))
    lens = (np.tan(f / 2) - 0.35) / 0.13, (np.log(2.3 * np.tan(f / 2)) - 0.07) / 0.04
    want = [*waves, height, *(height * w for w in waves[:4]), height**2, *lens]
    angles = np.full((2, 3), 22.0), np.full((2, 3), 35.0)
    for fov_deg, distance in ((50.0, 2.3), (np.full((2, 1), 50.0), np.full((2, 3), 2.3))):
        got = cameras.camera_condition(*angles, "harmonics_lens", fov_deg, distance)
        assert got.shape == (2, 3, 16) and got.dtype == np.float32
        np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=2e-6)
    assert cameras.distance_of(50.0, 1.2) == pytest.approx(1.2 / np.tan(f / 2))


def test_a_lens_tells_cameras_apart_that_angles_do_not():
    """Each view's own; the range of a data set comes out at about unit size."""
    tangent = np.tan(np.radians(np.linspace(15, 60, 100)) / 2)
    scale = np.linspace(1.0, 1.15, 100)
    zero = np.zeros(100)
    near = cameras.camera_condition(
        zero, zero, "harmonics_lens", np.linspace(15, 60, 100), scale / tangent
    )[:, -2:]
    assert abs(near.mean(0)).max() < 0.2 and (abs(near.std(0) - 1) < 0.2).all()
    assert (np.diff(near, axis=0) > 0).all()


@pytest.mark.parametrize("lens", [(), (40.0,), (None, 3.0)])
def test_an_encoding_with_a_lens_does_not_go_without_one(lens):
    with pytest.raises(ValueError, match="wants fields of view and distances"):
        cameras.camera_condition(np.zeros(2), np.zeros(2), "harmonics_lens", *lens)


def test_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="isotropic3d"):
        cameras.camera_condition(np.zeros(1), np.zeros(1), "radians")


def test_orthogonal_azimuths():
    np.testing.assert_allclose(cameras.orthogonal_azimuths(300.0, 4), [300, 30, 120, 210])


def matrix(elevation_deg, azimuth_deg, distance):
    """The OpenGL camera by its definition, float64: columns right, up, backward and position."""
    e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
    backward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(backward, right), backward, distance * backward], -1)
    return c2w


def test_a_batch_of_cameras_is_one_matrix_each():
    elevation = np.array([[-20.0], [50.0]])
    azimuth = np.array([130.0, 250.0, -40.0])
    distance = np.array([[2.5, 0.5, 1.0], [3.0, 4.0, 5.0]])
    for kind in (np.asarray, jnp.asarray):
        c2w = cameras.camera_to_world(kind(elevation), kind(azimuth), kind(distance))
        assert isinstance(c2w, np.ndarray) == (kind is np.asarray)  # numpy's stay numpy's
        assert c2w.shape == (2, 3, 4, 4) and c2w.dtype == np.float32
        for i, j in np.ndindex(2, 3):
            want = matrix(elevation[i, 0], azimuth[j], distance[i, j])
            np.testing.assert_allclose(c2w[i, j], want, atol=1e-6)
    assert np.linalg.norm(cameras.camera_to_world(10.0, 20.0)[:3, 3]) == pytest.approx(1.0)


def test_azimuth_is_counted_from_the_reference_and_wrapped():
    got = cameras.relative_azimuth(np.array([10.0, 350.0, 95.0, 30.0]), 350.0)
    np.testing.assert_allclose(got, [20.0, 0.0, 105.0, 40.0])
    np.testing.assert_allclose(cameras.relative_azimuth(350.0, np.array([10.0, 340.0])), [340, 10])


def test_released_cameras_convert_degrees_to_radians_twice():
    """With elevations that differ from view to view; azimuth 0 is on -y, 90 degrees behind."""
    elevation, azimuth = np.array([[15.0, 30.0, -8.0]] * 2), np.array([[40.0, 130.0, 310.0]] * 2)
    azimuth[1] -= 360.0
    once = np.pi / 180.0
    for name, times in (("isotropic3d", [1, 1, 1]), ("isotropic3d_sampling", [1, 2, 3])):
        got = cameras.camera_condition(elevation, azimuth, name)
        assert got.shape == (2, 3, 16) and got.dtype == np.float32
        for k in range(3):
            want = matrix(elevation[0, k] * once ** times[k], azimuth[0, k] * once - 90.0, 1.0)
            np.testing.assert_allclose(got[0, k], want.reshape(16), atol=1e-6)
        np.testing.assert_allclose(got[1], got[0], atol=1e-6)


def test_true_angles_and_libraries():
    elevation, azimuth = np.array([5.0, 25.0]), np.array([70.0, 200.0])
    got = cameras.camera_condition(elevation, azimuth, "mvdream")
    for k in range(2):
        want = matrix(elevation[k], azimuth[k] - 90.0, 1.0).reshape(16)
        np.testing.assert_allclose(got[k], want, atol=1e-6)
    assert isinstance(got, np.ndarray)
    for encoding in cameras.ENCODINGS:
        ours = cameras.camera_condition(jnp.asarray(elevation), azimuth, encoding, 40.0, 3.0)
        assert isinstance(ours, jax.Array) and ours.dtype == jnp.float32
        np.testing.assert_allclose(
            ours, cameras.camera_condition(elevation, azimuth, encoding, 40.0, 3.0), atol=2e-6
        )


def test_orthogonal_azimuths_of_many_groups():
    got = cameras.orthogonal_azimuths(jnp.array([[10.0, 300.0]]), 3)
    np.testing.assert_allclose(got, [[[10, 130, 250], [300, 60, 180]]], atol=1e-4)


def test_rays_are_unit_vectors_from_the_camera_through_pixel_centres():
    """One ray by hand: 6 rows, 10 columns, vertical field of view."""
    c2w = cameras.camera_to_world(jnp.array([[25.0]]), jnp.array([[110.0]]), 2.0)
    rays_o, rays_d = cameras.get_rays(c2w, jnp.array([[50.0]]), 6, 10)
    assert rays_o.shape == rays_d.shape == (1, 1, 6, 10, 3)
    np.testing.assert_allclose(np.linalg.norm(rays_d, axis=-1), 1.0, rtol=1e-6)
    want = matrix(25.0, 110.0, 2.0)
    np.testing.assert_allclose(rays_o, np.broadcast_to(want[:3, 3], rays_o.shape), atol=1e-6)
    tangent = np.tan(np.radians(25.0))  # of half the field of view, at the upper edge
    local = np.array([(7.5 - 5) / 3 * tangent, (3 - 1.5) / 3 * tangent, -1.0])
    ray = want[:3, :3] @ local
    np.testing.assert_allclose(rays_d[0, 0, 1, 7], ray / np.linalg.norm(ray), atol=1e-6)


ANGLES = st.tuples(st.floats(-80, 80), st.floats(-400, 800), st.floats(0.5, 4), st.floats(10, 100))


@jax.jit
def there_and_back(elevation, azimuth, distance, fov, row, column, along):
    """Where a point on the ray of a pixel is projected, in pictures of 5 rows and 9 columns."""
    c2w = cameras.camera_to_world(elevation, azimuth, distance)
    rays_o, rays_d = cameras.get_rays(c2w, fov, 5, 9)
    point = rays_o[row, column] + along * rays_d[row, column]
    return jnp.stack(cameras.project(point[None], c2w, fov, 5, 9))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(ANGLES, st.integers(0, 4), st.integers(0, 8), st.floats(0.1, 5.0))
def test_the_ray_of_a_pixel_passes_through_what_is_projected_on_it(camera, row, column, along):
    place = there_and_back(*camera, row, column, along)
    np.testing.assert_allclose(place[:, 0], [row, column], atol=2e-3)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.floats(-89, 89), st.floats(0, 359), st.integers(-3, 3))
def test_whole_turns_change_no_condition(elevation, azimuth, turns):
    """Nor do they change the camera; the condition of the released weights is not periodic."""
    places = np.float32(azimuth), np.float32(azimuth) + np.float32(360 * turns)
    for encoding in cameras.ENCODINGS:
        a, b = (cameras.camera_condition(np.array([elevation]), np.array([p]), encoding, 40.0, 3.0)
                for p in places)  # fmt: skip
        np.testing.assert_allclose(a, b, atol=2e-4)
    a, b = (cameras.camera_to_world(elevation, p, 2.0) for p in places)
    np.testing.assert_allclose(a, b, atol=5e-4)
    radians = cameras.camera_condition(np.array([0.0]), np.array([azimuth]), "isotropic3d")
    turned = np.radians(np.radians(azimuth))
    want = [np.sin(turned), -np.cos(turned)]  # where the camera stands, of 6.3 degrees in all
    np.testing.assert_allclose(radians[0, [3, 7]], want, atol=1e-6)
