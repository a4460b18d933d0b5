"""The visual hull against a ball's, and what its loss pulls at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iso3d_jax.geometry.cameras import camera_to_world, get_rays, project
from iso3d_jax.nerf import field
from iso3d_jax.reconstruction import cameras, draft
from iso3d_jax.reconstruction.hull import hull_loss, visual_hull
from iso3d_jax.reconstruction.settings import field_spec

RADIUS = 0.6


def views_of_a_ball(size=48):
    """Two rings of views, and exact masks of a ball about the origin."""
    rings = [cameras.ring(4, 0.0, 40.0, 1.1), cameras.ring(4, 30.0, 40.0, 1.1, start=45.0)]
    views = cameras.Views(*(jnp.concatenate(column) for column in zip(*rings, strict=True)))
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
    spec = field_spec(small_config)
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
    cfg = draft.config_of(small_config, 16)
    cfg.draft.sets = ((0.0, 15.0), (45.0, 0.0))
    sets = np.broadcast_to(red_square, (2, 4, 16, 16, 3))
    cfg.draft.hull = 0.0
    assert draft.source_of(sets, cfg).hull is None
    cfg.draft.hull, cfg.draft.hull_resolution = 1.0, 24
    hull = np.asarray(draft.source_of(sets, cfg).hull)
    assert hull.shape == (24, 24, 24)
    assert hull[11:13, 11:13, 11:13].min() == 1 and hull[:, :, 0].max() == 0
