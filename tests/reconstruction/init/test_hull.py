"""The visual hull against a ball's, and what its loss pulls at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.cameras import camera_to_world, get_rays, project
from iso3d_jax.nerf import field
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.init.hull import cell_middles, hull_loss, visual_hull
from iso3d_jax.reconstruction.spec import make_spec

RADIUS = 0.6


def views_of_a_ball(size=48):
    """Two rings of views, and exact masks of a ball about the origin."""
    rings = [camera_sets.ring(4, 0.0, 40.0, 1.1), camera_sets.ring(4, 30.0, 40.0, 1.1, start=45.0)]
    views = camera_sets.Cameras(*(jnp.concatenate(column) for column in zip(*rings, strict=True)))
    rays_o, rays_d, _ = views.rays(size)
    nearest = jnp.linalg.norm(
        rays_o - jnp.sum(rays_o * rays_d, -1, keepdims=True) * rays_d, axis=-1
    )
    return views, (nearest < RADIUS).astype(jnp.float32).reshape(8, size, size)


def points(resolution=32):
    axis = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def test_projection_undoes_rays():
    c2w = camera_to_world(jnp.array([10.0, 30.0]), jnp.array([20.0, 250.0]), jnp.array([2.0, 3.0]))
    fov = jnp.array([35.0, 50.0])
    rays_o, rays_d = get_rays(c2w, fov, 6, 8)
    for k in range(2):
        on_rays = (rays_o[k] + 1.7 * rays_d[k]).reshape(-1, 3)
        row, column = project(on_rays, c2w[k], fov[k], 6, 8)
        np.testing.assert_allclose(
            row.reshape(6, 8), np.arange(6)[:, None] + np.zeros(8), atol=1e-4
        )
        np.testing.assert_allclose(column.reshape(6, 8), np.zeros((6, 1)) + np.arange(8), atol=1e-4)


def test_hull_of_a_ball_is_the_ball_and_a_little_more():
    views, mask = views_of_a_ball()
    hull = np.asarray(visual_hull(mask, views, resolution=32, radius=1.0)) > 0.5
    ball = np.linalg.norm(points(), axis=-1) < RADIUS
    assert (hull & ball).sum() > 0.97 * ball.sum()  # but for half a pixel
    assert ball.sum() / (hull | ball).sum() > 0.8  # eight views leave corners
    empty = visual_hull(mask.at[3].set(0.0), views, resolution=32, radius=1.0)
    assert float(empty.max()) == 0  # what one picture rules out is out


def test_the_loss_fills_the_hull_and_empties_the_rest(small_config):
    views, mask = views_of_a_ball()
    hull = visual_hull(mask, views, resolution=16, radius=1.0)
    spec = make_spec(small_config).field
    params = field.init(jax.random.key(0), spec)

    def loss(params):
        return hull_loss(params, hull, jax.random.key(1), spec, points=4096, step_size=0.08)

    begin, tx = float(loss(params)), optax.adam(0.03)
    opt_state, slope = tx.init(params), jax.jit(jax.grad(loss))
    for _ in range(60):
        updates, opt_state = tx.update(slope(params), opt_state)
        params = optax.apply_updates(params, updates)
    assert float(loss(params)) < 0.8 * begin
    place = points(16).reshape(-1, 3).astype(np.float32)
    density = np.asarray(field.density(params, jnp.asarray(place), spec)).reshape(16, 16, 16)
    assert density[np.asarray(hull) > 0.9].mean() > 3 * density[np.asarray(hull) < 0.1].mean()


def test_a_draft_has_the_hull_of_all_its_sets_where_it_is_asked_for(small_config, red_square):
    cfg = small_config
    cfg.draft.sets = ((0.0, 15.0), (45.0, 0.0))
    sets = np.broadcast_to(red_square, (2, 4, 16, 16, 3))
    cfg.draft.hull = 0.0
    assert draft.make_source(sets, make_spec(cfg)).hull is None
    cfg.draft.hull, cfg.draft.hull_resolution = 1.0, 24
    hull = np.asarray(draft.make_source(sets, make_spec(cfg)).hull)
    assert hull.shape == (24, 24, 24)
    assert hull[11:13, 11:13, 11:13].min() == 1 and hull[:, :, 0].max() == 0


def test_cells_lie_with_x_slowest():
    middles = np.asarray(cell_middles(3, 0.6)).reshape(3, 3, 3, 3)
    axis = [-0.4, 0.0, 0.4]
    np.testing.assert_allclose(middles[:, 1, 2], [[x, 0.0, 0.4] for x in axis], atol=1e-6)
    np.testing.assert_allclose(middles[2, 0, :], [[0.4, -0.4, z] for z in axis], atol=1e-6)


def test_hull_of_an_uneven_ball_off_the_middle_cell_by_cell():
    """Masks are formulas of row and column; each cell has the least of its places in them."""
    rings = [
        camera_sets.ring(2, 10.0, 50.0, 1.3, start=30.0),
        camera_sets.ring(2, -20.0, 60.0, 1.2, 80.0),
    ]
    views = camera_sets.Cameras(*(jnp.concatenate(column) for column in zip(*rings, strict=True)))
    row, column = np.mgrid[:20, :20] / 20.0
    slopes = ((0.3, 0.1), (-0.2, 0.4), (0.1, -0.3), (0.2, 0.25))
    masks = np.stack([0.4 + a * row + b * column for a, b in slopes])
    hull = np.asarray(visual_hull(jnp.asarray(masks), views, resolution=5, radius=0.5))
    for cell in ((0, 0, 0), (4, 1, 2), (1, 3, 0), (2, 2, 4), (0, 4, 3)):
        x = (np.array(cell) + 0.5) / 5 - 0.5
        values = []
        for k, (a, b) in enumerate(slopes):
            e, azimuth, fov, distance = (float(v.reshape(-1)[k]) for v in views)
            e, azimuth, focal = np.radians(e), np.radians(azimuth), 10 / np.tan(np.radians(fov) / 2)
            backward = np.array([np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth),
                                 np.sin(e)])  # fmt: skip
            right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
            away = x - distance * backward
            u = 9.5 + focal * (away @ right) / -(away @ backward)
            v = 9.5 - focal * (away @ np.cross(backward, right)) / -(away @ backward)
            values.append(0.4 + a * v / 20 + b * u / 20)  # linear, as the interpolation is
        np.testing.assert_allclose(hull[cell], min(values), atol=1e-4)


def test_what_lies_outside_of_a_picture_is_not_ruled_out_by_it():
    views = camera_sets.ring(1, 0.0, 20.0, 0.3)  # so near that it sees the middle alone
    hull = visual_hull(jnp.zeros((1, 8, 8)), views, resolution=9, radius=1.0)
    assert float(hull[4, 4, 4]) == 0.0 and float(hull[4, 0, 4]) == 1.0
    assert float(hull[4, 4, 0]) == 1.0


def test_what_lies_outside_of_a_picture_may_be_ruled_out_and_nothing_behind_a_camera():
    views = camera_sets.ring(1, 0.0, 20.0, 0.3)
    mask = jnp.ones((1, 8, 8))
    hull = visual_hull(mask, views, jnp.zeros(1), resolution=9, radius=1.0)
    assert float(hull[4, 4, 4]) == 1.0 and float(hull[4, 0, 4]) == 0.0
    near = camera_sets.Poses(camera_to_world(jnp.zeros(1), jnp.zeros(1), 0.1), jnp.full(1, 90.0))
    hull = visual_hull(0 * mask, near, jnp.zeros(1), resolution=9, radius=1.0)
    assert float(hull[0, 4, 4]) == 0.0 and float(hull[8, 4, 4]) == 1.0  # at x = 0.9, behind it


def test_the_loss_compares_each_point_with_its_own_cell(monkeypatch):
    """A field that is as opaque as the hull says, cell by cell, in a box of another radius."""
    rng = np.random.default_rng(0)
    hull = rng.uniform(0.1, 0.9, (3, 3, 3))
    spec = field.FieldSpec(radius=0.75)
    kept = {}

    def density(params, x, spec):
        kept["x"] = x
        cell = jnp.floor((x + 0.75) / 0.5).astype(jnp.int32)
        wanted = jnp.asarray(hull)[cell[:, 0], cell[:, 1], cell[:, 2]]
        kept["wanted"] = wanted
        return -jnp.log(1 - jnp.abs(wanted - params)) / 0.05

    monkeypatch.setattr(field, "density", density)

    @jax.jit
    def loss(params, key):
        value = hull_loss(params, jnp.asarray(hull), key, spec, points=900, step_size=0.05)
        return value, kept

    for params in (0.0, 0.05):
        value, seen = loss(params, jax.random.key(1))
        wanted = np.asarray(seen["wanted"], np.float64)
        opacity = np.abs(wanted - params)
        want = -np.mean(wanted * np.log(opacity) + (1 - wanted) * np.log(1 - opacity))
        np.testing.assert_allclose(value, want, rtol=1e-4)
    x = np.asarray(seen["x"], np.float64)
    assert x.shape == (900, 3) and np.abs(x).max() <= 0.75
    for axis in range(3):  # all over the box, and each coordinate drawn apart
        np.testing.assert_allclose(np.histogram(x[:, axis], 3, (-0.75, 0.75))[0], 300, atol=60)
    assert np.abs(np.corrcoef(x.T) - np.eye(3)).max() < 0.15
    inside = (x + 0.75) / 0.5 % 1.0
    assert np.abs(inside.mean(0) - 0.5).max() < 0.05 and inside.min() < 0.05
    assert inside.max() > 0.95
    other = np.asarray(loss(0.0, jax.random.key(2))[1]["x"])
    assert np.abs(other[:50] - x[:50]).max() > 0.5
