"""The samples of the released recipe's first iteration, against nerfacc 0.5.2's rule by hand.

The scene is the blob, at full size in all its numbers, seen along a few rays. The reference is
numpy in float64: OccGridEstimator.sampling with threestudio's arguments (nerf_volume_renderer.py).
"""

import functools
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.geometry import camera_sets
from iso3d_jax.nerf import occupancy, render
from iso3d_jax.reconstruction import losses, state
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.step import update_occupancy

CONFIG = Path(__file__).parents[2] / "configs" / "reconstruct.py"
STEP = 2 * 1.732 / 512
CELLS = 32


def blob(x):
    """Density of the released geometry before any training, float64."""
    return np.logaddexp(0.0, 10.0 * (1.0 - np.linalg.norm(x, axis=-1) / 0.5))


def nerfacc_opacity(rays_o, rays_d, occs, alpha_thre):
    """Opacity of each ray: steps from the camera, those in occupied cells, those not too thin."""
    binaries = occs > min(occs.mean(), 0.01)
    opacity = np.zeros(len(rays_o))
    t = (np.arange(1000) + 0.5) * STEP  # nothing is farther than 6.7
    for ray, (o, d) in enumerate(zip(rays_o, rays_d, strict=True)):
        x = o + t[:, None] * d
        cell = np.floor((x + 1.0) / 2.0 * CELLS).astype(int)
        inside = ((cell >= 0) & (cell < CELLS)).all(-1)
        i, j, k = np.clip(cell, 0, CELLS - 1).T
        sigma = blob(x[inside & binaries[(i * CELLS + j) * CELLS + k]])
        before = np.exp(-STEP * np.concatenate([[0.0], np.cumsum(sigma)[:-1]]))[: len(sigma)]
        alpha = 1.0 - np.exp(-STEP * sigma)
        alpha = alpha[(before >= 1e-4) & (alpha >= alpha_thre)]
        opacity[ray] = 1.0 - np.prod(1.0 - alpha)
    return opacity


@pytest.fixture(scope="module")
def cfg():
    return make_spec(config_files.load_config(f"{CONFIG}:isotropic3d"))


@pytest.fixture(scope="module")
def scene(cfg):
    """The state of the first iteration when it renders: the grid was measured once."""
    return jax.jit(lambda s: update_occupancy(s, jax.random.key(5), cfg))(state.start(cfg))


@pytest.fixture(scope="module")
def seen(cfg):
    """(rgb, opacity) and scalars of rays, as in a training iteration."""
    weight = types.SimpleNamespace(orientation=10.0, sparsity=0.0, opaque=0.0)
    fn = functools.partial(losses._scene, spec=cfg, weight=weight)
    return jax.jit(lambda params, grid, rays: fn(
        tuple(jax.random.split(jax.random.key(1))), (params, grid, None, None), rays
    ))  # fmt: skip


def test_the_first_iteration_has_the_samples_that_nerfacc_takes(cfg, scene, seen):
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[np.arange(CELLS)] * 3, indexing="ij"), -1).reshape(-1, 3)
    mean = np.mean(blob((corners + rng.random(corners.shape)) * 2 / CELLS - 1) * STEP)
    occs = np.asarray(scene.occs, np.float64)
    grid = state.make_grid(scene, cfg)
    assert occs.mean() == pytest.approx(mean, rel=0.01) and mean == pytest.approx(1.33e-3, rel=0.01)
    assert float(grid.alpha_threshold(0.01, STEP)) == pytest.approx(occs.mean(), rel=1e-5)

    rays = camera_sets.ring(1, 15.0, 40.0, 0.8, start=20.0).rays(24)[:2]  # as near as cameras come
    (_, opacity), scalars = seen(scene.params, grid, rays)
    assert float(scalars["wanted_candidates"]) <= 1 and float(scalars["wanted_samples"]) <= 1
    opacity = np.asarray(opacity)
    o, d = (np.asarray(x, np.float64) for x in rays)
    want = nerfacc_opacity(o, d, occs, min(0.01, occs.mean()))
    assert np.mean(want > 0) == pytest.approx(0.43, abs=0.02)
    np.testing.assert_allclose(opacity, want, atol=5e-3)  # the offsets along the rays differ
    assert float(scalars["hit"]) == pytest.approx(np.sum(want > 0), abs=1)

    # and with the constant alone, as if there were no mean
    _, constant = seen(scene.params, grid._replace(mean=jnp.float32(1e9)), rays)
    other = nerfacc_opacity(o, d, occs, 0.01)
    assert np.mean(other > 0) == pytest.approx(0.25, abs=0.02)
    assert float(constant["hit"]) == pytest.approx(np.sum(other > 0), abs=1)
    assert np.abs(want - other).max() > 0.3
    assert 1.65 < np.sum(want > 0) / np.sum(other > 0) < 1.85


def test_the_preset_has_room_for_the_samples_of_its_first_iteration(cfg, scene, seen):
    """At both resolutions, drawn cameras of each; how many rays a view has changes no average."""
    grid = state.make_grid(scene, cfg)
    for phase, (_, _, groups) in enumerate(cfg.phases):
        for seed in range(3):
            key = jax.random.fold_in(jax.random.key(seed), phase)
            views = camera_sets.sample_cameras(key, groups, cfg.views, cfg.camera)
            shares = []
            for group in range(groups):  # one after another: the slots are shared evenly
                rays = camera_sets.Cameras(*(x[group] for x in views)).rays(12)[:2]
                scalars = seen(scene.params, grid, rays)[1]
                shares.append([float(scalars[name]) for name in losses.WANTED])
            wanted = np.mean(shares, 0)
            assert (wanted > 0.3).all() and (wanted <= 1).all(), (phase, seed, wanted)


def test_pictures_drop_what_was_too_thin_to_be_optimised(cfg, scene):
    """Half as long steps keep samples at the same density, both where the mean is lower and not."""
    grid, whole = state.make_grid(scene, cfg), cfg.rays
    half = cfg.rays_shown
    assert half.step_size == whole.step_size / 2
    for mean in (grid.mean, jnp.float32(100.0)):
        thin, wide = (
            grid._replace(mean=mean).alpha_threshold(spec.alpha_threshold, spec.step_size)
            for spec in (half, whole)
        )
        assert float(thin) == pytest.approx(float(wide) / 2)


def test_thinned_samples_are_dropped_at_the_same_density(cfg, scene):
    """A candidate that stands for several steps is as thin as one of them."""
    rays = camera_sets.ring(1, 15.0, 40.0, 0.8, start=20.0).rays(12)[:2]
    spec = render.RenderSpec(candidates=8.0, samples=8.0)
    grid = occupancy.Grid(scene.occs > 0, jnp.float32(1e9))  # more cells than there is room for
    place = jax.jit(render.place_samples, static_argnums=(5, 6))
    samples, wanted = place(None, scene.params, *rays, grid, spec, cfg.field)
    assert float(wanted[0]) > 4 and float(samples.length.max()) > 4 * STEP
    x = np.asarray(render.points(*rays, samples.ray, samples.t), np.float64)
    thinnest = blob(x)[np.asarray(samples.valid)].min()
    assert 0.01 <= 1 - np.exp(-thinnest * STEP) + 1e-4 < 0.02
