"""The renderer against projections and colours worked out here, and the render command."""

import json
import pathlib

import numpy as np
import pytest
from furniture_files import AZIMUTH, COLOURS, cube_mtl, cube_obj, write_folder

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, meshes, obj, places, quality, render
from iso3d_jax.data.multiview import joining, open_dataset
from iso3d_jax.data.rasterizer import Rasterizer, shrink
from iso3d_jax.geometry import cameras
from iso3d_jax.tiny import proportions

RESOLUTION = 32


def cube_parts(opacity=1.0, x=1.0, y=1.0, z=1.0):
    text = cube_obj(x, y, z).encode()
    return meshes.to_world(obj.read_obj(text, lambda name: cube_mtl(opacity).encode(), print))


def look(machine, elevation, azimuth, fov=30.0, scale=1.1):
    distance = scale / np.tan(np.radians(fov) / 2)
    c2w = np.asarray(cameras.camera_to_world(elevation, azimuth, distance))
    return machine.render(c2w, fov), c2w


@pytest.mark.parametrize("side", AZIMUTH)
def test_each_side_is_seen_from_its_azimuth_in_its_colour(machine, side):
    machine.load(cube_parts())
    image, _ = look(machine, 0.0, AZIMUTH[side])
    middle = image[RESOLUTION // 2, RESOLUTION // 2]
    # Head-on the light is 0.96 and Kd is sRGB: no gamma in between.
    np.testing.assert_allclose(middle[:3] / 255, 0.96 * np.array(COLOURS[side]), atol=0.01)
    assert middle[3] == 255
    assert image[0, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("elevation", "azimuth", "fov"), [(0, 0, 30), (25, 130, 15), (30, 290, 60)]
)
def test_silhouette_is_where_the_rays_hit_the_box(machine, elevation, azimuth, fov):
    half = np.array([3.0, 1.0, 2.0]) / np.sqrt(14)  # the world's x is the file's z
    machine.load(cube_parts(x=1.0, y=2.0, z=3.0))
    image, c2w = look(machine, elevation, azimuth, fov)
    origins, directions = (
        np.asarray(a) for a in cameras.get_rays(c2w, fov, RESOLUTION, RESOLUTION)
    )
    t = (np.stack([-half, half])[:, None, None] - origins) / directions
    hit = t.min(0).max(-1) < t.max(0).min(-1)
    inside = image[..., 3] > 127
    # Only pixels that the outline crosses may differ.
    crossed = (image[..., 3] > 0) & (image[..., 3] < 255)
    assert 0.05 < hit.mean() < 0.7
    assert not ((hit != inside) & ~crossed).any()
    assert ((hit != inside) & crossed).sum() <= 0.3 * crossed.sum()


def test_rotating_the_camera_and_the_object_together_changes_nothing(machine):
    machine.load(cube_parts(y=0.5))
    first, _ = look(machine, 20.0, 15.0)
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees about z
    turned = [
        meshes.dataclasses.replace(p, positions=p.positions @ turn.T, normals=p.normals @ turn.T)
        for p in cube_parts(y=0.5)
    ]
    machine.load(turned)
    second, _ = look(machine, 20.0, 105.0)
    assert np.abs(first.astype(int) - second).max() <= 12
    assert np.abs(first.astype(int) - second).mean() < 0.2


def test_edges_keep_the_objects_colour():
    side = np.zeros((8, 8, 4), np.uint8)
    side[:, :3] = [51, 102, 153, 255]  # three of four columns of a pixel are covered
    out = shrink(side, 4)
    np.testing.assert_array_equal(out[:, 0], [[51, 102, 153, 191]] * 2)
    np.testing.assert_array_equal(out[:, 1], 0)


def test_a_see_through_material_is_partly_transparent(machine):
    machine.load(cube_parts(opacity=0.5))
    image, _ = look(machine, 0.0, 0.0)
    # Two walls of half opacity: 1 - 0.5^2, and no depth between them.
    assert abs(int(image[RESOLUTION // 2, RESOLUTION // 2, 3]) - 191) <= 2


def test_a_texture_lies_with_row_0_at_the_top(machine):
    parts = cube_parts()
    texture = np.zeros((2, 2, 4), np.uint8)
    texture[0], texture[1] = [255, 0, 0, 255], [0, 0, 255, 255]
    for part in parts:
        part.texture = texture
        part.uv = np.stack([part.positions[..., 1], (part.positions[..., 2] > 0) * 1.0], -1)
        part.colour = (1.0, 1.0, 1.0)
    machine.load(parts)
    image, _ = look(machine, 0.0, 0.0)
    top, bottom = image[9, RESOLUTION // 2], image[RESOLUTION - 10, RESOLUTION // 2]
    assert top[0] > 150 > 90 > top[2] and bottom[2] > 150 > 90 > bottom[0]


def test_cameras_obey_their_ranges_and_depend_on_seed_and_name_alone():
    views = render.sample_cameras("chair", 0, 6)
    azimuth = views["azimuth_deg"].reshape(6, 4)
    np.testing.assert_allclose((azimuth - azimuth[:, :1]) % 360, [[0, 90, 180, 270]] * 6, atol=1e-3)
    for key in ("elevation_deg", "fov_deg", "distance"):
        assert (np.ptp(views[key].reshape(6, 4), axis=1) == 0).all()
    scale = views["distance"] * np.tan(np.radians(views["fov_deg"]) / 2)
    assert scale.min() >= 0.9999 and scale.max() <= 1.1501
    assert views["elevation_deg"].min() >= 0 and views["elevation_deg"].max() <= 30
    assert views["fov_deg"].min() >= 15 and views["fov_deg"].max() <= 60
    for name, least, most in (("mvdream", 0.9, 1.1), ("sds", 0.8, 1.0)):
        other = render.sample_cameras("chair", 0, 40, name)
        scale = other["distance"] * np.tan(np.radians(other["fov_deg"]) / 2)
        assert (
            least <= scale.min() + 1e-4 < least + 0.03 and most - 0.03 < scale.max() <= most + 1e-4
        )
    again = render.sample_cameras("chair", 0, 6)
    np.testing.assert_array_equal(views["c2w"], again["c2w"])
    assert (render.sample_cameras("chair2", 0, 6)["fov_deg"] != views["fov_deg"]).all()
    assert (render.sample_cameras("chair", 1, 6)["fov_deg"] != views["fov_deg"]).all()


def test_render_command_makes_a_data_set_and_goes_on(machine, tmp_path, run_python):
    names = ["object1", "object4", "object10", "object11"]
    assets = write_folder(tmp_path / "meshes", names)
    (assets / "broken.obj").write_text("v 0 0 0\n")
    (assets / "rug.obj").write_text(cube_obj(y=0.01))
    out = tmp_path / "out"
    command = ["-m", "iso3d_jax.data.render", "--assets", assets, "--out", out, "--sets", 2,
               "--resolution", 16, "--workers", 1]  # fmt: skip
    first = run_python(*command)
    assert first.returncode == 0, first.stderr
    assert "train 1, validation 1, test 2 objects" in first.stdout
    skipped = (out / "skipped.txt").read_text()
    assert "broken\tthe OBJ file has no triangles" in skipped and "rug\tflat" in skipped
    assert "object10" in (out / "CREDITS.md").read_text()

    data = open_dataset(out, "test")
    records = {r["name"]: r for r in data}
    assert sorted(records) == ["object10", "object11"] and data.resolution == 16
    # An object does not depend on what was rendered before it, nor on the process.
    (asset,) = [a for a in asset_sources.find_assets([str(assets)]) if a.name == "object10"]
    with Rasterizer(16) as small:
        alone = render.render_object(asset, small, render.How(16, 2))
    np.testing.assert_array_equal(alone["images"], records["object10"]["images"])
    np.testing.assert_allclose(alone["c2w"], records["object10"]["c2w"], atol=1e-6)

    settings = json.loads((out / "settings.json").read_text())
    assert settings == {
        "resolution": 16, "sets": 2, "seed": 0, "stretch": 0.0, "warp": 0.0, "up": "y", "shards": 1,
        "filters": ["shape", "coverage"], "cameras": "iso3d", "views_per_set": 4, "layers": [],
        "light": "even", "background": "", "engine": "rasterizer", "samples": 64, "hdri": [],
    }  # fmt: skip
    # On two machines: the same bits.
    other = tmp_path / "other"
    for arguments in (dict(shard="1/2", workers=1), dict(shard="0/2", workers=2)):
        render.render_dataset([str(assets)], other, render.How(16, 2), **arguments)
    joining.join_shards(places.place(other))
    render.render_dataset([str(assets)], tmp_path / "one", render.How(16, 2), count=2)
    assert tree(other) == tree(tmp_path / "one")
    found = {r["name"]: r for r in open_dataset(other, "test")}
    np.testing.assert_array_equal(found["object11"]["images"], records["object11"]["images"])


def test_twins_have_one_hash_and_others_another(tmp_path):
    """Their cameras differ with their names; what is hashed is a view that all have."""
    found = {}
    for name, side in (("first", 1.0), ("second", 1.0), ("other", 0.4)):
        write_folder(tmp_path / name, [name], x=side)
        (asset,) = asset_sources.find_assets([str(tmp_path / name)])
        with Rasterizer(32) as machine:
            record = render.render_object(asset, machine, render.How(32, 1, filters=("duplicate",)))
        found[name] = record["quality"].item()["hash"]
        assert record["images"].shape == (4, 32, 32, 4)
    assert found["first"] == found["second"] != 0
    assert (found["first"] ^ found["other"]).bit_count() > quality.ALIKE


def tree(folder):
    """The bytes of each file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_stretched_cube_is_a_box_in_the_unit_sphere_with_a_boxs_normals():
    scale = np.array([1.0, 2.0, 0.5])
    slanted = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    parts = cube_parts()
    parts[0].normals = np.broadcast_to(slanted, parts[0].normals.shape)
    stretched = proportions.stretched(parts, scale)
    points = np.concatenate([part.positions.reshape(-1, 3) for part in stretched])
    np.testing.assert_allclose(np.ptp(points, axis=0), 2 * scale / np.linalg.norm(scale), rtol=1e-6)
    np.testing.assert_allclose(points.min(0), -points.max(0), atol=1e-6)
    # A slope twice as long is half as steep: normals are divided by the scale.
    wanted = np.array([2.0, 1.0, 0.0]) / np.sqrt(5)
    np.testing.assert_allclose(stretched[0].normals[0, 0], wanted, rtol=1e-6)


def test_proportions_depend_on_seed_and_name_alone():
    scales = [proportions.draw_proportions(name, seed, 0.4) for name in "ab" for seed in (0, 1)]
    assert np.abs(np.log(scales)).max() <= 0.4 and len({s[0] for s in scales}) == 4
    np.testing.assert_array_equal(scales[0], proportions.draw_proportions("a", 0, 0.4))
    np.testing.assert_array_equal(proportions.draw_proportions("a", 0, 0.0), 1.0)


def test_warped_pieces_of_an_axis_change_apart_and_left_is_as_right():
    parts = cube_parts(z=3.0)
    slopes = np.ones((3, 6))
    slopes[2, :3] = 3.0  # the lower half of the height three times as long
    warped = proportions.warped(parts, slopes)
    before, after = (
        np.concatenate([part.positions.reshape(-1, 3) for part in of]) for of in (parts, warped)
    )
    ratio = np.ptp(after, axis=0) / np.ptp(before, axis=0)
    np.testing.assert_allclose(ratio[2] / ratio[:2], 2.0, rtol=1e-6)  # (1 + 3) / 2
    assert np.linalg.norm(after, axis=-1).max() <= 1.0 + 1e-6
    normals = np.concatenate([part.normals.reshape(-1, 3) for part in warped])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, rtol=1e-6)

    drawn = proportions.draw_slopes("a", 3, 0.5)
    np.testing.assert_array_equal(drawn[1], drawn[1, ::-1])
    assert np.abs(np.log(drawn)).max() <= 0.5 and np.ptp(drawn) > 0.1
    np.testing.assert_array_equal(drawn, proportions.draw_slopes("a", 3, 0.5))
    assert (proportions.draw_slopes("b", 3, 0.5) != drawn).all(1).all()


def test_only_names_the_nearest_object():
    assets = [asset_sources.Asset("chair", "", "", "", "", "", pathlib.Path("chair.obj"))]
    with pytest.raises(UserError, match="nearest is chair"):
        render.choose(assets, ["chiar"])
    assert render.choose(assets, ["chair"]) == assets
    assert render.choose(assets, ["chair", "chair"]) == assets  # drawn once


def test_missing_assets_in_one_sentence(refused):
    message = refused("-m", "iso3d_jax.data.render", "--assets", "nowhere", "--out", "x")
    assert "nowhere" in message and "sweethome3d-furniture" in message
