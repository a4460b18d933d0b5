"""What a mesh is made of, by hand: densities in chunks, the outline, agreement."""

import numpy as np
import pytest

from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.mesh import drawing
from iso3d_jax.nerf import field, showing
from iso3d_jax.reconstruction import pictures, state, surface
from iso3d_jax.reconstruction.spec import make_spec


def test_points_are_evaluated_in_chunks_of_one_size(small_config, monkeypatch):
    sizes = []

    def density(params, x, spec):
        sizes.append(len(x))
        return params + x[:, 0]

    monkeypatch.setattr(surface, "_density", density)
    monkeypatch.setattr(surface, "CHUNK", 4)
    small_config.render.bound = "box"
    x = np.random.default_rng(0).normal(size=(10, 3))
    found = surface.visible_density(2.0, x, make_spec(small_config))
    np.testing.assert_allclose(found, 2.0 + x[:, 0], rtol=1e-5)
    assert sizes == [4, 4, 4] and found.dtype == np.float32


def test_nothing_is_seen_outside_of_the_sphere_where_rays_are_cut_by_it(small_config, monkeypatch):
    kept = []
    monkeypatch.setattr(
        surface, "_density", lambda p, x, spec: kept.append(spec) or x[:, 0] * 0 + 1
    )
    small_config.field.radius = 0.5
    x = np.array([[0.3, 0.39, 0.0], [0.3, 0.41, 0.0], [0.0, 0.0, -0.499], [0.45, 0.45, 0.45]])
    for bound, want in (("sphere", [1, 0, 1, 0]), ("box", [1, 1, 1, 1])):
        small_config.render.bound = bound
        np.testing.assert_array_equal(surface.visible_density({}, x, make_spec(small_config)), want)
    assert kept[0] == make_spec(small_config).field


def test_the_threshold_that_has_the_outline_of_the_scene(small_config, monkeypatch):
    """Of rays that are opaque above a density of 4: levels from 2.5 to 4 have their outline."""
    opacity = np.array([0.9, 0.6, 0.51, 0.5, 0.2, 0.0] * 20)
    largest = np.array([9.0, 6.0, 4.0, 2.5, 1.0, 0.0] * 20)
    kept = {}

    def shown_views(scene, views, resolution, spec):
        kept.update(views=views, resolution=resolution, spec=spec)
        flat = np.zeros((120, 3))
        yield showing.Shown(flat, 9 * opacity, largest, flat, flat, opacity, largest)

    monkeypatch.setattr(pictures, "shown_views", shown_views)
    threshold, overlap = surface.choose_threshold(
        state.start(make_spec(small_config)), make_spec(small_config)
    )
    assert overlap == 1.0 and threshold == pytest.approx(np.sqrt(2.5 * 4.0), rel=0.06)
    assert kept["spec"] == make_spec(small_config)
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

    def density(params, x, spec):
        inside = 1.0 - np.linalg.norm((x - [0.1, -0.05, 0.0]) / [0.5, 0.3, 0.2], axis=-1)
        speck = 0.08 - np.linalg.norm(x - np.array([-0.5, 0.5, 0.5]), axis=-1)
        value = np.maximum(80.0 * inside, 800.0 * speck)
        return np.maximum(value, 0.0).astype(np.float32)

    class Colour:
        def __init__(self, *given):
            Colour.given = given

        def straight(self, x, normal):
            return np.clip(0.4 + x, 0, 1).astype(np.float32)

        def from_sides(self, x, normal):
            return np.full((len(x), 3), 0.1, np.float32)

    monkeypatch.setattr(surface, "_density", density)
    monkeypatch.setattr(surface, "SurfaceColour", Colour)
    return Colour


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


def test_colours_are_those_that_were_optimised(small_config, uneven):
    """Not those of the sharpened edge; along rays like the turntable's."""
    spec = make_spec(small_config)
    scene = state.start(spec)
    sharp = scene._replace(params=field.sharpen(scene.params, 20.0, 8.0))
    surface.make_mesh(sharp, spec, 20.0)
    params, level, rays, field_spec = uneven.given
    assert params == scene.params and level == 20.0
    assert rays == spec.rays_shown and field_spec == spec.field


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

    def turntable(rgb, opacity):
        return pictures.Turntable(rgb, rgb, opacity, rgb, opacity)

    found = surface.agreement(mesh, turntable(rgb, opacity))
    assert found["psnr_db"] > 45 and found["mask_iou"] > 0.98
    for step in (2, 14):
        turned = turntable(np.roll(rgb, step, 0), np.roll(opacity, step, 0))
        assert surface.agreement(mesh, turned)["psnr_db"] < 35
    dimmed = turntable(rgb // 2, opacity)
    error = np.mean([np.mean((rgb[k] / 255 - rgb[k] // 2 / 255) ** 2) for k in range(0, 16, 2)])
    assert surface.agreement(mesh, dimmed)["psnr_db"] == pytest.approx(
        -10 * np.log10(error), abs=0.1
    )
    half = opacity.copy()
    half[:, :, :16] = 0
    inside = (opacity > 127)[::2]
    want = np.mean([x[:, 16:].sum() / x.sum() for x in inside])
    found = surface.agreement(mesh, turntable(rgb, half))
    assert found["mask_iou"] == pytest.approx(want, abs=0.02)
    empty = turntable(rgb, 0 * opacity)
    assert surface.agreement(mesh, empty)["mask_iou"] == 0.0


def test_what_is_written_and_compared(small_config, uneven, monkeypatch, tmp_path, capsys):
    """With the turntable, and with the scene before its edge was sharpened."""
    frames = [np.full((12, 8, 8, 3), k, np.uint8) for k in range(5)]
    turn, given = pictures.Turntable(*frames), []
    monkeypatch.setattr(
        surface, "agreement", lambda mesh, turn: given.append(turn) or {"psnr_db": len(given)}
    )
    scene = state.start(make_spec(small_config))
    facts = surface.write_mesh(tmp_path / "m.obj", scene, make_spec(small_config), 20.0, 20, turn)
    assert given[0] is turn
    assert [int(x[0, 0, 0, 0]) for x in given[1]] == [3, 1, 4, 3, 4]
    shown = capsys.readouterr().err
    assert shown.index("m.obj: comparing with the scene") < shown.index("m.obj: writing")
    assert facts["psnr_db"] == 1 and facts["as_optimised"] == {"psnr_db": 2}
    assert facts["files"] == ["m.obj", "m.mtl", "m.png"]
    assert facts["bytes"] == sum((tmp_path / name).stat().st_size for name in facts["files"])
    coarse = surface.write_mesh(tmp_path / "m.glb", scene, make_spec(small_config), 20.0, 10)
    assert "psnr_db" not in coarse and coarse["faces"] < facts["faces"]
