"""Others' renders as records: pictures whose cameras are known, and back."""

import json

import numpy as np
import pytest
from furniture_files import AZIMUTH, COLOURS, cube_mtl, cube_obj
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import importers, meshes, obj
from iso3d_jax.data.multiview import open_dataset
from iso3d_jax.geometry import cameras

RESOLUTION = 32


@pytest.fixture
def cube(machine):
    """Pictures of the cube with coloured sides, from cameras of our world."""
    text = cube_obj().encode()
    machine.load(meshes.to_world(obj.read_obj(text, lambda name: cube_mtl().encode(), print)))

    def draw(elevation, azimuth, distance, fov):
        c2w = np.asarray(cameras.camera_to_world(elevation, azimuth, distance))
        return Image.fromarray(machine.render(c2w, fov))

    return draw


def blender(elevation, azimuth, distance):
    """Blender's own camera to world: the object's front, our +x, is at its -y."""
    turn = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    c2w = turn @ np.asarray(cameras.camera_to_world(elevation, azimuth, distance), np.float64)
    c2w[:3, 3] /= importers.BLENDER_SCALE
    return c2w


def check(record):
    """What is seen in a level view is the side that its azimuth says."""
    seen = 0
    for image, azimuth in zip(record["images"], record["azimuth_deg"], strict=True):
        for side, at in AZIMUTH.items():
            if abs((azimuth - at + 180) % 360 - 180) < 30:
                middle = image[RESOLUTION // 2, RESOLUTION // 2]
                want = 255 * np.array(COLOURS[side])
                assert np.abs(middle[:3] / want.max() - want / want.max()).max() < 0.25, side
                seen += 1
    assert seen >= 4


def write_zero123(folder, cube, views):
    folder.mkdir(parents=True)
    for k, (elevation, azimuth, distance) in enumerate(views):
        cube(elevation, azimuth, distance, importers.BLENDER_FOV).save(folder / f"{k:03d}.png")
        np.save(folder / f"{k:03d}.npy", np.linalg.inv(blender(elevation, azimuth, distance))[:3])


def test_zero123_comes_with_our_front_and_radius(cube, tmp_path):
    level = [(0.0, a, 3.4) for a in (90.0, 0.0, 270.0, 180.0)]
    others = [(20.0, 33.0, 3.6), (10.0, 200.0, 4.1)]
    write_zero123(tmp_path / "in" / "Uid A", cube, [others[0], *level, others[1]])
    write_zero123(tmp_path / "in" / "lonely", cube, others)
    (tmp_path / "in" / "empty").mkdir()
    counts = importers.import_dataset(tmp_path / "in", tmp_path / "out", "zero123", license="MIT")
    assert counts["left out"] == 1 and sum(counts.values()) == 2
    (record,) = open_dataset(tmp_path / "out", "all")
    assert (record["name"], record["title"], record["license"]) == ("uid_a", "Uid A", "MIT")
    np.testing.assert_allclose(record["azimuth_deg"], [90, 180, 270, 0], atol=1e-3)
    np.testing.assert_allclose(record["distance"], 3.4, rtol=1e-5)
    np.testing.assert_allclose(record["fov_deg"], 49.134, atol=1e-3)
    assert record["set_index"].tolist() == [0] * 4
    check(record)
    assert (
        "lonely\tnone of its 2 views make a set" in (tmp_path / "out" / "skipped.txt").read_text()
    )
    with pytest.raises(UserError, match="holds a data set already"):
        importers.import_dataset(tmp_path / "in", tmp_path / "out", "zero123")
    importers.import_dataset(
        tmp_path / "in" / "Uid A", tmp_path / "any", "zero123", any_views=True, resolution=16
    )
    (record,) = open_dataset(tmp_path / "any", "all")
    assert record["images"].shape == (4, 16, 16, 4)
    np.testing.assert_allclose(record["azimuth_deg"], [33, 90, 0, 270], atol=1e-3)


def test_syncdreamers_sixteen_cameras_are_four_sets(cube, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(16):  # their azimuth 0 is Blender's +x, a quarter turn from the front
        image = cube(30.0, 22.5 * k + 90.0, 3.0, importers.BLENDER_FOV)
        image.save(folder / f"{k:03d}.png")
    importers.import_dataset(folder, tmp_path / "out", "syncdreamer")
    (record,) = open_dataset(tmp_path / "out", "all")
    azimuth = record["azimuth_deg"].reshape(4, 4)
    np.testing.assert_allclose((azimuth - azimuth[:, :1]) % 360, [[0, 90, 180, 270]] * 4, atol=1e-2)
    assert len(np.unique(np.round(record["azimuth_deg"], 1))) == 16
    for image, angle in zip(record["images"], record["azimuth_deg"], strict=True):
        want = np.asarray(cube(30.0, float(angle), 3.0, importers.BLENDER_FOV))
        assert np.abs(image.astype(int) - want).mean() < 0.5
    (folder / "015.png").unlink()
    with pytest.raises(UserError, match="no object of the form syncdreamer"):
        importers.import_dataset(folder, tmp_path / "other", "syncdreamer")


def write_gobjaverse(folder, cube, views):
    """Views as RichDreamer's scripts read them: OpenCV's axes by name, in Blender's world."""
    for k, view in enumerate(views):
        file = folder / "campos_512_v4" / f"{k:05d}" / f"{k:05d}.json"
        file.parent.mkdir(parents=True)
        x, up, back, origin = blender(*view)[:3].T.tolist()
        down, ahead = (np.negative(axis).tolist() for axis in (up, back))
        camera = {"x": x, "y": down, "z": ahead, "origin": origin, "bbox": [[-0.5] * 3, [0.5] * 3]}
        file.write_text(json.dumps(camera))
        cube(*view, importers.GOBJAVERSE_FOV).save(file.with_suffix(".png"))
        file.with_name(f"{k:05d}_albedo.png").touch()


# Two closed rings and the poles between them: 25, 2 and 13 views. Their first is at Blender's +x,
# a quarter turn from the front.
GOBJAVERSE = [
    *((12.0, 90.0 + 15.0 * k, 3.6) for k in range(25)), (90.0, 90.0, 3.6), (-90.0, 90.0, 3.6),
    *((0.0, 90.0 + 30.0 * k, 3.6) for k in range(13)),
]  # fmt: skip


def test_gobjaverses_two_rings_are_nine_sets(cube, tmp_path):
    write_gobjaverse(tmp_path / "in" / "0" / "10005", cube, GOBJAVERSE)
    write_gobjaverse(tmp_path / "in" / "1" / "10005", cube, GOBJAVERSE[27:])
    (tmp_path / "in" / "1" / "10005/campos_512_v4/00003/00003.png").unlink()
    write_gobjaverse(tmp_path / "in" / "1" / "bad", cube, GOBJAVERSE[:2])
    file = tmp_path / "in" / "1" / "bad" / "campos_512_v4" / "00001" / "00001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"y": [0.0, 1.0]}))
    counts = importers.import_dataset(tmp_path / "in", tmp_path / "out", "gobjaverse")
    assert counts["left out"] == 1 and sum(counts.values()) == 3
    assert "1/bad\t00001.json has a camera that is no matrix" in (
        tmp_path / "out" / "skipped.txt"
    ).read_text().replace("1-bad", "1/bad").replace("1_bad", "1/bad")
    whole, part = sorted(open_dataset(tmp_path / "out", "all"), key=lambda r: r["title"])
    assert (whole["title"], part["title"]) == ("0/10005", "1/10005")
    assert len(whole["images"]) == 36 and len(part["images"]) == 8
    azimuth = whole["azimuth_deg"].reshape(9, 4)
    np.testing.assert_allclose((azimuth - azimuth[:, :1]) % 360, [[0, 90, 180, 270]] * 9, atol=1e-2)
    assert set(np.round(whole["elevation_deg"][:24])) == {12}
    assert set(np.round(whole["elevation_deg"][24:])) == {0}
    np.testing.assert_allclose(whole["azimuth_deg"][0], 90, atol=1e-3)
    np.testing.assert_allclose(whole["distance"], 3.6, rtol=1e-5)
    np.testing.assert_allclose(whole["fov_deg"], 39.6, atol=0.01)
    check({key: whole[key][24:] for key in ("images", "azimuth_deg")})
    for k in (0, 5, 11):
        want = np.asarray(cube(12.0, whole["azimuth_deg"][k], 3.6, whole["fov_deg"][k]))
        assert np.abs(whole["images"][k].astype(int) - want).mean() < 0.5
    importers.import_dataset(tmp_path / "in" / "0" / "10005", tmp_path / "one", "gobjaverse")
    assert open_dataset(tmp_path / "one", "all")[0]["title"] == "10005"


def test_transforms_there_and_back(tmp_path):
    """Records of the shipped set become folders, and the same records again."""
    number = importers.export_transforms("samples", tmp_path / "nerf", "validation")
    assert number == 2
    one = json.loads(next((tmp_path / "nerf").glob("*/transforms.json")).read_text())
    assert len(one["frames"]) == 24 and "camera_angle_x" not in one  # each set has its own
    counts = importers.import_dataset(tmp_path / "nerf", tmp_path / "out", "transforms")
    assert counts["left out"] == 0 and sum(counts.values()) == 2
    found = {record["title"]: record for record in open_dataset(tmp_path / "out", "all")}
    for want in open_dataset("samples", "validation"):
        record = found[want["name"]]
        np.testing.assert_array_equal(record["images"], want["images"])
        for key in ("azimuth_deg", "elevation_deg", "fov_deg", "distance", "c2w"):
            apart = record[key] - want[key]
            if key == "azimuth_deg":
                apart = (apart + 180) % 360 - 180
            np.testing.assert_allclose(apart, 0, atol=2e-3, err_msg=key)
        np.testing.assert_array_equal(record["set_index"], want["set_index"])


def nerf_synthetic(folder, cube):
    """Pictures as NeRF's own scenes have them: names without suffix, one angle for all."""
    (folder / "train").mkdir(parents=True)
    frames = []
    for k, azimuth in enumerate((0.0, 90.0, 180.0, 270.0)):
        cube(0.0, azimuth, 3.5, 40.0).save(folder / "train" / f"r_{k}.png")
        pose = np.asarray(cameras.camera_to_world(0.0, azimuth + 50.0, 3.5)).tolist()
        frames.append({"file_path": f"./train/r_{k}", "rotation": 0.1, "transform_matrix": pose})
    content = {"camera_angle_x": float(np.radians(40.0)), "frames": frames}
    (folder / "transforms_train.json").write_text(json.dumps(content))
    return content


def test_nerf_synthetic_is_read_with_its_front(cube, tmp_path):
    nerf_synthetic(tmp_path / "lego", cube)
    importers.import_dataset(tmp_path / "lego", tmp_path / "out", "transforms", front=50.0)
    (record,) = open_dataset(tmp_path / "out", "all")
    np.testing.assert_allclose((record["azimuth_deg"] + 1) % 360, [1, 91, 181, 271], atol=1e-3)
    np.testing.assert_allclose(record["fov_deg"], 40.0, rtol=1e-5)
    check(record)


def away(content):
    content["frames"][1]["transform_matrix"][0][3] += 1.0


def rolled(content):
    pose = np.array(content["frames"][2]["transform_matrix"])
    pose[:3, :2] = pose[:3, [1, 0]] * [1, -1]
    content["frames"][2]["transform_matrix"] = pose.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (away, "camera 1 is turned"),
        (rolled, "camera 2 is turned 90.0 degrees"),
        (lambda c: c.update(k1=0.1), "a lens that distorts"),
        (lambda c: c.update(w=40, h=30), "40 x 30 that are not square"),
        (lambda c: c.update(w=40, h=40, cx=10), "middle is not on the camera's axis"),
        (lambda c: c.update(frames=[]), "no frames"),
        (lambda c: c.update(frames=[3]), "frame 0 is no object"),
        (lambda c: c["frames"][0].update(transform_matrix=[[1, "x"]]), "no matrix of 4 times 4"),
        (lambda c: c["frames"][3].update(file_path="none.png"), "none.png"),
        (lambda c: c.pop("camera_angle_x"), "has no 'camera_angle_x'"),
        (lambda c: c.pop("frames"), "has no 'frames'"),
    ],
)
def test_what_records_cannot_hold_is_left_out_with_its_reason(cube, tmp_path, change, said):
    content = nerf_synthetic(tmp_path / "in" / "bad", cube)
    change(content)
    (tmp_path / "in" / "bad" / "transforms_train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no object in .* could be rendered"):
        importers.import_dataset(tmp_path / "in", tmp_path / "out", "transforms")
    assert said in (tmp_path / "out" / "skipped.txt").read_text()


def test_opaque_and_oblong_pictures_are_left_out(cube, tmp_path):
    nerf_synthetic(tmp_path / "in" / "a", cube)
    for k in range(4):
        file = tmp_path / "in" / "a" / "train" / f"r_{k}.png"
        Image.open(file).convert("RGB").save(file)
    nerf_synthetic(tmp_path / "in" / "b", cube)
    Image.new("RGBA", (20, 30)).save(tmp_path / "in" / "b" / "train" / "r_2.png")
    nerf_synthetic(tmp_path / "in" / "c", cube)
    importers.import_dataset(tmp_path / "in", tmp_path / "out", "transforms")
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert skipped == (
        "a\tits pictures have no transparent background\nb\tr_2.png is 20 x 30, not square\n"
    )
    with pytest.raises(UserError, match="there is no such folder"):
        importers.import_dataset(tmp_path / "nowhere", tmp_path / "o", "transforms")


def test_the_command_imports_and_exports(tmp_path, monkeypatch, capsys):
    def run(**values):
        flags = dict(_SOURCE=None, _FORM=None, _OUT=None, _RESOLUTION=None, _ANY=False, _FRONT=None,
                     _CREATOR="ann", _LICENSE="MIT") | values  # fmt: skip
        for name, value in flags.items():
            monkeypatch.setattr(importers, name, type("Flag", (), {"value": value}))
        importers.main([])
        return capsys.readouterr().out

    assert "24 objects" in run(_SOURCE="samples", _FORM="ours", _OUT=str(tmp_path / "nerf"))
    said = run(_SOURCE=str(tmp_path / "nerf"), _FORM="transforms", _OUT=str(tmp_path / "out"),
               _RESOLUTION=16)  # fmt: skip
    assert "left out 0" in said and "train" in said
    record = open_dataset(tmp_path / "out", "all")[0]
    assert record["images"].shape == (24, 16, 16, 4) and record["creator"] == "ann"
