"""Rendering of a field: against a float64 loop, packed samples against a dense render."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.geometry import cameras
from iso3d_jax.nerf import field, occupancy, render
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec

FIELD = FieldSpec(levels=3, log2_table_size=10, base_resolution=4, growth=1.6, hidden=16)
STEP = 2.0 / 48
DENSE = RenderSpec(step_size=STEP, bound="sphere", candidates=48, samples=48, alpha_threshold=0,
                   early_stop=0)  # fmt: skip
PACKED = RenderSpec(step_size=STEP, bound="sphere", candidates=30, samples=20,
                    alpha_threshold=1e-4, early_stop=1e-4)  # fmt: skip


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def grid_updates(density, occs, first, last, resolution):
    """Updates of the occupancy grid in iterations first .. last - 1."""

    def body(step, occs):
        return occupancy.update(
            jax.random.fold_in(jax.random.key(0), step), occs, density, step,
            resolution=resolution, radius=1.0, step_size=STEP,
        )  # fmt: skip

    return jax.lax.fori_loop(first, last, body, occs)


@partial(jax.jit, static_argnums=(4,))
def picture(params, rays_o, rays_d, grid, spec, key=None):
    return render.render(key, params, rays_o, rays_d, grid, spec, FIELD)


@pytest.fixture(scope="module")
def scene():
    """A blob with structure, its rays and its occupancy."""
    params = field.init(jax.random.key(0), FIELD)
    grid = tuple(jax.random.normal(jax.random.key(i), g.shape) * 0.5 for i, g in
                 enumerate(params["encoding"]))  # fmt: skip
    params = params | {"encoding": grid}
    c2w = cameras.camera_to_world(jnp.array([10.0, 20.0]), jnp.array([30.0, 200.0]), 3.0)
    rays = [r.reshape(-1, 3) for r in cameras.get_rays(c2w, jnp.full(2, 38.0), 12, 12)]
    occs = grid_updates(lambda x: field.density(params, x, FIELD), occupancy.init(32), 0, 4, 32)
    return params, *rays, occupancy.grid(occs, 1e-4, STEP)


def loop_weights(density, length, ray):
    weights, light, last = [], 1.0, None
    for d, s, r in zip(density, length, ray, strict=True):
        light = 1.0 if r != last else light
        alpha = 1 - np.exp(-np.float64(d) * np.float64(s))
        weights.append(light * alpha)
        light, last = light * (1 - alpha), r
    return np.array(weights)


def test_weights_match_a_float64_loop():
    rng = np.random.default_rng(0)
    ray = np.sort(rng.integers(0, 40, 500)).astype(np.int32)
    density = (rng.exponential(3.0, 500) * (rng.random(500) < 0.7)).astype(np.float32)
    density[rng.integers(0, 500, 5)] = 1e4
    length = rng.uniform(0.01, 0.2, 500).astype(np.float32)
    weights, _ = render.composite_weights(density, length, ray, longest=64)
    want = loop_weights(density, length, ray)
    np.testing.assert_allclose(weights, want, atol=2e-6)
    sums = render.per_ray(weights, ray, 40)
    np.testing.assert_allclose(sums, np.bincount(ray, want, 40), atol=5e-6)
    slope = jax.grad(lambda d: jnp.sum(render.composite_weights(d, length, ray, 64)[0][::3]))
    got, index, step = np.asarray(slope(jnp.asarray(density))), 117, 1e-4
    change = np.eye(500)[index] * step
    ahead, behind = (loop_weights(density + s * change, length, ray)[::3].sum() for s in (1, -1))
    np.testing.assert_allclose(got[index], (ahead - behind) / (2 * step), atol=1e-5)


def test_whole_rendering_matches_a_loop(scene):
    params, rays_o, rays_d, _ = scene
    rendering, _, _ = picture(params, rays_o, rays_d, None, DENSE)
    evaluate = jax.jit(lambda x: field.density_and_albedo(params, x, FIELD))
    for r in (0, 66, 130, 200):
        o, d = np.asarray(rays_o[r], np.float64), np.asarray(rays_d[r], np.float64)
        middle, gap = -o @ d, 1 - np.sum((o - (o @ d) * d) ** 2)
        if gap <= 0:
            assert rendering.opacity[r] == 0 and np.all(rendering.rgb[r] == 1)
            continue
        t = middle - np.sqrt(gap) + (np.arange(48) + 0.5) * STEP
        density, colour = evaluate(jnp.asarray(o + t[:, None] * d, jnp.float32))
        density = density * (t < middle + np.sqrt(gap))
        w = loop_weights(density, np.full(len(t), STEP), np.zeros(len(t)))
        np.testing.assert_allclose(rendering.opacity[r], w.sum(), atol=2e-5)
        want = w @ np.asarray(colour) + (1 - w.sum())
        np.testing.assert_allclose(rendering.rgb[r], want, atol=3e-5)
        np.testing.assert_allclose(rendering.depth[r], w @ t, atol=1e-4)


def test_packed_render_is_within_a_hundredth_of_the_dense_one(scene):
    params, rays_o, rays_d, grid = scene
    target = jax.random.uniform(jax.random.key(9), rays_o.shape)

    def loss(params, grid, spec):
        rgb = render.render(None, params, rays_o, rays_d, grid, spec, FIELD)[0].rgb
        return jnp.mean((rgb - target) ** 2), rgb

    value = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    (_, dense), dense_slope = value(params, None, DENSE)
    (_, packed), packed_slope = value(params, grid, PACKED)
    wanted = picture(params, rays_o, rays_d, grid, PACKED)[0].wanted
    assert jnp.all(wanted <= 1), wanted  # nothing was thinned
    assert float(jnp.abs(dense - packed).max()) < 0.01
    for a, b in zip(jax.tree.leaves(dense_slope), jax.tree.leaves(packed_slope), strict=True):
        assert jnp.linalg.norm(a - b) < 0.02 * jnp.linalg.norm(a)


def test_too_few_slots_keep_the_optical_depth(scene):
    params, rays_o, rays_d, grid = scene
    few = RenderSpec(step_size=STEP, bound="sphere", candidates=4, samples=4,
                     alpha_threshold=0, early_stop=0)  # fmt: skip
    rendering, samples, _ = picture(params, rays_o, rays_d, grid, few)
    dense, _, _ = picture(params, rays_o, rays_d, None, DENSE)
    assert float(rendering.wanted[0]) > 1
    np.testing.assert_allclose(rendering.wanted[0], rendering.wanted[1])
    assert bool(jnp.all(jnp.diff(samples.ray) >= 0))
    np.testing.assert_allclose(
        jnp.sum(samples.length), rendering.wanted[0] * 4 * len(rays_o) * STEP, rtol=2e-3
    )
    assert float(jnp.mean(jnp.abs(rendering.opacity - dense.opacity))) < 0.05


def test_chunks_change_nothing(scene):
    params, rays_o, rays_d, grid = scene
    chunked = dataclasses.replace(PACKED, chunk=300)
    a = picture(params, rays_o, rays_d, grid, PACKED, jax.random.key(1))[0]
    b = picture(params, rays_o, rays_d, grid, chunked, jax.random.key(1))[0]
    np.testing.assert_allclose(a.rgb, b.rgb, atol=1e-6)
