"""The cameras of an iteration: their distributions, and the rays of a ring by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from iso3d_jax.geometry import camera_sets

RANGES = camera_sets.CameraSpec(
    fov_deg=(20.0, 50.0), elevation_deg=(-20.0, 40.0), distance=(0.8, 1.2)
)


@jax.jit
def draws(key):
    """4,000 iterations of two groups of three views."""
    keys = jax.random.split(key, 4000)
    return jax.vmap(lambda key: camera_sets.sample_cameras(key, 2, 3, RANGES))(keys)


def test_cameras_are_drawn_from_their_distributions():
    views = camera_sets.Cameras(*(np.asarray(x, np.float64) for x in draws(jax.random.key(0))))
    elevation, azimuth, fov, distance = views
    for values in (elevation, fov, distance):  # a group of views shares them
        assert values.shape == (4000, 2, 3) and (values == values[..., :1]).all()
    low, high = -20.0, 40.0

    def elevations(x):
        """Half of them uniform in degrees, half uniform in height between what degrees stand for
        (threestudio/data/random_multiview.py:50-74)."""
        first, last = (low + 90) / 180, (high + 90) / 180
        share = ((np.sin(np.radians(x)) + 1) / 2 - first) / (last - first)
        return 0.5 * np.clip(share, 0, 1) + 0.5 * np.clip((x - low) / (high - low), 0, 1)

    for group in range(2):
        assert stats.kstest(elevation[:, group, 0], elevations).statistic < 0.03
        uniform = stats.kstest(fov[:, group, 0], stats.uniform(20, 30).cdf).statistic
        assert uniform < 0.03
        scale = distance[:, group, 0] * np.tan(np.radians(fov[:, group, 0]) / 2)
        assert stats.kstest(scale, stats.uniform(0.8, 0.4).cdf).statistic < 0.03
        first = azimuth[:, group, 0]
        assert stats.kstest(first, stats.uniform(0, 120).cdf).statistic < 0.03
        np.testing.assert_allclose(azimuth[:, group] - first[:, None], [[0, 120, 240]] * 4000,
                                   atol=1e-3)  # fmt: skip
    # which of the two it is, is drawn for all groups of an iteration together
    above = np.degrees(np.arcsin(2 * 130 / 180 - 1))  # no height stands for more
    both = (elevation[:, :, 0] > above + 0.01).all(1).mean()
    assert abs(both - 0.5 * ((40 - above) / 60) ** 2) < 0.008  # half of that, were they apart
    scale = distance * np.tan(np.radians(fov) / 2)
    drawn = np.stack([x[:, g, 0] for x in (elevation, azimuth, fov, scale) for g in range(2)])
    apart = np.corrcoef(drawn) - np.eye(8)
    assert np.abs(apart[2:]).max() < 0.06, apart
    assert abs(apart[0, 1]) < 0.2  # the kind is shared and has another mean


def test_a_ring_by_hand():
    views = camera_sets.ring(4, 15.0, 40.0, 1.1, start=20.0)
    np.testing.assert_allclose(views.azimuth_deg, [[20, 110, 200, 290]])
    np.testing.assert_allclose(views.elevation_deg, [[15.0] * 4])
    np.testing.assert_allclose(views.fov_deg, [[40.0] * 4])
    np.testing.assert_allclose(views.distance, [[1.1 / np.tan(np.radians(20))] * 4], rtol=1e-6)
    np.testing.assert_allclose(camera_sets.ring(3, 0.0, 60.0, 1.0).azimuth_deg, [[0, 120, 240]])


def test_rays_lie_view_by_view_row_by_row():
    """Two groups of two cameras that differ in all numbers; float64 by hand."""
    views = camera_sets.Cameras(*(jnp.array(x) for x in (
        [[10.0, 20.0], [-5.0, 40.0]], [[30.0, 140.0], [250.0, 300.0]],
        [[30.0, 40.0], [50.0, 60.0]], [[2.0, 2.5], [3.0, 3.5]],
    )))  # fmt: skip
    rays_o, rays_d, position = views.rays(5)
    assert rays_o.shape == rays_d.shape == (100, 3) and position.shape == (4, 3)
    for k in range(4):
        e, a, fov, distance = (np.float64(x.reshape(-1)[k]) for x in views)
        e, a = np.radians(e), np.radians(a)
        backward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        up = np.cross(backward, right)
        np.testing.assert_allclose(position[k], distance * backward, atol=1e-5)
        for row, column in ((0, 0), (1, 3), (4, 2)):
            t = np.tan(np.radians(fov) / 2)
            ray = -backward + t * ((column - 2) / 2.5 * right + (2 - row) / 2.5 * up)
            index = k * 25 + row * 5 + column
            np.testing.assert_allclose(rays_d[index], ray / np.linalg.norm(ray), atol=1e-5)
            np.testing.assert_allclose(rays_o[index], distance * backward, atol=1e-5)
