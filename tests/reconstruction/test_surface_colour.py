"""The colours of a surface: composited rays by hand, and as bright as the field from its sides."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.mesh import drawing
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec
from iso3d_jax.reconstruction import pictures, state, surface, surface_colour
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.surface_colour import SurfaceColour
from tests.formulas import use

LEVEL, RADIUS, SOFT = 15.0, 0.5, 0.15
STEP = 0.03


def depth(x):
    """Below the outside of a ball's soft rim."""
    return RADIUS + SOFT - jnp.linalg.norm(x, axis=-1)


def density(params, x, spec):
    """`LEVEL` at `RADIUS`; zero at the outside of the rim."""
    return params["rim"] * jnp.maximum(depth(x), 0.0)


def colour(x):
    """Light outside and dark inside, as after a short optimisation on white."""
    return jnp.clip(0.9 - 3.0 * depth(x), 0.1, 0.9)[:, None] * jnp.array([1.0, 0.9, 0.7])


@pytest.fixture
def ball(monkeypatch, small_config):
    """A scene that is such a ball, and its spec."""
    use(monkeypatch, density, colour, (0.0, 0.0, 1.0))
    small_config.render.update(step_size=2 * STEP, bound="sphere", alpha_threshold=0.0)
    small_config.mesh.update(resolution=32, faces=1200, texture=96)
    small_config.show.sharpness = 6.0
    spec = make_spec(small_config)
    scene = state.start(spec)
    params = {"rim": jnp.float32(LEVEL / SOFT)}
    return scene._replace(params=params, occs=jnp.ones_like(scene.occs)), spec


def composited(start, towards, first):
    """A ray from `first` steps before a point to 24 behind it; float64."""
    x = start + np.arange(-first, 24)[:, None] * STEP * towards
    below = RADIUS + SOFT - np.linalg.norm(x, axis=-1)
    tau = STEP * LEVEL / SOFT * np.maximum(below, 0)
    w = np.exp(-(np.cumsum(tau) - tau)) * (1 - np.exp(-tau))
    seen = np.clip(0.9 - 3 * below, 0.1, 0.9)[:, None] * [1.0, 0.9, 0.7]
    return w @ seen / w.sum()


def test_rays_composite_what_is_about_the_surface(ball):
    scene, spec = ball
    colours = SurfaceColour(scene.params, LEVEL, spec.rays_shown, spec.field)
    normal = np.array([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0, -1.0]], np.float32)
    x = RADIUS * normal
    straight = colours.straight(x, normal)
    for k in range(3):
        np.testing.assert_allclose(straight[k], composited(x[k], -normal[k], 6), atol=2e-3)
    added = colours.from_sides(x, normal)
    for k in range(3):
        total, weight = np.zeros(3), 0.0
        for elevation, count, start, counts in surface_colour.SIDES:
            for j in range(count):
                eye = camera_to_world(elevation, start + 360 / count * j, 3.0222)[:3, 3]
                towards = x[k] - np.asarray(eye, float)
                towards /= np.linalg.norm(towards)
                if (share := -counts * towards @ normal[k]) > surface_colour.GRAZING * counts:
                    total += share * composited(x[k], towards, 16)
                    weight += share
        np.testing.assert_allclose(straight[k] + added[k], total / weight, atol=3e-3)


def test_a_side_whose_way_is_blocked_does_not_count(monkeypatch, small_config):
    """A floor below a roof is seen from aside only; where nothing sees it nothing is added."""

    def roofed(params, x, spec):
        solid = (x[:, 2] < 0) | ((x[:, 2] > 0.1) & (jnp.abs(x[:, 0]) < params["roof"]))
        return jnp.where(solid, 200.0, 0.0)

    def half(x):
        return jnp.where(x[:, 2:] > 0.05, 1.0, 0.3) * jnp.ones(3)

    use(monkeypatch, roofed, half, (0.0, 0.0, 1.0))
    spec, shape = RenderSpec(step_size=0.02, bound="box"), FieldSpec()
    x, up = np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32)
    for roof, want in ((0.25, 0.3), (0.9, 0.3)):
        colours = SurfaceColour({"roof": jnp.float32(roof)}, 100.0, spec, shape)
        seen = colours.straight(x + [0, 0, -0.01], up) + colours.from_sides(x, up)
        np.testing.assert_allclose(seen, [[want] * 3], atol=0.02)


def test_a_mesh_is_as_bright_as_the_field_from_the_same_sides(ball, monkeypatch):
    """Within two levels, on the pixels that both fill; looked at from straight above alone the
    mesh is far darker."""
    scene, spec = ball
    sharp = surface.sharpen(scene, spec, LEVEL)
    size = 48
    field, opacity, *_ = pictures.render_views(
        sharp, camera_sets.ring(4, **pictures.SHOW), size, spec
    )

    def differs():
        mesh, _ = surface.make_mesh(scene, spec, LEVEL)
        eyes = (camera_to_world(15.0, 90.0 * k, surface_colour.DISTANCE) for k in range(4))
        drawn = [drawing.draw(mesh, np.asarray(eye), 40.0, size) for eye in eyes]
        texture, covered = (np.stack(x) for x in zip(*drawn, strict=True))
        common = (covered > 0.999) & (opacity > 0.98)
        assert common.mean() > 0.1
        return 255 * float((texture - field)[common].mean())

    assert abs(differs()) < 2.0
    monkeypatch.setattr(SurfaceColour, "from_sides", lambda self, x, normal: np.zeros_like(x))
    assert differs() < -6.0
