"""What rendering hands to the renderer and writes down, by a renderer that only takes notes."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from furniture_files import write_catalogue, write_folder

from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, lights, meshes, places, rasterizer, render
from iso3d_jax.data.layers import LAYERS
from iso3d_jax.data.multiview import joining, open_dataset
from iso3d_jax.data.multiview.shards import Shard
from iso3d_jax.data.multiview.strips import read_stored
from iso3d_jax.data.names import hash_name
from iso3d_jax.tiny import proportions


class Notes:
    """Takes the place of a `Rasterizer`: what is seen says which view it was."""

    made = []

    def __init__(self, resolution):
        self.resolution, self.loaded, self.drawn, self.covered = resolution, [], [], 1.0
        Notes.made.append(self)

    def load(self, parts, light=lights.EVEN):
        self.loaded.append(parts)
        self.light = light

    def render(self, c2w, fov_deg):
        self.drawn.append((c2w, fov_deg))
        image = np.full((self.resolution, self.resolution, 4), len(self.drawn), np.uint8)
        image[..., 3] = 0
        image.reshape(-1, 4)[: int(np.ceil(self.covered * image[..., 0].size)), 3] = 9
        return image

    def render_layer(self, layer, c2w, fov_deg):
        side = self.resolution
        if layer == "albedo":
            return np.full((side, side, 4), 7, np.uint8)
        if layer == "normals":
            return np.zeros((side, side, 3), np.float32)
        return np.full((side, side), np.linalg.norm(c2w[:3, 3]), np.float32)

    def close(self):
        self.closed = True


def make_notes(how, blender_python):
    return Notes(how.resolution)


WORK = render._work


def end_at_b(machine, asset, how):
    """What a worker process does, which ends at the object b."""
    if asset.name == "b":
        os.kill(os.getpid(), signal.SIGSEGV)
    return WORK(machine, asset, how)


def manifest(out):
    """The entries of a data set's objects, by name."""
    files = sorted((out / "manifests").iterdir())
    entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {entry["name"]: entry for entry in entries}


def render_all(everything, out, how, **options):
    """Renders one shard and joins; what was left out and why, by name."""
    root = places.place(out)
    render._check_settings(
        root, render._noted_settings(root), dataclasses.asdict(how) | {"shards": 1}
    )
    render.render_shards(everything, root, [Shard(0, 1)], how, **options)
    joining.join_shards(root)
    return {n: e["reason"] for n, e in manifest(out).items() if e["status"] == "refused"}


@pytest.fixture
def in_process(monkeypatch):
    """Work is done here, by what the test has put in its place."""

    def run_each(tasks, make, work, **limits):
        machine = make()
        return [(task, work(machine, task)) for task in tasks]

    monkeypatch.setattr(child_processes, "run_each", run_each)
    monkeypatch.setattr(rasterizer, "Rasterizer", Notes)


@pytest.fixture
def assets(tmp_path):
    return asset_sources.find_assets([str(write_folder(tmp_path / "m", ["a", "b", "c"], y=0.5))])


def points(parts):
    return np.concatenate([p.positions.reshape(-1, 3) for p in parts])


def test_cameras_are_those_of_the_ranges_in_the_order_of_the_draws():
    views = render.sample_cameras("chair", 5, 3)
    rng = np.random.default_rng([5, hash_name("chair")])
    for k in range(3):
        base, elevation, fov = rng.uniform(0, 360), rng.uniform(0, 30), rng.uniform(15, 60)
        distance = rng.uniform(1.0, 1.15) / np.tan(np.radians(fov) / 2)
        mine = slice(4 * k, 4 * k + 4)
        np.testing.assert_allclose(
            views["azimuth_deg"][mine], (base + np.array([0, 90, 180, 270])) % 360, rtol=1e-5
        )
        for name, value in (("elevation_deg", elevation), ("fov_deg", fov), ("distance", distance)):
            np.testing.assert_allclose(views[name][mine], value, rtol=1e-5)
    assert views["set_index"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    azimuth, elevation = np.radians(views["azimuth_deg"]), np.radians(views["elevation_deg"])
    at = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                   np.sin(elevation)], -1) * views["distance"][:, None]  # fmt: skip
    np.testing.assert_allclose(views["c2w"][:, :3, 3], at, rtol=1e-4, atol=1e-4)
    assert views["c2w"].dtype == views["azimuth_deg"].dtype == np.float32


@pytest.mark.parametrize("count", [1, 3, 8])
def test_sets_have_as_many_views_as_asked_for_at_even_steps(count):
    views, four = (render.sample_cameras("chair", 5, 2, views_per_set=n) for n in (count, 4))
    assert views["set_index"].tolist() == [0] * count + [1] * count
    azimuth = views["azimuth_deg"].reshape(2, count)
    steps = (azimuth - azimuth[:, :1] + 1) % 360 - 1
    np.testing.assert_allclose(steps, [360 / count * np.arange(count)] * 2, atol=1e-3)
    for key in ("azimuth_deg", "elevation_deg", "fov_deg", "distance"):  # as of any other number
        np.testing.assert_array_equal(views[key][::count], four[key][::4])


def test_records_carry_what_is_asked_for_and_folders_of_before_go_on(tmp_path, in_process):
    write_folder(tmp_path / "m", ["a", "b"], y=0.5)
    out, plain = tmp_path / "out", tmp_path / "plain"
    how = render.How(8, 1)
    more = dict(layers=["albedo", "depth", "normals"], light="seeded", background="#3366ff", seed=3)
    Notes.made.clear()
    render.render_dataset([str(tmp_path / "m")], out, dataclasses.replace(how, **more))
    assert lights.sample_light("b", 3) in [getattr(m, "light", None) for m in Notes.made]
    render.render_dataset([str(tmp_path / "m")], plain, how)
    for record in open_dataset(out, "all"):
        np.testing.assert_allclose(
            record["depth"], np.tile(record["distance"][:, None, None], (1, 8, 8)), atol=3e-5
        )
        assert record["normals"].shape == (4, 8, 8, 3) and not record["normals"].any()
        np.testing.assert_array_equal(record["albedo"], np.full((4, 8, 8, 4), 7))
        light = lights.sample_light(record["name"], 3)
        np.testing.assert_array_equal(record["light"], light.numbers())
        np.testing.assert_allclose(record["background"], [0.2, 0.4, 1.0], atol=1e-6)
    assert not set(LAYERS) & set(read_stored(open_dataset(out, "all"), 0))
    for record in open_dataset(plain, "all"):
        assert not {*LAYERS, "light", "background"} & set(record)
    # A folder from before there were such options has none of them, and goes on.
    settings = json.loads((plain / "settings.json").read_text())
    kept = {k: v for k, v in settings.items() if k not in ("layers", "light", "engine")}
    (plain / "settings.json").write_text(json.dumps(kept))
    render.render_dataset([str(tmp_path / "m")], plain, how)
    with pytest.raises(UserError, match="--light even, not seeded"):
        other = dataclasses.replace(how, light="seeded")
        render.render_dataset([str(tmp_path / "m")], plain, other)


def test_backgrounds_are_a_colour_or_each_objects_own():
    how = render.How(background="random", seed=2)
    a, b = (render.choose_background(name, how) for name in "ab")
    assert np.abs(a - b).max() > 0.05 and (a >= 0).all() and (a <= 1).all()
    np.testing.assert_array_equal(render.choose_background("a", how), a)
    other = render.How(background="random", seed=3)
    assert (render.choose_background("a", other) != a).any()


def test_objects_share_pictures_of_light_by_their_names():
    how = render.How(hdri=("one.hdr", "two.hdr"), engine="blender")
    chosen = [render.choose_light(f"object{k}", how).picture for k in range(12)]
    assert set(chosen) == set(how.hdri) and chosen[0] == render.choose_light("object0", how).picture
    assert render.choose_light("a", render.How()) is lights.EVEN


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(layers=["dept"]), "--layers dept: there is no such layer"),
        (dict(light="sun"), "--light sun: choose from even, seeded"),
        (dict(background="whitish"), "--background whitish: not a colour"),
        (dict(engine="unreal"), "--engine unreal: choose from rasterizer, blender"),
        (dict(hdri=["gone.hdr"], engine="blender"), "--hdri gone.hdr: there is no such file"),
        (dict(hdri=["FILE"]), "is light for --engine blender"),
        (dict(hdri=["OTHER"], engine="blender"), "not a picture of one of"),
    ],
)
def test_unknown_options_are_refused_before_anything_is_drawn(tmp_path, options, said):
    write_folder(tmp_path / "m", ["a"])
    files = {"FILE": str(tmp_path / "sky.hdr"), "OTHER": str(tmp_path / "m" / "a.obj")}
    (tmp_path / "sky.hdr").touch()
    if "hdri" in options:
        options = options | {"hdri": [files.get(name, name) for name in options["hdri"]]}
    with pytest.raises(UserError, match=said):
        render.render_dataset([str(tmp_path / "m")], tmp_path / "out", render.How(**options))
    assert not (tmp_path / "out").exists()


def test_a_record_is_of_its_objects_views_names_and_split(assets):
    machine = Notes(8)
    record = render.render_object(assets[1], machine, render.How(8, 2, 3))
    want = render.sample_cameras("b", 3, 2)
    for name, value in want.items():
        np.testing.assert_array_equal(record[name], value)
    for k, (c2w, fov) in enumerate(machine.drawn):
        np.testing.assert_array_equal(c2w, want["c2w"][k])
        assert fov == want["fov_deg"][k] and (record["images"][k, ..., 0] == k + 1).all()
    assert record["images"].shape == (8, 8, 8, 4)
    texts = {
        k: str(record[k]) for k in ("name", "title", "category", "creator", "license", "source")
    }
    assert texts == {k: getattr(assets[1], k) for k in texts}
    assert record["split"] == asset_sources.assign_split("b")
    (parts,) = machine.loaded
    np.testing.assert_allclose(points(parts), points(asset_sources.load_asset(assets[1])))


def test_stretch_and_warp_reach_the_renderer(assets):
    """Each by the factors of the object's name and the seed, one after the other."""
    for stretch, warp in ((0.4, 0.0), (0.0, 0.5), (0.4, 0.5)):
        machine = Notes(8)
        render.render_object(assets[0], machine, render.How(8, 1, 3, stretch, warp))
        parts = asset_sources.load_asset(assets[0])
        plain = points(parts)
        if stretch:
            parts = proportions.stretched(parts, proportions.draw_proportions("a", 3, stretch))
        if warp:
            parts = proportions.warped(parts, proportions.draw_slopes("a", 3, warp))
        np.testing.assert_allclose(points(machine.loaded[0]), points(parts))
        assert np.abs(points(parts) - plain).max() > 2e-3


def test_what_is_hardly_visible_is_left_out(assets):
    machine = Notes(100)
    machine.covered = 0.005
    render.render_object(assets[0], machine, render.How(100, 1))
    machine.covered = 0.0049
    with pytest.raises(meshes.BadMesh, match="hardly visible: 0.49% of a view"):
        render.render_object(assets[0], machine, render.How(100, 1))


def test_all_settings_reach_every_object_and_are_written_down(
    assets, tmp_path, monkeypatch, capsys, in_process
):
    asked = []
    original = render.render_object
    monkeypatch.setattr(
        render,
        "render_object",
        lambda a, m, how: asked.append((a.name, how)) or original(a, m, how),
    )
    filters = ("shape", "coverage")
    (tmp_path / "m" / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    out = tmp_path / "out"
    Notes.made.clear()
    how = dict(resolution=12, sets=2, seed=7, stretch=0.25, warp=0.5, up="y", cameras="mvdream",
               views_per_set=3, light="seeded", background="random", samples=9)  # fmt: skip
    counts = render.render_dataset([str(tmp_path / "m")], out, render.How(**how))
    assert counts["left out"] == 1 and sum(counts.values()) == 4
    assert (out / "skipped.txt").read_text().startswith("flat\tflat: sides")
    given = render.How(**how, filters=filters)
    assert sorted(asked) == [(name, given) for name in ("a", "b", "c", "flat")]
    assert {machine.resolution for machine in Notes.made} == {12}
    assert json.loads((out / "settings.json").read_text()) == how | {
        "shards": 1, "filters": list(filters), "layers": [], "engine": "rasterizer", "hdri": []
    }  # fmt: skip
    assert {record["images"].shape for record in open_dataset(out, "all")} == {(6, 12, 12, 4)}
    # Again: only what is not there, and what was refused where it is asked for.
    for only, retry, drawn in ((None, False, []), (["a"], True, []),
                               (None, True, ["flat"]), (None, False, [])):  # fmt: skip
        asked.clear()
        chosen = render.Chosen(only)
        render.render_dataset([str(tmp_path / "m")], out, given, chosen, retry_refused=retry)
        assert [name for name, *_ in asked] == drawn
    write_folder(tmp_path / "m", ["d"], y=0.5)
    assert sum(render.render_dataset([str(tmp_path / "m")], out, given).values()) == 5
    assert [name for name, *_ in asked] == ["d"]
    # With the same settings alone.
    for name, value in (how | {"shards": 1}).items():
        texts = {"up": "z", "cameras": "sds", "light": "even", "background": "#102030"}
        other = how | {name: texts.get(name) or value + 1}
        count = other.pop("shards", 1)
        with pytest.raises(UserError, match=f"--{name} {value}, not {other.get(name, 2)}"):
            render.render_dataset([str(tmp_path / "m")], out, render.How(**other), count=count)
    (out / "settings.json").write_text('{"seed": 7}')
    with pytest.raises(UserError, match="is of an earlier version"):
        render.render_dataset([str(tmp_path / "m")], out, given)
    (out / "settings.json").write_text("[")
    with pytest.raises(UserError, match="settings.json is damaged"):
        render.render_dataset([str(tmp_path / "m")], out, given)


def test_a_shard_is_of_its_objects_alone(tmp_path, in_process, capsys):
    names = [f"object{k}" for k in range(12)]
    write_folder(tmp_path / "m", names, y=0.5)
    out = tmp_path / "out"
    how = render.How(8, 1)
    counts = render.render_dataset([str(tmp_path / "m")], out, how, shard="1/3")
    mine = [name for name in names if Shard(1, 3).holds(name)]
    assert sorted(manifest(out)) == sorted(mine) and 0 < len(mine) < 12
    assert counts["left out"] == 0 and sum(counts.values()) == len(mine)
    with pytest.raises(UserError, match="not finished"):
        open_dataset(out, "train")
    with pytest.raises(UserError, match="--shards 3, not 2"):
        render.render_dataset([str(tmp_path / "m")], out, how, shard="1/2")
    # Without --shard all are rendered that are not there: of as many as there are.
    counts = render.render_dataset([str(tmp_path / "m")], out, how)
    assert sum(counts.values()) == 12 and len(open_dataset(out, "all")) == 12


def test_the_commands_flags_reach_the_rendering(monkeypatch, tmp_path, capsys):
    from absl import flags

    asked = []
    monkeypatch.setattr(render, "render_shards", lambda *a: asked.append(a))
    monkeypatch.setattr(joining, "join_shards", lambda out: {"train": 1, "left out": 3})
    write_folder(tmp_path / "m", ["a", "b"])
    (tmp_path / "list").write_text("b\n")
    (tmp_path / "known.json").write_text('{"b": {"license": "by", "name": "B"}}')
    (tmp_path / "sky.hdr").touch()
    names = dict(
        _ASSETS=[str(tmp_path / "m")], _OUT=str(tmp_path / "out"), _RESOLUTION=24, _SETS=3, _SEED=5,
        _STRETCH=0.25, _WARP=0.75, _WORKERS=2, _ONLY=["b"], _UP="z", _SHARD=None, _SHARDS=3,
        _RETRY=True, _FILTERS=["grey", "shape"], _LICENSES=["CC0-1.0"],
        _UIDS=str(tmp_path / "list"), _METADATA=str(tmp_path / "known.json"), _BEAM=None,
        _CAMERAS="sds", _VIEWS_PER_SET=5, _LAYERS=["albedo", "depth"], _LIGHT="seeded",
        _BACKGROUND="white", _ENGINE="blender", _SAMPLES=3, _HDRI=[str(tmp_path / "sky.hdr")],
        _BLENDER_PYTHON="other",
    )  # fmt: skip
    for name, value in names.items():
        assert isinstance(getattr(render, name), flags.FlagHolder)
        monkeypatch.setattr(render, name, type("Flag", (), {"value": value}))
    render.main([])
    ((assets, *rest),) = asked
    out = places.place(tmp_path / "out")
    how = render.How(
        24, 3, 5, 0.25, 0.75, "z", ("shape", "grey"), "sds", 5, ("depth", "albedo"), "seeded",
        "white", "blender", 3, (str(tmp_path / "sky.hdr"),),
    )  # fmt: skip
    assert [(a.name, a.license, a.title) for a in assets] == [("b", "CC-BY-4.0", "B")]
    assert rest == [out, [Shard(k, 3) for k in range(3)], how, 2, True, ["CC0-1.0"], "other"]
    assert assets[0].rotation == (1, 0, 0, 0, 0, 1, 0, -1, 0)
    assert "left out 3" in capsys.readouterr().out


def test_icons_are_kept_beside_the_objects_and_credits_name_the_makers(tmp_path, in_process):
    path = write_catalogue(tmp_path / "c.sh3f", [{"stem": "lamp", "creator": "A|B"}])
    assets = asset_sources.find_assets([str(path)])
    render_all(assets, tmp_path, render.How(8, 1))
    assert (tmp_path / "icons" / f"{assets[0].name}.png").read_bytes() == b"icon of lamp"
    rows = (tmp_path / "CREDITS.md").read_text().splitlines()
    assert rows[-1] == "| c-lamp | lamp | A/B | CC0-1.0 | c |"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_object_that_ends_its_process_is_left_out_and_the_others_are_rendered(
    tmp_path, monkeypatch, workers
):
    everything = asset_sources.find_assets([str(write_folder(tmp_path / "m", list("abc"), y=0.5))])
    monkeypatch.setattr(rasterizer, "Rasterizer", Notes)
    monkeypatch.setattr(render, "_make_machine", make_notes)
    monkeypatch.setattr(render, "_work", end_at_b)
    skipped = render_all(everything, tmp_path / "out", render.How(8, 1), workers=workers)
    assert skipped == {"b": "its process ended with SIGSEGV"}
    assert "b\tits process ended with SIGSEGV" in (tmp_path / "out" / "skipped.txt").read_text()
    assert [record["name"] for record in open_dataset(tmp_path / "out", "all")] == ["a", "c"]


def test_too_little_memory_is_the_processs_end_and_no_fault(assets):
    machine = Notes(8)
    machine.load = lambda parts, light: np.empty(2**58)  # numpy's own kind of MemoryError
    with pytest.raises(MemoryError):
        render._work(machine, assets[0], render.How(8, 1))


def test_limits_grow_with_the_pictures():
    assert render.limits(render.How(8, 1)) == pytest.approx((60.0, 3 << 30), rel=1e-3)
    seconds, memory = render.limits(render.How(2048, 6))
    assert 600 < seconds < 3600 and 5 << 30 < memory < 8 << 30
    assert render.limits(render.How(8, 1, views_per_set=8, engine="blender"))[0] > 140


def test_one_bad_object_never_ends_a_run_and_what_others_lack_is_written_down(
    assets, tmp_path, monkeypatch, in_process
):
    (tmp_path / "m" / "cube.mtl").unlink()  # of all three
    original = asset_sources.load_asset

    def load(asset, note):
        if asset.name == "b":
            raise IndexError("line one\nline two \ud800")
        return original(asset, note)

    monkeypatch.setattr(asset_sources, "load_asset", load)
    faulty = [dataclasses.replace(assets[2], name="d", fault="known before")]
    out = tmp_path / "out"
    for _ in range(2):  # the second run says the same of what the first one rendered
        skipped = render_all([*assets, *faulty], out, render.How(8, 1))
        assert set(skipped) == {"b", "d"}
        lines = dict(line.split("\t") for line in (out / "skipped.txt").read_text().splitlines())
        assert lines["a"].startswith("rendered, but no materials: cube.mtl is not there")
        assert "the material 'front' is not there" in lines["c"] and lines["d"] == "known before"
        fault = "a fault while it was read or drawn: IndexError: line one line two \ufffd"
        assert lines["b"] == fault
