"""Cameras: a projection round trip, and the properties of each encoding."""

import numpy as np
import pytest

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
    a = cameras.camera_condition(elevation, np.array([-90.0, 360.0, 725.0]), encoding)
    b = cameras.camera_condition(elevation, np.array([270.0, 0.0, 5.0]), encoding)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_harmonics_are_the_documented_numbers():
    a, e = np.radians(35.0), np.radians(22.0)
    waves = [f(k * a) for k in (1, 2, 3, 4, 6) for f in (np.cos, np.sin)]
    height = 5 * (np.sin(e) - np.sin(np.radians(15)))
    want = [*waves, height, *(height * w for w in waves[:4]), height**2]
    got = cameras.camera_condition(np.array([22.0]), np.array([35.0]), "harmonics")
    assert got.shape == (1, 16) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], want, atol=1e-6)


def test_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="isotropic3d"):
        cameras.camera_condition(np.zeros(1), np.zeros(1), "radians")


def test_orthogonal_azimuths():
    np.testing.assert_allclose(cameras.orthogonal_azimuths(300.0, 4), [300, 30, 120, 210])
