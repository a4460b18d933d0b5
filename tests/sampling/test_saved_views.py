"""Views in a file, with what other programs read beside it."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.posed_pictures import load_posed
from iso3d_jax.views import Views


@pytest.fixture
def views():
    images = np.ones((2, 32, 32, 3), np.float32)
    images[0, 10:20, 8:24] = [1.0, 0.0, 0.2]
    images[1, 10:22, 8:26] = [0.0, 0.4, 1.0]
    return Views(
        images, np.array([0.0, 90.0]), np.array([0.0, 30.0]), np.zeros((4, 4, 4), np.uint8),
        images[0], 7,
    )  # fmt: skip


def test_transforms_json_lies_beside_saved_views(views, tmp_path):
    views.save(tmp_path / "new" / "views.npz")
    frames = json.loads((tmp_path / "new" / "transforms.json").read_text())["frames"]
    tangent = math.tan(math.radians(20))
    distance = 1.075 / tangent
    assert [f["file_path"] for f in frames] == ["views/000.png", "views/001.png"]
    assert frames[0]["fl_x"] == pytest.approx(16 / tangent)
    first, second = (np.array(f["transform_matrix"]) for f in frames)
    np.testing.assert_allclose(first[:3, 3], [distance, 0, 0], atol=1e-6)
    # a quarter round and 30 degrees up; a camera looks along its -z
    side, up = distance * math.sqrt(0.75), distance / 2
    np.testing.assert_allclose(second[:3, 3], [0, side, up], atol=1e-6)
    np.testing.assert_allclose(second[:3, 2], [0, math.sqrt(0.75), 0.5], atol=1e-6)


def test_other_views_take_the_place_of_saved_ones_and_are_read_as_pictures(views, tmp_path):
    views.save(tmp_path / "a.npz")
    views.save(tmp_path / "b.npz")
    posed = load_posed(tmp_path)
    assert len(posed) == 2 and posed.side == 32
    np.testing.assert_allclose(posed.c2w, views.c2w, atol=1e-6)
    np.testing.assert_allclose(posed.fov_deg, 40.0)
    np.testing.assert_allclose(posed.on_white(), views.images, atol=0.01)


def test_somebody_elses_pictures_are_not_written_over(views, tmp_path):
    (tmp_path / "transforms.json").write_text(
        json.dumps({
            "camera_angle_x": 0.7,
            "frames": [{"file_path": "images/lego", "transform_matrix": np.eye(4).tolist()}],
        })
    )  # fmt: skip
    with pytest.raises(UserError, match="transforms.json is there and names lego.png"):
        views.save(tmp_path / "views.npz")
    assert not (tmp_path / "views.npz").exists()
    (tmp_path / "other" / "views").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "other" / "views" / "000.png")
    with pytest.raises(UserError, match="000.png is there and no saved view"):
        views.save(tmp_path / "other" / "views.npz")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["views"]
