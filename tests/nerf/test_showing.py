"""What a field shows to people, by hand: a slab of fog whose density and colour are formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.geometry import camera_sets
from iso3d_jax.nerf import field, occupancy, showing
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec
from tests.formulas import use

FIELD = FieldSpec()
STEP = 0.02
NORMAL = np.array([0.8, 0.0, 0.6])


def density(params, x, spec):
    """Denser towards +y."""
    return jnp.where(jnp.abs(x[:, 0]) < 0.3, (1.0 + x[:, 1]) * params["solid"], 0.0)


def colour(x):
    return 0.5 + 0.3 * jnp.sin(3.0 * x)


@pytest.fixture
def slab(monkeypatch):
    use(monkeypatch, density, colour, NORMAL)


def walk(rays_o, rays_d, occupied_half=False):
    """Every step of a ray in the scene: distances, densities and colours; float64."""
    t = np.arange(0, 6, 1e-4)
    x = np.asarray(rays_o, np.float64) + t[:, None] * np.asarray(rays_d, np.float64)
    near = t[(np.abs(x) < 1).all(-1)]
    if not len(near):
        return np.zeros(0), np.zeros(0), np.zeros((0, 3))
    t = np.arange(near[0] + STEP / 2, near[-1], STEP)
    x = np.asarray(rays_o, np.float64) + t[:, None] * np.asarray(rays_d, np.float64)
    value = np.where(np.abs(x[:, 0]) < 0.3, 6.0 * (1.0 + x[:, 1]), 0.0)
    if occupied_half:
        value = np.where(x[:, 1] > 0, value, 0.0)
    return t, value, 0.5 + 0.3 * np.sin(3.0 * x)


def weigh(value, kept):
    tau = np.where(kept, value * STEP, 0.0)
    return np.exp(-(np.cumsum(tau) - tau)) * (1 - np.exp(-tau))


def kept_steps(value, lowest, stop):
    tau = value * STEP
    return (1 - np.exp(-tau) >= lowest) & (np.exp(-(np.cumsum(tau) - tau)) >= stop) & (value > 0)


@pytest.mark.parametrize("points, run", [(1 << 15, 8), (24, 3)])
@pytest.mark.parametrize("edge", [False, True])
def test_rays_show_what_their_steps_say(slab, monkeypatch, points, run, edge):
    """With more rays than slots too; thin and hidden steps do not count; colours are the soft
    field's, opacity and normals those of the edge that is shown."""
    monkeypatch.setattr(showing, "POINTS", points)
    monkeypatch.setattr(showing, "RUN", run)
    params = {"solid": jnp.float32(6.0)}
    params = field.sharpen(params, 5.0, 2.0) if edge else field.with_edge(params)
    occupied = jnp.zeros((4, 4, 4), bool).at[:, 2:].set(True).reshape(-1)  # y > 0
    grid = occupancy.Grid(occupied, jnp.float32(1e6))
    spec = RenderSpec(step_size=STEP, bound="box", alpha_threshold=0.13, early_stop=0.02)
    rays_o, rays_d, _ = camera_sets.ring(2, 5.0, 40.0, 1.1, start=10.0).rays(7)
    shown = jax.jit(lambda p, o, d: showing.render_shown(p, o, d, grid, spec, FIELD))
    found = jax.device_get(shown(params, rays_o, rays_d))
    hits, stopped = 0, 0
    for ray in range(0, 98, 3):
        t, value, seen = walk(rays_o[ray], rays_d[ray], occupied_half=True)
        kept = kept_steps(value, 0.13, 0.02)
        hits, stopped = hits + kept.any(), stopped + (kept.sum() < (value > 0).sum())
        thin = weigh(value, kept)
        solid = weigh(5.0 * (value / 5.0) ** 2, kept) if edge else thin
        mean = thin @ seen / max(thin.sum(), 1e-3)
        near = 0.03  # an edge may fall to either side of a step
        np.testing.assert_allclose(found.opacity[ray], solid.sum(), atol=near)
        np.testing.assert_allclose(found.depth[ray], solid @ t, atol=0.1)
        np.testing.assert_allclose(found.normal[ray], solid.sum() * NORMAL, atol=near)
        np.testing.assert_allclose(found.rgb[ray], solid.sum() * mean + 1 - solid.sum(), atol=near)
        np.testing.assert_allclose(found.optimised_opacity[ray], thin.sum(), atol=near)
        np.testing.assert_allclose(
            found.optimised_rgb[ray], thin @ seen + 1 - thin.sum(), atol=near
        )
        np.testing.assert_allclose(found.densest[ray], (value * kept).max(initial=0), atol=0.3)
    assert 5 < hits < 30 and stopped > 5


def test_slots_change_nothing(slab, monkeypatch):
    """Few at a time, or all at once: the same picture."""
    spec = RenderSpec(step_size=STEP, bound="sphere", alpha_threshold=0.0, early_stop=1e-4)
    rays_o, rays_d, _ = camera_sets.ring(2, 5.0, 40.0, 1.1, start=10.0).rays(9)
    pictures = []
    for points, run in ((1 << 15, 8), (20, 5), (64, 1)):
        monkeypatch.setattr(showing, "POINTS", points)
        monkeypatch.setattr(showing, "RUN", run)
        params = {"solid": jnp.float32(6.0)}
        shown = jax.jit(lambda p, o, d: showing.render_shown(p, o, d, None, spec, FIELD))
        pictures.append(jax.device_get(shown(params, rays_o, rays_d)))
    for other in pictures[1:]:
        for one, two in zip(pictures[0], other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_chunk_is_as_large_as_its_table_may_be():
    half = RenderSpec(step_size=2 / 128, bound="sphere")
    assert showing.rays_at_once(half, FIELD) == (1 << 22) // 128
    assert showing.rays_at_once(RenderSpec(step_size=1.732 / 512), FIELD) == 2048


def test_a_field_with_an_edge_that_changes_nothing():
    params = field.with_edge({"density": 1.0})
    value = jnp.array([0.0, 1e-6, 0.3, 25.0, 4e4])
    np.testing.assert_allclose(field.display_density(value, params), value, rtol=1e-6)
    sharp = field.sharpen({}, 2.0, 3.0)
    assert field.with_edge(sharp) is sharp
