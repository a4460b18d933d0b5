"""Tasks that are not a data set: Google Scanned Objects' layout and folders of pictures."""

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.evaluation import folder, gso


def write_object(path, size=64, side=16, views=16):
    """Renders of a square whose colour says which view it is, at SyncDreamer's names."""
    path.mkdir(parents=True)
    low, high = (size - side) // 2, (size + side) // 2
    for k in range(views):
        picture = np.zeros((size, size, 4), np.uint8)
        picture[low:high, low:high] = (10 * k, 50, 100, 255)
        Image.fromarray(picture).save(path / f"{k:03d}.png")


def test_scanned_objects_become_four_orthogonal_sets(tmp_path):
    write_object(tmp_path / "chair-gt")
    write_object(tmp_path / "duck", side=32)
    (tmp_path / "chair-mesh" / "meshes").mkdir(parents=True)
    (tmp_path / "chair-mesh" / "meshes" / "model.obj").write_text("v 0 0 0\n")
    task = gso.make_task(tmp_path, 32, "centred")
    assert task.names == ["chair", "duck"] and task.truth.shape == (2, 16, 32, 32, 3)
    np.testing.assert_allclose(task.azimuth_deg[0, :5], [0, 90, 180, 270, 22.5])
    assert (task.elevation_deg == 30).all() and sorted(task.azimuth_deg[1]) == [
        k * 22.5 for k in range(16)
    ]
    centre = np.rint(task.truth[:, :, 16, 16] * 255)
    order = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    np.testing.assert_array_equal(centre[0], [(10 * k, 50, 100) for k in order])
    # Whatever their sizes were, both now reach to FILL of half the side, at their corners.
    for views in task.truth:
        solid = (views[0].min(-1) < 0.5).sum()
        assert solid == pytest.approx((gso.FILL * 32 / np.sqrt(2)) ** 2, rel=0.12)
    # Cropped to where the object ends, a picture has the field of view of that part.
    ends = np.array([gso.reach(gso.read_views(tmp_path / n)[..., 3]) for n in ("chair-gt", "duck")])
    tangent, want = np.tan(np.radians(task.fov_deg) / 2), ends[:, None] / gso.FILL * 32 / 70
    np.testing.assert_allclose(tangent, np.repeat(want, 16, 1), rtol=1e-5)
    np.testing.assert_allclose(task.distance * tangent, 1.075, rtol=1e-5)
    assert gso.mesh_file(tmp_path, "chair") and gso.mesh_file(tmp_path, "duck") is None


def test_a_small_object_is_not_cropped_when_it_must_shrink():
    view = np.zeros((20, 20, 4), np.float32)
    view[:, :, :3], view[8:12, 8:12, 3] = 0.2, 1.0
    wide = gso.rescale(view, 2.0, 20)  # a border as wide as the picture
    assert (wide < 0.5).all(-1).sum() == 4 and wide[0, 0].min() == 1.0


def test_layouts_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no objects"):
        gso.make_task(tmp_path, 32, "centred")
    with pytest.raises(UserError, match="no such folder"):
        gso.make_task(tmp_path / "nowhere", 32, "centred")
    write_object(tmp_path / "cup-gt", views=15)
    with pytest.raises(UserError, match="picture not found: .*015.png; 16 views are needed"):
        gso.make_task(tmp_path, 32, "centred")
    whole = (tmp_path / "cup-gt" / "014.png").read_bytes()
    # Formats are named: PostScript would start another program.
    for damaged in (whole[: len(whole) // 2], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "cup-gt" / "015.png").write_bytes(damaged)
        with pytest.raises(UserError, match=r"015.png is (damaged|not a picture).*16 views are"):
            gso.make_task(tmp_path, 32, "centred")
    Image.new("RGB", (64, 64)).save(tmp_path / "cup-gt" / "015.png")
    with pytest.raises(UserError, match="no transparency"):
        gso.make_task(tmp_path, 32, "centred")


def test_a_folder_of_pictures(tmp_path):
    write_object(tmp_path / "pictures", views=2)
    (tmp_path / "pictures" / "0001.png").write_text("not a picture")
    task, failed = folder.make_task(tmp_path / "pictures", 32, "centred")
    assert (task.fov_deg == 40).all() and task.fov_deg.shape == task.azimuth_deg.shape
    np.testing.assert_allclose(task.distance * np.tan(np.radians(20)), 1.075, rtol=1e-6)
    assert list(failed) == ["0001"] and "is not a picture" in failed["0001"]
    assert task.names == ["000", "001"] and task.truth is None
    assert task.pictures.shape == (2, 32, 32, 3) and task.azimuth_deg[1].tolist() == [
        0,
        90,
        180,
        270,
    ]
    assert len(task.spaced(1)) == 1 and task.spaced(1).truth is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        folder.make_task(tmp_path / "empty", 32, "centred")
    with pytest.raises(UserError, match="no such folder"):
        folder.make_task(tmp_path / "nowhere", 32, "centred")
