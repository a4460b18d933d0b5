"""Cameras of the scene as the viewer's, and captions of views."""

import numpy as np
import pytest

from iso3d_jax.data import transforms
from iso3d_jax.pages.captions import describe_cameras, label_views, pick_some
from iso3d_jax.pages.orbits import Orbit, orbit_of


def look_at(position, centre=(0, 0, 0)):
    """A camera of OpenGL's at a place, z up, worked out by its three axes."""
    back = np.subtract(position, centre).astype(float)
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(back, right), back, position], 1)
    return c2w


def test_a_camera_before_the_front_is_at_angle_nought():
    orbit = orbit_of(look_at([3, 0, 0]), 40.0)
    assert orbit.orbit == "0.00deg 90.00deg 3.0000m"
    assert orbit.field_of_view == "40.00deg"
    np.testing.assert_allclose(orbit.centre, 0, atol=1e-9)


def test_angles_grow_counter_clockwise_and_are_counted_from_above():
    # +y is the object's left, a quarter counter-clockwise from the front +x, seen from above
    orbit = orbit_of(look_at([0, 2, 2]), 40.0)
    assert orbit.theta_deg == pytest.approx(90) and orbit.phi_deg == pytest.approx(45)
    assert orbit.radius == pytest.approx(np.sqrt(8))


def test_a_camera_that_looks_past_the_middle_looks_at_a_point_in_gltfs_axes():
    # from x = 3 straight at the point y = 0.5, z = 0.25: glTF's axes are y, z, x
    orbit = orbit_of(look_at([3, 0.5, 0.25], [0, 0.5, 0.25]), 40.0)
    assert orbit.target == "0.5000m 0.2500m 0.0000m" and orbit.radius == pytest.approx(3)


def test_a_lens_too_narrow_for_the_viewer_comes_nearer_and_shows_as_much():
    orbit = orbit_of(look_at([300, 0, 0]), 0.5)
    width = orbit.radius * np.tan(np.deg2rad(orbit.fov_deg) / 2)
    assert orbit.fov_deg == 5.0 and width == pytest.approx(300 * np.tan(np.deg2rad(0.25)))


def test_where_nothing_is_known_the_viewer_chooses():
    assert (Orbit().orbit, Orbit().target, Orbit().field_of_view) == (
        "0.00deg 75.00deg auto", "auto auto auto", "auto"
    )  # fmt: skip


def test_captions_are_of_where_cameras_stand(tmp_path):
    c2w = np.stack([look_at(p) for p in ([2, 0, 0], [-2, 2e-9, 0], [0, -2, 2])])
    assert describe_cameras(c2w) == ["0° round, 0° up", "180° round, 0° up", "270° round, 45° up"]
    assert label_views(tmp_path, 4)[1:] == ["90°", "180°", "270°"]  # a ring, of older runs
    names = [f"views/{k:03d}.png" for k in range(3)]
    transforms.write(tmp_path / "transforms.json", names, c2w, np.full(3, 40.0), 64)
    assert label_views(tmp_path, 3) == ["0°: the picture’s side", "180°", "270°"]
    assert pick_some(24) == [0, 3, 7, 10, 13, 16, 20, 23] and pick_some(2) == [0, 1]
