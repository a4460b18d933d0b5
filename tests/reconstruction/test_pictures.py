"""Pictures of a scene: which views in which order, and what lies where on them."""

import imageio.v2 as imageio
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data import grids
from iso3d_jax.geometry import camera_sets
from iso3d_jax.nerf import showing
from iso3d_jax.reconstruction import pictures, state
from iso3d_jax.reconstruction.spec import make_spec


@pytest.fixture
def kept(monkeypatch):
    """Stands for the renderer: a picture of a view holds the view's azimuth, row and column."""
    kept = []

    def make_rays(views, resolution):
        x, y = np.asarray(views.c2w)[:, :2, 3].T
        azimuth = np.degrees(np.arctan2(y, x)) % 360
        row, column = np.mgrid[:resolution, :resolution] / resolution
        at = np.stack(np.broadcast_arrays(azimuth[0] / 360, row, column), -1).reshape(-1, 3)
        kept.append((azimuth, views, resolution))
        return np.float32(at), np.float32(-at)

    def draw(params, rays_o, rays_d, grid, *, spec, field_spec):
        at, row, column = rays_o.T
        np.testing.assert_array_equal(rays_d, -rays_o)
        opacity = 0.25 + 0.5 * row
        normal = np.stack([opacity, -opacity * column, 0 * at], -1)
        kept.append((params, spec, field_spec, grid, len(rays_o)))
        return showing.Shown(
            rays_o, opacity, 2.0 + at, normal, 0.5 * rays_o, 0.5 * opacity, 7.0 + at
        )

    monkeypatch.setattr(pictures, "_make_rays", make_rays)
    monkeypatch.setattr(pictures, "_render_rays", draw)
    monkeypatch.setattr(showing, "rays_at_once", lambda spec, field_spec: 64)
    return kept


@pytest.mark.parametrize("chunk", [16, 32, 1024])
def test_views_are_drawn_in_their_order_whatever_the_chunk(
    small_config, kept, capsys, monkeypatch, chunk
):
    monkeypatch.setattr(showing, "rays_at_once", lambda spec, field_spec: chunk)
    spec = make_spec(small_config)
    scene = state.start(spec)
    views = camera_sets.ring(6, 15.0, 40.0, 1.1, start=10.0)
    rgb, opacity, depth, normal = pictures.render_views(scene, views, 5, spec)
    azimuths = np.array([10, 70, 130, 190, 250, 310])
    assert rgb.shape == normal.shape == (6, 5, 5, 3) and opacity.shape == depth.shape == (6, 5, 5)
    np.testing.assert_allclose(rgb[:, 2, 3] * 360, [[a, 144, 216] for a in azimuths], rtol=1e-5)
    np.testing.assert_allclose(depth[:, 1, 0], 2 + azimuths / 360, rtol=1e-5)
    np.testing.assert_allclose(opacity[0, :, 2], 0.25 + 0.1 * np.arange(5), rtol=1e-5)
    np.testing.assert_allclose(normal[2, 3, 1], [0.55, -0.11, 0], atol=1e-6)
    drawn = [call for call in kept if len(call) == 5]
    assert len(drawn) == -(-150 // chunk)  # and no empty one
    for params, render_spec, field_spec, grid, size in drawn:
        assert size == chunk  # one program for all
        assert "edge" in params and render_spec == spec.rays_shown and field_spec == spec.field
        assert grid.occupied.shape == scene.occs.shape
    for _, part, resolution in (call for call in kept if len(call) == 3):
        assert resolution == 5 and np.all(np.asarray(part.fov_deg) == 40)
        np.testing.assert_allclose(part.c2w[:, 2, 2], np.sin(np.radians(15)), rtol=1e-5)
    assert capsys.readouterr().err == ""
    pictures.render_views(scene, views, 5, spec, "turning")
    assert "turning" in capsys.readouterr().err


def test_normals_as_colours_by_hand():
    normal = np.array([[[0.0, -0.6, 0.8], [0.0, -0.3, 0.4], [0.0, 0.0, 0.0]]])
    opacity = np.array([[1.0, 0.5, 0.0]])
    want = [[[0.5, 0.2, 0.9], [0.75, 0.6, 0.95], [1.0, 1.0, 1.0]]]
    np.testing.assert_allclose(pictures.normal_colours(normal, opacity), want, atol=1e-6)


def test_a_preview_has_colours_above_normals(small_config, kept):
    image = pictures.strip(
        state.start(make_spec(small_config)), make_spec(small_config), 8, views=3
    )
    assert image.shape == (16, 24, 3) and image.dtype == np.uint8
    for k in range(3):
        cell = image[:8, 8 * k : 8 * k + 8]
        np.testing.assert_array_equal(cell[..., 0], round(k / 3 * 255))
        np.testing.assert_array_equal(cell[:, 3, 1], np.round(np.arange(8) / 8 * 255))
        below = image[8 + 4, 8 * k + 2]  # row 4, column 2: opacity .5, normal (.5, -.125, 0)
        np.testing.assert_array_equal(below, np.round(np.array([1.0, 0.6875, 0.75]) * 255))
    poses = kept[0][1]
    assert float(poses.fov_deg[0]) == 40.0
    assert float(poses.c2w[0, 2, 2]) == pytest.approx(np.sin(np.radians(15.0)), rel=1e-5)
    assert pictures.strip(
        state.start(make_spec(small_config)), make_spec(small_config), 4
    ).shape == (8, 16, 3)


def test_some_frames_of_a_turntable_and_their_azimuths():
    frames = np.arange(12, dtype=np.uint8)[:, None, None]
    turn = pictures.Turntable(*(frames + k for k in (0, 50, 100, 150, 200)))
    for count, index in ((4, [0, 3, 6, 9]), (5, [0, 2, 5, 7, 10]), (99, range(12))):
        some, azimuths = turn.some(count)
        np.testing.assert_array_equal(some.rgb[:, 0, 0], index)
        np.testing.assert_array_equal(some.normal[:, 0, 0], np.array(index) + 50)
        np.testing.assert_array_equal(some.opacity[:, 0, 0], np.array(index) + 100)
        np.testing.assert_allclose(azimuths, np.array(index) * 30.0)
    soft = turn.as_optimised()
    assert [int(x[0, 0, 0]) for x in soft] == [150, 50, 200, 150, 200]


def test_a_turntable_s_frames_show_colour_normals_and_opacity_side_by_side(
    small_config, kept, tmp_path, monkeypatch
):
    frames, given = [], {}

    class Writer:
        append_data = frames.append

        def __enter__(self):
            return self

        def __exit__(self, *error):
            given["path"].write_bytes(b"video")

    def get_writer(path, **keys):
        given.update(keys, path=path)
        return Writer()

    monkeypatch.setattr(imageio, "get_writer", get_writer)
    small_config.video.update(frames=6, resolution=20, seconds=2.0)
    turn = pictures.turntable(
        tmp_path / "turn.mp4", state.start(make_spec(small_config)), make_spec(small_config)
    )
    assert (tmp_path / "turn.mp4").read_bytes() == b"video" and given["fps"] == 3
    assert turn.rgb.shape == turn.normal.shape == (6, 20, 20, 3)
    np.testing.assert_array_equal(turn.rgb[:, 0, 0, 0], np.round(np.arange(6) / 6 * 255))
    want = np.round((0.25 + np.arange(20) / 40) * 255)
    np.testing.assert_array_equal(turn.opacity[3, :, 10], want)
    np.testing.assert_array_equal(turn.normal[2, 8, :, 2], round((1 - 0.5 * 0.45) * 255))
    np.testing.assert_array_equal(
        turn.optimised_opacity[3, :, 10], np.round((0.125 + np.arange(20) / 80) * 255)
    )
    colour, normal, grey = np.split(np.stack(frames), 3, 2)
    np.testing.assert_array_equal(colour, turn.rgb)
    np.testing.assert_array_equal(normal, turn.normal)
    np.testing.assert_array_equal(grey, np.repeat(255 - turn.opacity[..., None], 3, -1))
    small_config.video.seconds = 100.0
    pictures.turntable(
        tmp_path / "turn.mp4", state.start(make_spec(small_config)), make_spec(small_config)
    )
    assert given["fps"] == 1  # no less


def test_a_contact_sheet_has_the_picture_and_the_views_above_the_sides(tmp_path):
    cell = np.ones((16, 16, 3), np.float32)
    frames = np.stack([cell * 12 * k for k in range(16)]).astype(np.uint8)
    turn = pictures.Turntable(frames, 255 - frames, frames[..., 0], frames, frames[..., 0])
    views = np.stack([cell * 0.2 * k for k in range(1, 4)])
    pictures.contact_sheet(tmp_path / "sheet.png", 0.9 * cell, views, turn)
    with Image.open(tmp_path / "sheet.png") as image:
        rows = grids.untile(image, pictures.TILE)
    means = [[float(c.mean()) for c in row] for row in rows]
    np.testing.assert_allclose(means[0][:4], 255 * np.array([0.9, 0.2, 0.4, 0.6]), atol=1)
    np.testing.assert_allclose(means[1], 24.0 * np.arange(8), atol=1)
    np.testing.assert_allclose(means[2], 255 - 24.0 * np.arange(8), atol=1)


def test_pixels_of_views_become_rays_with_masks():
    images = np.ones((2, 4, 4, 3), np.float32)
    images[0, 1, 2], images[1, 3, 0] = (0.2, 0.9, 0.9), (0.93, 1.0, 1.0)
    views = camera_sets.ring(2, 15.0, 40.0, 1.1, start=30.0)
    source = pictures.from_views(images, views)
    assert source.hull is None and source.rays_d.shape == (32, 3)
    np.testing.assert_array_equal(source.rgb, images.reshape(-1, 3))
    want = np.zeros(32)
    want[6], want[16 + 12] = 1.0, 0.5
    np.testing.assert_allclose(source.mask, want, atol=1e-5)
    given = pictures.from_views(images, views, jnp.full((2, 4, 4), 0.3), jnp.ones((2, 2, 2)))
    np.testing.assert_allclose(given.mask, 0.3)
    assert given.hull.shape == (2, 2, 2)
