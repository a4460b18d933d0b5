"""What a mesh is made of, by hand: densities in chunks, colours below the surface, silhouettes."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.mesh import drawing
from iso3d_jax.nerf import field, occupancy
from iso3d_jax.reconstruction import pictures, state, surface
from iso3d_jax.reconstruction.spec import make_spec


def test_points_are_evaluated_in_chunks_of_one_size(monkeypatch):
    sizes = []

    def evaluate(params, x, spec):
        sizes.append(len(x))
        return params + x[:, 0], 0.5 * x

    monkeypatch.setattr(surface, "_evaluate", evaluate)
    monkeypatch.setattr(surface, "CHUNK", 4)
    x = np.random.default_rng(0).normal(size=(10, 3))
    density, colour = surface.evaluate(2.0, x, None)
    np.testing.assert_allclose(density, 2.0 + x[:, 0], rtol=1e-5)
    np.testing.assert_allclose(colour, 0.5 * x, rtol=1e-5)
    assert sizes == [4, 4, 4] and density.dtype == colour.dtype == np.float32


def test_nothing_is_seen_outside_of_the_sphere_where_rays_are_cut_by_it(small_config, monkeypatch):
    kept = []
    monkeypatch.setattr(
        surface, "evaluate", lambda p, x, spec: (kept.append(spec), np.ones(len(x)))[1:] * 2
    )
    small_config.field.radius = 0.5
    x = np.array([[0.3, 0.39, 0.0], [0.3, 0.41, 0.0], [0.0, 0.0, -0.499], [0.45, 0.45, 0.45]])
    for bound, want in (("sphere", [1, 0, 1, 0]), ("box", [1, 1, 1, 1])):
        small_config.render.bound = bound
        np.testing.assert_array_equal(surface.visible_density({}, x, make_spec(small_config)), want)
    assert kept[0] == make_spec(small_config).field


def test_the_colour_of_a_surface_is_composited_below_it(monkeypatch):
    """Three steps above it, twelve below; points and normals that differ; float64."""

    def evaluate(params, x, spec):
        assert (params, spec) == ("params", "spec")
        return 4.0 + x[:, 0], 0.5 + 0.3 * np.sin(3.0 * x)

    monkeypatch.setattr(surface, "evaluate", evaluate)
    x = np.array([[0.2, 0.1, -0.3], [-0.5, 0.4, 0.6]], np.float32)
    normal = np.array([[0.0, 0.6, 0.8], [-1.0, 0.0, 0.0]], np.float32)
    got = surface.surface_colour("params", x, normal, 0.05, "spec")
    for k in range(2):
        depth = np.arange(-3, 12) * 0.05
        at = x[k] - depth[:, None] * normal[k]
        tau = (4.0 + at[:, 0]) * 0.05
        w = np.exp(-(np.cumsum(tau) - tau)) * (1 - np.exp(-tau))
        want = w @ (0.5 + 0.3 * np.sin(3 * at)) / (w.sum() + 1e-6)
        np.testing.assert_allclose(got[k], want, rtol=1e-4)


def test_silhouettes_are_the_opacity_and_the_largest_density_of_each_ray(small_config, monkeypatch):
    """A slab of fog that is denser towards +y; occupied in one half of the box only."""

    def density(params, x, spec):
        inside = jnp.abs(x[:, 0]) < 0.3
        return jnp.where(inside, (1.0 + x[:, 1]) * params["solid"], 0.0)

    monkeypatch.setattr(field, "density", density)
    small_config.render.update(step_size=0.02, bound="box", candidates=200.0, samples=200.0,
                               alpha_threshold=0.0, early_stop=0.0)  # fmt: skip
    occupied = jnp.zeros((4, 4, 4), bool).at[:, 2:].set(True).reshape(-1)  # y > 0
    views = camera_sets.ring(2, 5.0, 40.0, 1.1, start=10.0)
    spec = make_spec(small_config).rays
    opacity, largest = surface._silhouettes(
        {"solid": jnp.float32(6.0)}, occupancy.Grid(occupied, jnp.float32(0.0)), views,
        resolution=7, render_spec=spec, field_spec=make_spec(small_config).field,
    )  # fmt: skip
    rays_o, rays_d, _ = views.rays(7)
    t = np.arange(0, 6, 0.002)
    hits = 0
    for ray in range(0, 98, 3):
        x = np.asarray(rays_o[ray], np.float64) + t[:, None] * np.asarray(rays_d[ray], np.float64)
        seen = (np.abs(x) < 1).all(-1) & (np.abs(x[:, 0]) < 0.3) & (x[:, 1] > 0)
        value = np.where(seen, 6.0 * (1 + x[:, 1]), 0.0)
        hits += seen.any()
        np.testing.assert_allclose(opacity[ray], 1 - np.exp(-value.sum() * 0.002), atol=0.05)
        np.testing.assert_allclose(largest[ray], value.max(), atol=0.15)
    assert 5 < hits < 30


def test_the_threshold_that_has_the_outline_of_the_scene(small_config, monkeypatch):
    """Of rays that are opaque above a density of 4: levels from 2.5 to 4 have their outline."""
    opacity = np.array([0.9, 0.6, 0.51, 0.5, 0.2, 0.0] * 20)
    largest = np.array([9.0, 6.0, 4.0, 2.5, 1.0, 0.0] * 20)
    kept = {}

    def silhouettes(params, grid, views, **given):
        kept.update(given, views=views, grid=grid)
        return jnp.asarray(opacity), jnp.asarray(largest)

    monkeypatch.setattr(surface, "_silhouettes", silhouettes)
    threshold, overlap = surface.choose_threshold(
        state.start(make_spec(small_config)), make_spec(small_config)
    )
    assert overlap == 1.0 and threshold == pytest.approx(np.sqrt(2.5 * 4.0), rel=0.06)
    assert kept["render_spec"] == make_spec(small_config).rays_shown
    assert kept["field_spec"] == make_spec(small_config).field
    assert kept["resolution"] == 48 and kept["views"].azimuth_deg.shape == (1, 4)
    np.testing.assert_allclose(kept["views"].azimuth_deg, [[20, 110, 200, 290]])


def test_the_middle_of_the_levels_that_are_alike():
    solid = np.array([True] * 6 + [False] * 4)
    values = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    levels = np.array([0.5, 1.5, 2.5, 3.2, 3.5, 3.9, 4.5, 5.5])
    level, overlap = surface._most_alike(solid, values, levels)
    assert overlap == 1.0 and level == pytest.approx(np.sqrt(3.2 * 3.9))
    level, overlap = surface._most_alike(solid, values, np.array([1.5, 4.5]))
    assert overlap == pytest.approx(5 / 6) and level == pytest.approx(4.5)


def test_levels_to_choose_from_reach_from_the_lowest_to_the_densest():
    density = np.geomspace(0.5, 80.0, 400)
    for want in (1.0, 3.0, 60.0):
        level, overlap = surface.level_like(density, density > want, 0.8)
        assert overlap > 0.9 and level == pytest.approx(want, rel=0.08)
    level, _ = surface.level_like(np.full(5, 0.1), np.ones(5, bool), 3.0)
    assert level == pytest.approx(3.0, rel=1e-3)


def test_a_scene_is_hardened_about_its_surface_where_it_is_asked_for(small_config):
    scene = state.start(make_spec(small_config))
    small_config.show.sharpness = 4.0
    hard = surface.sharpen(scene, make_spec(small_config), 2.5)
    assert hard.params["edge"] == {"level": 2.5, "sharpness": 4.0}
    assert hard.params["density"] is scene.params["density"] and hard.occs is scene.occs
    small_config.show.sharpness = 1.0
    assert surface.sharpen(scene, make_spec(small_config), 2.5) is scene


@pytest.fixture
def uneven(monkeypatch):
    """An ellipsoid off the middle, and a speck: the densities and colours of a scene."""

    def evaluate(params, x, spec):
        inside = 1.0 - np.linalg.norm((x - [0.1, -0.05, 0.0]) / [0.5, 0.3, 0.2], axis=-1)
        speck = 0.08 - np.linalg.norm(x - np.array([-0.5, 0.5, 0.5]), axis=-1)
        value = np.maximum(80.0 * inside, 800.0 * speck)
        return np.maximum(value, 0.0).astype(np.float32), np.clip(0.5 + x, 0, 1).astype(np.float32)

    monkeypatch.setattr(surface, "evaluate", evaluate)


def test_a_mesh_and_what_the_report_says_of_it(small_config, uneven):
    cfg = small_config
    cfg.mesh.update(resolution=32, faces=700, texture=64, remove_outliers=0.05)
    said = []
    mesh, facts = surface.make_mesh(
        state.start(make_spec(cfg)), make_spec(cfg), 20.0, report=lambda *x: said.append(x)
    )
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    size = np.array([0.5, 0.3, 0.2]) * 0.75  # where the density shown is 20
    np.testing.assert_allclose(high - low, 2 * size, atol=0.03)
    np.testing.assert_allclose((high + low) / 2, [0.1, -0.05, 0.0], atol=0.02)
    assert facts["threshold"] == 20.0 and facts["texture"] == 64 and facts["parts"] == 1
    assert facts["faces"] == len(mesh.faces) <= 700 and facts["vertices"] == len(mesh.vertices)
    assert facts["watertight"] is True and facts["edges_not_between_two_triangles"] == 0
    assert mesh.texture.shape == (64, 64, 3) and len(said) > 5
    np.testing.assert_allclose(mesh.colours / 255, np.clip(0.5 + mesh.vertices, 0, 1), atol=0.15)
    cfg.mesh.remove_outliers = 0.0
    cfg.mesh.faces = 100_000
    _, both = surface.make_mesh(state.start(make_spec(cfg)), make_spec(cfg), 20.0, resolution=40)
    assert both["parts"] == 2 and both["faces"] > 2 * facts["faces"]


def test_colours_are_those_that_were_optimised(small_config, uneven, monkeypatch):
    """At the distance of its steps."""
    cfg = small_config
    kept = []

    def colour(params, x, normal, step_size, spec):
        kept.append((step_size, spec))
        return np.zeros((len(x), 3))

    monkeypatch.setattr(surface, "surface_colour", colour)
    surface.make_mesh(state.start(make_spec(cfg)), make_spec(cfg), 20.0)
    assert kept[0] == (cfg.render.step_size, make_spec(cfg).field)


def test_a_mesh_agrees_with_the_pictures_that_it_was_drawn_from(uneven, small_config):
    """And less with those from another side, or with another outline."""
    small_config.mesh.update(resolution=32, faces=2000, texture=128, remove_outliers=0.05)
    mesh, _ = surface.make_mesh(state.start(make_spec(small_config)), make_spec(small_config), 20.0)
    show = pictures.SHOW
    distance = show["scale"] / np.tan(np.radians(show["fov_deg"]) / 2)
    azimuths = np.arange(16) * 22.5
    drawn = [drawing.draw(mesh, np.asarray(camera_to_world(15.0, a, distance)), 40.0, 32)
             for a in azimuths]  # fmt: skip
    rgb = np.round(np.stack([image for image, _ in drawn]) * 255).astype(np.uint8)
    opacity = np.round(np.stack([covered for _, covered in drawn]) * 255).astype(np.uint8)
    found = surface.agreement(mesh, pictures.Turntable(rgb, rgb, opacity))
    assert found["psnr_db"] > 45 and found["mask_iou"] > 0.98
    for step in (2, 14):
        turned = pictures.Turntable(*(np.roll(x, step, 0) for x in (rgb, rgb, opacity)))
        assert surface.agreement(mesh, turned)["psnr_db"] < 35
    dimmed = pictures.Turntable(rgb // 2, rgb, opacity)
    error = np.mean([np.mean((rgb[k] / 255 - rgb[k] // 2 / 255) ** 2) for k in range(0, 16, 2)])
    assert surface.agreement(mesh, dimmed)["psnr_db"] == pytest.approx(
        -10 * np.log10(error), abs=0.1
    )
    half = opacity.copy()
    half[:, :, :16] = 0
    inside = (opacity > 127)[::2]
    want = np.mean([x[:, 16:].sum() / x.sum() for x in inside])
    found = surface.agreement(mesh, pictures.Turntable(rgb, rgb, half))
    assert found["mask_iou"] == pytest.approx(want, abs=0.02)
    empty = pictures.Turntable(rgb, rgb, 0 * opacity)
    assert surface.agreement(mesh, empty)["mask_iou"] == 0.0


def test_what_is_written_and_compared(small_config, uneven, monkeypatch, tmp_path, capsys):
    """With the turntable, and with the scene before its edge was sharpened, from eight sides."""
    turn = pictures.Turntable(*(np.zeros((12, 8, 8, 3), np.uint8),) * 2, np.zeros((12, 8, 8)))
    given = []
    monkeypatch.setattr(surface, "all_round", lambda scene, cfg, count: (scene, count))
    monkeypatch.setattr(
        surface, "agreement", lambda mesh, turn: given.append(turn) or {"psnr_db": len(given)}
    )
    scene = state.start(make_spec(small_config))
    facts = surface.write_mesh(tmp_path / "m.obj", scene, make_spec(small_config), 20.0, 20, turn)
    assert given[0] is turn and given[1][0] is scene and given[1][1] == 8
    shown = capsys.readouterr().err
    assert shown.index("m.obj: comparing with the scene") < shown.index("m.obj: writing")
    assert facts["psnr_db"] == 1 and facts["as_optimised"] == {"psnr_db": 2}
    assert facts["files"] == ["m.obj", "m.mtl", "m.png"]
    assert facts["bytes"] == sum((tmp_path / name).stat().st_size for name in facts["files"])
    coarse = surface.write_mesh(tmp_path / "m.glb", scene, make_spec(small_config), 20.0, 10)
    assert "psnr_db" not in coarse and coarse["faces"] < facts["faces"]
