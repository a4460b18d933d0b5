"""An object from given pictures with cameras, without a model: the files, the page, going on."""

import dataclasses
import json

import numpy as np
import pytest

import iso3d_jax as iso3d
from iso3d_jax.data.posed_pictures import PosedPictures, load_posed
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.pipeline import find_ring
from iso3d_jax.reconstruction import loop, state
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.spec import make_spec


@pytest.fixture
def posed():
    """Five pictures of a red square, which is a red ball as far as anybody knows."""
    images = np.full((5, 32, 32, 4), 0, np.uint8)
    images[:, 8:24, 8:24] = (230, 20, 20, 255)
    azimuth, elevation = np.arange(5) * 72.0, np.array([20.0, -10, 20, -10, 20])
    c2w = camera_to_world(elevation, azimuth, 3.0).astype(np.float64)
    seen = np.ones((5, 32, 32), bool)
    seen[:, :4] = False
    return PosedPictures(images, c2w, np.full(5, 40.0), seen, "five squares")


def test_a_source_has_the_rays_that_pictures_show(posed, small_config):
    spec = make_spec(small_config)
    source = draft.given_source(posed, spec)
    assert len(source.rays_o) == len(source.rgb) == len(source.mask) == 5 * 28 * 32
    np.testing.assert_allclose(source.rays_o[0], posed.c2w[0, :3, 3], rtol=1e-6)
    # the first pixel seen: row 4, column 0
    tan = np.tan(np.radians(20.0))
    local = np.array([-1 + 1 / 32, 1 - 9 / 32, -1 / tan]) @ posed.c2w[0, :3, :3].T
    np.testing.assert_allclose(source.rays_d[0], local / np.linalg.norm(local), atol=1e-6)
    assert float(source.mask.sum()) == 5 * 256
    hull = np.asarray(draft.given_hull(posed, spec))
    middle = hull.shape[0] // 2
    assert hull[middle, middle, middle] == 1 and hull[0, middle, 0] == 0


def test_an_object_of_given_pictures(posed, small_config, tmp_path, capsys):
    small_config.draft.steps = small_config.steps = 20
    seen = []
    made = iso3d.reconstruct_posed(
        posed, out=tmp_path, config=small_config, name="squares",
        on_step=lambda step, total, picture: seen.append((step, total)),
    )  # fmt: skip
    assert seen == [(0, 20), (20, 20)] and made.views.source == "five squares"
    for name in ("mesh.glb", "turntable.mp4", "contact_sheet.png", "views.png", "pictures.npz",
                 "transforms.json", "views/004.png"):  # fmt: skip
        assert (tmp_path / name).stat().st_size > 0, name
    assert not (tmp_path / "input.png").exists() and not (tmp_path / "views.npz").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mode"] == "views" and report["model"] == "" and report["iterations"] == 20
    given = report["given"]
    assert (given["pictures"], given["side"], given["of_pictures"]) == (5, 32, 5)
    assert given["source"] == "five squares" and 5 < given["psnr_db"] < 60
    page = made.page.read_text(encoding="utf-8")
    page = page[: page.index("<script>")]
    for word in ("Pictures to a 3D object", "no model drew anything", "72° round, -10° up",
                 "5, 32×32 pixels", f"{given['psnr_db']:.1f} dB", "squares"):  # fmt: skip
        assert word in page, word
    read = load_posed(tmp_path)  # for others, and for another run
    np.testing.assert_array_equal(read.images, made.views.images)
    np.testing.assert_allclose(read.c2w, made.views.c2w, atol=1e-12)
    loaded = iso3d.Reconstruction.load(tmp_path)
    np.testing.assert_array_equal(loaded.views.images, posed.images)
    assert loaded.sampled.shape == (1, 5, 32, 32, 3)
    hull = draft.load_hull(tmp_path, make_spec(small_config))  # what an export chooses by
    np.testing.assert_array_equal(hull, draft.given_hull(posed, make_spec(small_config)))
    capsys.readouterr()
    iso3d.reconstruct_posed(posed, out=tmp_path, config=small_config)
    assert "going on at iteration 20 of 20" in capsys.readouterr().out
    other = dataclasses.replace(posed, fov_deg=posed.fov_deg + 0.1)
    with pytest.raises(iso3d.UserError, match="holds a run with another picture"):
        iso3d.reconstruct_posed(other, out=tmp_path, config=small_config)


def test_a_run_may_be_stopped_before_it_begins(posed, small_config, tmp_path):
    with pytest.raises(loop.Interrupted):
        iso3d.reconstruct_posed(posed, out=tmp_path, config=small_config, on_step=lambda *_: False)
    assert not state.exists(tmp_path) and (tmp_path / "pictures.npz").is_file()


def test_views_of_any_cameras_become_pictures_with_cameras(small_config):
    images = np.ones((3, 16, 16, 3), np.float32)
    images[:, 4:12, 4:12] = (0.25, 0.5, 0.0)
    views = iso3d.Views(
        images, np.array([0.0, 100, 190]), np.array([0.0, 20, -5]),
        np.zeros((16, 16, 4), np.uint8), images[0],
    )  # fmt: skip
    posed = draft.pose_views(views, make_spec(small_config))
    np.testing.assert_allclose(posed.on_white(), images, atol=0.005)
    assert posed.masks.sum() == 3 * 64
    away = small_config.draft.distance / np.tan(np.radians(20.0))
    np.testing.assert_allclose(
        posed.c2w, camera_to_world(views.elevation_deg, views.azimuth_deg, away), atol=1e-5
    )
    assert find_ring(views, 4) is None and find_ring(views, 3) is None
    ring = dataclasses.replace(
        views, azimuth_deg=np.array([30.0, 150, 270]), elevation_deg=np.full(3, 9.0)
    )
    assert find_ring(ring, 3) == (30.0, 9.0) and find_ring(ring, 4) is None
