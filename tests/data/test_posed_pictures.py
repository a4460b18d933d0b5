"""Pictures with cameras: transforms.json, named layouts, and lenses that are straightened."""

import json

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import posed_pictures, transforms
from iso3d_jax.data.posed_pictures import LAYOUTS, PosedPictures, load_posed, straighten
from iso3d_jax.geometry.cameras import camera_to_world


def square(colour, side=32):
    """A filled square in the middle half of a picture."""
    image = np.zeros((side, side, 4), np.uint8)
    image[side // 4 : -side // 4, side // 4 : -side // 4] = (*colour, 255)
    return image


@pytest.fixture
def posed():
    images = np.stack([square((60 * k, 10, 200)) for k in range(3)])
    c2w = camera_to_world(np.array([10.0, -20, 30]), np.array([0.0, 100, 200]), 3.0)
    return PosedPictures(
        images, c2w.astype(np.float64), np.array([40.0, 50, 60]), np.ones((3, 32, 32), bool), "x"
    )


def test_transforms_there_and_back(posed, tmp_path):
    found = load_posed(posed.save(tmp_path / "out"))
    np.testing.assert_array_equal(found.images, posed.images)
    np.testing.assert_allclose(found.c2w, posed.c2w, atol=1e-12)
    np.testing.assert_allclose(found.fov_deg, posed.fov_deg, rtol=1e-12)
    assert found.seen.all() and found.source == "3 pictures with the cameras of transforms.json"
    small = load_posed(tmp_path / "out", side=16)
    np.testing.assert_array_equal(small.images, np.stack([p[::2, ::2] for p in posed.images]))
    assert load_posed(tmp_path / "out" / "transforms.json").side == 32


def test_arrays_there_and_back_or_refused(posed, tmp_path):
    posed.save_arrays(tmp_path / "a.npz")
    found = PosedPictures.load_arrays(tmp_path / "a.npz", "delete it")
    for name in ("images", "c2w", "fov_deg", "seen"):
        np.testing.assert_array_equal(getattr(found, name), getattr(posed, name))
    assert found.source == "x"
    np.savez(tmp_path / "b.npz", **vars(posed) | {"fov_deg": posed.fov_deg[:2]})
    with pytest.raises(UserError, match="b.npz is damaged; delete it"):
        PosedPictures.load_arrays(tmp_path / "b.npz", "delete it")


def test_pictures_on_white_and_their_masks(posed):
    white = posed.on_white()
    assert white.shape == (3, 32, 32, 3) and white[:, 0].min() == 1
    np.testing.assert_allclose(white[2, 16, 16], np.array([120, 10, 200]) / 255, rtol=1e-6)
    assert posed.masks.sum() == 3 * 16 * 16


def place(layout, k):
    """Azimuth and elevation of a layout's camera, and the half width that it sees at the origin."""
    of = LAYOUTS[layout]
    x, y, z = of.c2w()[k, :3, 3]
    away = np.linalg.norm([x, y, z])
    angles = np.degrees([np.arctan2(y, x), np.arcsin(z / away)])
    return (*angles, away * np.tan(np.radians(of.fov_deg) / 2))


def test_layouts_have_the_cameras_that_were_published():
    np.testing.assert_allclose(place("zero123plus", 1), (90, -10, 1.0), rtol=1e-5)
    np.testing.assert_allclose(place("zero123plus", 2), (150, 20, 1.0), rtol=1e-5)
    assert LAYOUTS["zero123plus"].fov_deg == 30  # 0.5 / tan(15 degrees) away, of a radius of 0.5
    np.testing.assert_allclose(place("syncdreamer", 3), (67.5, 30, 1.3714), rtol=1e-4)
    assert np.linalg.norm(LAYOUTS["syncdreamer"].c2w()[3, :3, 3]) == pytest.approx(3.0, rel=1e-6)
    # world2cam of front_right: right (0.707, 0.707, 0), away from the front at -y
    np.testing.assert_allclose(place("wonder3d", 1), (45, 0, 1.35), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(place("orthogonal", 1), (90, 15, 1.075), rtol=1e-5)


def colours(images):
    return images[:, images.shape[1] // 2, images.shape[2] // 2, 0].tolist()


def test_one_picture_holds_the_cells_of_a_layout_row_by_row(tmp_path):
    cells = [square((40 * k, 0, 0)) for k in range(6)]
    rows = [np.concatenate(cells[k : k + 2], 1) for k in (0, 2, 4)]
    Image.fromarray(np.concatenate(rows)).save(tmp_path / "grid.png")
    for source in (tmp_path, tmp_path / "grid.png"):
        assert colours(load_posed(source, "zero123plus").images) == [0, 40, 80, 120, 160, 200]
    with pytest.raises(UserError, match="grid.png is 64 x 96, which is no grid of 16 squares"):
        load_posed(tmp_path, "syncdreamer")


def test_files_of_single_views_go_by_their_number_or_by_their_name(tmp_path):
    for k in range(4):
        Image.fromarray(square((40 * k, 0, 0))).save(tmp_path / f"{9 + k}.png")
    assert colours(load_posed(tmp_path, "orthogonal").images) == [0, 40, 80, 120]
    (tmp_path / "9.png").unlink()
    with pytest.raises(UserError, match="has 3 pictures: orthogonal are 4 files, or one picture"):
        load_posed(tmp_path, "orthogonal")
    (tmp_path / "w").mkdir()
    for k, name in enumerate(LAYOUTS["wonder3d"].names):
        Image.fromarray(square((40 * k, 0, 0))).save(tmp_path / "w" / f"rgb_000_{name}.png")
        Image.fromarray(square((7, 7, 7))).save(tmp_path / "w" / f"normals_000_{name}.png")
    assert colours(load_posed(tmp_path / "w", "wonder3d").images) == [0, 40, 80, 120, 160, 200]


def test_a_picture_is_straightened():
    """Its colours say its own columns and rows, so that each pixel tells where it is from."""
    width, height = 90, 60
    row, column = np.mgrid[:height, :width]
    rgba = np.stack([2 * column, 3 * row, 0 * row, 255 + 0 * row], -1).astype(np.uint8)
    lens = transforms.Lens(0.8, 1.25, (0.45, 0.55), (0.1, -0.02, 0.01, -0.015, 0.004))
    image, seen, fov = straighten(rgba, lens, 64)
    fx, fy = 72.0, 90.0
    reach = 0.55 * 90 / fx  # the widest side from the axis
    assert fov == pytest.approx(np.degrees(2 * np.arctan(reach)))
    assert 0.3 < seen.mean() < 0.95
    for i, j in ((32, 32), (30, 50), (40, 10), (26, 8)):
        x, y = ((np.array([j, i]) + 0.5) / 32 - 1) * reach
        r = x * x + y * y
        radial = 1 + 0.1 * r - 0.02 * r**2 + 0.004 * r**3
        u = x * radial + 2 * 0.01 * x * y - 0.015 * (r + 2 * x * x)
        v = y * radial + 0.01 * (r + 2 * y * y) - 2 * 0.015 * x * y
        at = 0.45 * width + fx * u - 0.5, 0.55 * height + fy * v - 0.5
        assert seen[i, j] and image[i, j, 3] == 255
        assert abs(image[i, j, 0] / 2 - at[0]) < 1.5 and abs(image[i, j, 1] / 3 - at[1]) < 1.5
    assert (image[~seen][:, 3] == 0).all()


def test_what_cannot_be_used_is_refused_in_one_sentence(posed, tmp_path):
    posed.save(tmp_path)
    file = tmp_path / "transforms.json"
    content = json.loads(file.read_text())

    def refused(said, **changes):
        file.write_text(json.dumps(content | changes))
        with pytest.raises(UserError, match=said):
            load_posed(tmp_path)

    refused("lens 'OPENCV_FISHEYE' that is not read", camera_model="OPENCV_FISHEYE")
    refused("lens 'OPENCV' that is not read", k4=0.1)
    refused("has 1 pictures: give 2", frames=content["frames"][:1])
    bad = json.loads(json.dumps(content["frames"]))
    bad[1]["transform_matrix"][0][0] *= 3
    refused("a camera whose matrix turns and moves, and does more", frames=bad)
    bad[1] = bad[0] | {"file_path": "views/none.png"}
    refused("none.png", frames=bad)
    file.write_text(json.dumps(content))
    opaque = Image.new("RGBA", (32, 32), (9, 9, 9, 255))
    opaque.save(tmp_path / posed_pictures.PICTURES / "001.png")
    with pytest.raises(UserError, match="001.png has no background"):
        load_posed(tmp_path, remove_background="never")
    with pytest.raises(UserError, match="has no transforms.json or transforms_train.json.*wonder"):
        load_posed(tmp_path / "views")
    with pytest.raises(UserError, match="layout 'zero': there are zero123plus"):
        load_posed(tmp_path, "zero")
