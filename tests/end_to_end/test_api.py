"""The package as a library: a picture to views and a mesh, stopped, gone on with, exported."""

import dataclasses
import errno
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
import trimesh
from ml_collections import ConfigDict
from PIL import Image

import iso3d_jax as iso3d
from iso3d_jax import pipeline
from iso3d_jax.commands import config_files
from iso3d_jax.data import transforms
from iso3d_jax.data.pictures import load_picture
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.reconstruction import state

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "iso3d_jax" / "data" / "examples" / "trash_can.png"


@pytest.fixture(scope="module")
def pipe(model_folder):
    return iso3d.Pipeline.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def smallest():
    return config_files.load_config(str(ROOT / "tests" / "smallest_reconstruction.py"))


@pytest.fixture(scope="module")
def views(pipe):
    return pipe.views(PICTURE, seed=3, steps=2)


@pytest.fixture(scope="module")
def result(pipe, views, smallest):
    return pipe.reconstruct(views, config=smallest)


def test_views_come_with_their_cameras(pipe, views):
    size = pipe.model.config.resolution
    assert views.images.shape == (4, size, size, 3) and len(views) == 4 and views.seed == 3
    np.testing.assert_array_equal(views.azimuth_deg, [0, 90, 180, 270])
    np.testing.assert_array_equal(views.elevation_deg, [15] * 4)
    np.testing.assert_array_equal(views.picture, load_picture(PICTURE))
    direct = iso3d.sample_views(pipe.model, [load_picture(PICTURE)], seed=3, steps=2)
    np.testing.assert_array_equal(views.images, direct[0])
    turned = pipe.views(PICTURE, num_views=3, azimuth_deg=300.0, elevation_deg=20.0, steps=2)
    np.testing.assert_array_equal(turned.azimuth_deg, [300, 60, 180])
    assert turned.elevation_deg[2] == 20.0


def test_pictures_are_a_path_bytes_an_image_or_an_array(pipe, views):
    rgba = load_picture(PICTURE)
    with Image.open(PICTURE) as opened:
        image = opened.copy()
    kinds = {
        "text": str(PICTURE), "bytes": PICTURE.read_bytes(), "image": image, "array": rgba,
        "floats": rgba / 255.0,
    }  # fmt: skip
    for name, picture in kinds.items():
        found = pipe.views(picture, seed=3, steps=2)
        np.testing.assert_array_equal(found.images, views.images, err_msg=name)
    grey = np.full((64, 64), 255, np.uint8)
    grey[20:40, 10:50] = 90
    assert pipe.views(grey, steps=2).picture.shape == (64, 64, 4)


@pytest.mark.parametrize(
    "picture, words",
    [
        (b"no picture", "the picture is not a picture"),
        (np.zeros((8, 8, 2), np.uint8), r"\[8, 8, 2\]"),
        (np.full((32, 32, 3), 7.0), "floats between 0 and 1"),
        (np.zeros((32, 32, 3), np.int64), "int64"),
        ("no/such.png", "picture not found: no/such.png"),
    ],
)
def test_hopeless_pictures_are_one_sentence(pipe, picture, words):
    with pytest.raises(iso3d.UserError, match=words):
        pipe.views(picture)


def test_a_pipeline_on_another_device_has_the_same_weights_and_its_own_programs(pipe, views):
    import jax

    other = pipe.on_device(jax.devices()[0])
    assert other is not pipe and other.folder == pipe.folder and other.model is not pipe.model
    pipe._programs["key"] = {}
    assert "key" not in other._programs
    del pipe._programs["key"]
    again = other.views(views.picture, seed=views.seed, steps=2)
    np.testing.assert_array_equal(again.images, views.images)


def test_views_are_saved_and_loaded(views, tmp_path):
    with Image.open(views.save(tmp_path / "new" / "views.png")) as sheet:
        assert sheet.size == views.grid().size and sheet.size[0] > 5 * 256
    loaded = iso3d.Views.load(views.save(tmp_path / "views.npz"))
    for field in dataclasses.fields(views):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(views, field.name))
    folder = views.save(tmp_path / "each")
    assert sorted(p.name for p in folder.iterdir()) == [
        "0_azimuth000.png", "1_azimuth090.png", "2_azimuth180.png", "3_azimuth270.png"
    ]  # fmt: skip
    with Image.open(folder / "2_azimuth180.png") as image:
        assert np.abs(np.asarray(image) / 255 - views.images[2]).max() < 0.003
    (tmp_path / "bad.npz").write_bytes(b"x")
    with pytest.raises(iso3d.UserError, match="bad.npz is damaged"):
        iso3d.Views.load(tmp_path / "bad.npz")


def test_an_object_from_views_is_a_mesh_with_files(pipe, views, result, smallest, tmp_path):
    np.testing.assert_array_equal(result.views.images, views.images)
    np.testing.assert_array_equal(result.sampled[0], views.images)  # the first set is the given one
    assert result.report["seed"] == 3 and smallest.seed == 22  # the caller's config is as it was
    assert isinstance(result.mesh, trimesh.Trimesh) and len(result.mesh.faces) > 100
    assert result.mesh.visual.material.baseColorTexture.size == (64, 64)
    assert result.page == (result.folder / "index.html").resolve() and result.page.is_file()
    frames = result.turntable(frames=5, size=24)
    assert frames.shape == (5, 24, 24, 3) and frames.dtype == np.uint8 and frames.std() > 1
    with Image.open(result.save_turntable(tmp_path / "t.webp", frames=2, size=24)) as image:
        assert image.size == (72, 24) and image.n_frames == 2
    with pytest.raises(iso3d.UserError, match="size is at least 1, not 0"):
        result.turntable(size=0)

    facts = result.export(tmp_path / "x.glb", texture=128)
    assert facts["files"] == ["x.glb"] and facts["threshold"] > 0
    again = trimesh.load(tmp_path / "x.glb", force="mesh")
    assert again.visual.material.baseColorTexture.size == (128, 128)
    assert result.spec.mesh.texture == 64
    coarse = result.export(tmp_path / "x.ply", faces=600, resolution=16)
    assert 100 < coarse["faces"] < facts["faces"]
    even = result.export(tmp_path / "x.obj", remesh="quads", faces=400)
    assert even["remesh"] == "quads" and 200 < even["quads"] < 800
    lines = [x for x in (tmp_path / "x.obj").read_text().splitlines() if x.startswith("f ")]
    four = sum(len(line.split()) == 5 for line in lines)
    assert four == even["quads"] - even["quads_cut"] > 100
    with pytest.raises(iso3d.UserError, match=r"ends in .glb, .obj, .*, not in 'x.fbx'"):
        result.export(tmp_path / "x.fbx")
    data = (tmp_path / "x.glb").read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert tree["asset"]["extras"]["seed"] == result.spec.seed

    loaded = iso3d.Reconstruction.load(result.folder)
    np.testing.assert_array_equal(loaded.views.images, views.images)
    np.testing.assert_array_equal(loaded.views.picture, views.picture)
    np.testing.assert_array_equal(loaded.turntable(frames=5, size=24), frames)
    assert len(loaded.mesh.faces) == len(result.mesh.faces) and loaded.report == result.report


def test_a_temporary_folder_goes_with_its_result(pipe, smallest):
    result = pipe.reconstruct(PICTURE, config=smallest, seed=3)
    folder = result.folder
    assert folder.is_dir()
    del result
    assert not folder.exists()


@pytest.mark.long
def test_steps_are_told_and_may_be_stopped(pipe, views, smallest, tmp_path):
    cfg = config_files.load_config(str(ROOT / "tests" / "smallest_reconstruction.py"))
    cfg.init, cfg.steps_per_call, cfg.preview_every = "views", 2, 2
    cfg.draft.steps = 4
    told = []

    def on_step(step, total, preview):
        told.append((step, total, None if preview is None else preview.shape))
        return step < 2  # in the middle of the draft

    with pytest.raises(iso3d.Interrupted):
        pipe.reconstruct(views, config=cfg, out=tmp_path, on_step=on_step)
    # The draft's 4 iterations, then those from 3 of 4 on: init_skip is .7 of the schedules.
    assert [step for step, *_ in told] == [0, 2] and {t for _, t, _ in told} == {5}
    assert told[0][2][1] > 1000 and told[0][2][2] == 3  # the sheet of the views
    told.clear()
    pipe.reconstruct(views, config=cfg, out=tmp_path, on_step=lambda *args: told.append(args))
    assert [step for step, *_ in told] == [0, 4, 5]
    assert told[-1][2].dtype == np.uint8  # a preview of the scene


@pytest.mark.long
def test_a_stopped_run_goes_on_to_the_same_mesh(pipe, views, smallest, result, tmp_path):
    cfg = config_files.load_config(str(ROOT / "tests" / "smallest_reconstruction.py"))
    cfg.steps_per_call = 2
    with pytest.raises(iso3d.Interrupted):
        pipe.reconstruct(views, config=cfg, out=tmp_path, on_step=lambda step, *_: step < 2)
    told = []
    again = pipe.reconstruct(
        views, config=cfg, out=tmp_path, on_step=lambda *args: told.append(args)
    )
    assert [step for step, *_ in told] == [0, 4]
    np.testing.assert_array_equal(again.mesh.vertices, result.mesh.vertices)


def test_values_of_the_config_by_their_keys(pipe, views):
    given = {"guidance.scale": 7.5, "mesh.texture": 64}
    cfg = pipe._config("tiny,steps=40", given)
    assert (cfg.guidance.scale, cfg.mesh.texture, cfg.steps) == (7.5, 64, 40)
    assert pipe._config(None, None).preset == "tiny"  # a small model's own
    for key, hint in {
        "guidance.scal": "did you mean 'scale'", "gidance.scale": "did you mean 'guidance'",
        "steps.x": "no section 'steps'",
    }.items():  # fmt: skip
        with pytest.raises(iso3d.UserError, match=hint):
            pipe.reconstruct(views, config={key: 1.0})
    with pytest.raises(iso3d.UserError, match="unknown preset 'tny'"):
        pipe.reconstruct(views, preset="tny")
    with pytest.raises(iso3d.UserError, match="guidance.scale"):
        pipe.reconstruct(views, config={"guidance.scale": "much"})


def test_what_cannot_be_made_into_an_object_is_refused(pipe, smallest):
    with pytest.raises(iso3d.UserError, match="did you mean 'framed'"):
        pipe.views(PICTURE, preprocessing="frame")
    with pytest.raises(iso3d.UserError, match="between 1 and 64"):
        pipe.views(PICTURE, num_views=0)


def refuse(path):
    """What a read-only disk says; this may run as the one user that every right is given to."""
    raise OSError(errno.EROFS, "Read-only file system", str(path))


@pytest.mark.parametrize("call", ["views", "input", "reconstruct", "export", "load"])
def test_what_the_disk_refuses_is_one_sentence(
    pipe, views, result, smallest, tmp_path, monkeypatch, call
):
    """As at the commands: a UserError with the path and what to do, no OSError."""
    monkeypatch.setattr("os.replace", lambda source, target: refuse(target))
    monkeypatch.setattr(state, "load", lambda folder, *_: refuse(folder))
    calls = {
        "views": lambda: views.save(tmp_path / "x.png"),
        "input": lambda: pipe.save_input(PICTURE, tmp_path / "x.png"),
        "reconstruct": lambda: pipe.reconstruct(views, config=smallest, out=tmp_path / "x"),
        "export": lambda: result.export(tmp_path / "x.ply", faces=100, resolution=8, threshold=1.0),
        "load": lambda: iso3d.Reconstruction.load(result.folder),
    }
    with pytest.raises(iso3d.UserError, match="the disk of .* is read-only: give another folder"):
        calls[call]()


def test_a_file_in_a_folders_place_and_a_folder_in_a_files(pipe, views, smallest, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(iso3d.UserError, match="cannot make the folder .*: a file has that name"):
        pipe.reconstruct(views, config=smallest, out=tmp_path / "file")
    for path in ("file", "file/below"):
        with pytest.raises(iso3d.UserError, match="cannot make the folder"):
            views.save(tmp_path / path)
    for save in (views.save, lambda path: pipe.save_input(PICTURE, path)):
        with pytest.raises(iso3d.UserError, match="folder.png is a folder where a file is to be"):
            save(tmp_path / "folder.png")
    with pytest.raises(iso3d.UserError, match="folder.png is a folder, not a picture"):
        pipe.views(tmp_path / "folder.png")
    with pytest.raises(iso3d.UserError, match="model folder not found|holds no model|no model"):
        iso3d.Pipeline.from_pretrained(tmp_path / "file")


def test_the_input_is_saved_as_a_png(pipe, views, tmp_path):
    with Image.open(pipe.save_input(PICTURE, tmp_path / "new" / "seen.png")) as seen:
        assert np.abs(np.asarray(seen) / 255 - views.prepared).max() < 0.003
    for name in ("seen", "seen.jpg"):
        with pytest.raises(iso3d.UserError, match=f"{name} does not end in .png"):
            pipe.save_input(PICTURE, tmp_path / name)
    with pytest.raises(iso3d.UserError, match="did you mean 'framed'"):
        pipe.save_input(PICTURE, tmp_path / "seen.png", "frame")


def test_backgrounds_are_removed_as_asked_wherever_a_picture_is_taken(
    pipe, smallest, tmp_path, monkeypatch
):
    """ "never" keeps all of a plain picture; and a matting model that is not there is refused."""
    plain = np.full((60, 80, 3), 255, np.uint8)
    plain[20:40, 30:50] = 40
    assert pipe.views(plain, steps=1).picture[..., 3].min() == 0
    assert pipe.views(plain, steps=1, remove_background="never").picture[..., 3].min() == 255
    taken = []

    def reconstruct(_model, picture, *_given, **_options):
        taken.append(picture)
        return types.SimpleNamespace()

    monkeypatch.setattr(pipeline, "reconstruct_with_page", reconstruct)
    pipe.reconstruct(plain, config=smallest, out=tmp_path, remove_background="never")
    assert taken[0][..., 3].min() == 255
    pipe.save_input(plain, tmp_path / "a.png", remove_background="never")
    pipe.save_input(plain, tmp_path / "b.png")
    a, b = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "b.png"))
    assert (b.min(-1) < 100).mean() > 4 * (a.min(-1) < 100).mean()  # the object alone is larger
    options = dict(remove_background="always", matting_model="/nowhere.onnx")
    for call in (
        lambda: pipe.views(PICTURE, **options),
        lambda: pipe.save_input(PICTURE, tmp_path / "c.png", **options),
        lambda: pipe.reconstruct(PICTURE, config=smallest, out=tmp_path / "r", **options),
    ):
        with pytest.raises(iso3d.UserError, match="nowhere.onnx|onnxruntime"):
            call()
    failed = pipe.reconstruct_all({"x": PICTURE}, tmp_path / "all", config=smallest, **options)
    assert "nowhere.onnx" in failed["x"] or "onnxruntime" in failed["x"]


def test_two_pipelines_live_beside_each_other(pipe, views, model_folder):
    other = iso3d.Pipeline.from_pretrained(Path(model_folder), dtype="bfloat16")
    assert other.model.dtype == "bfloat16" and pipe.model.dtype == "float32"
    assert np.abs(other.views(PICTURE, seed=3, steps=2).images - views.images).max() > 0
    np.testing.assert_array_equal(pipe.views(PICTURE, seed=3, steps=2).images, views.images)


@pytest.mark.long
def test_the_page_of_examples_runs(pipe, smallest, tmp_path, monkeypatch):
    """Every block of docs/python.md, in one go, with a small model, preset and texture."""
    text = (ROOT / "docs" / "python.md").read_text()
    smaller = {"texture=1024": "texture=64", '"mesh.texture": 512': '"mesh.texture": 64'}
    smaller |= {"frames=8, size=512": "frames=8, size=64", "size=256": "size=64"}
    for large, small in smaller.items():
        assert large in text
        text = text.replace(large, small)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    Path("chair.png").write_bytes(PICTURE.read_bytes())
    Path("lego").mkdir()
    square = np.zeros((32, 32, 4), np.uint8)
    square[8:24, 8:24] = (230, 20, 20, 255)
    names = [f"{k}.png" for k in range(5)]
    for name in names:
        Image.fromarray(square).save(Path("lego") / name)
    poses = camera_to_world(np.full(5, 10.0), np.arange(5) * 72.0, 3.0)
    transforms.write(Path("lego/transforms.json"), names, poses, np.full(5, 40.0), 32)
    from iso3d_jax.presets import reconstruct

    monkeypatch.setattr(reconstruct, "get_config", lambda arg="": ConfigDict(smallest.to_dict()))
    given = iso3d.Pipeline.from_pretrained
    monkeypatch.setattr(
        iso3d.Pipeline, "from_pretrained", classmethod(lambda cls, *a, **k: given(pipe.folder))
    )
    space: dict = {}
    for block in blocks:
        if "# needs" in block.partition("\n")[0]:
            continue
        exec(compile(block, "docs/python.md", "exec"), space)  # noqa: S102
    assert (tmp_path / "chair.glb").is_file() and (tmp_path / "runs/lego/mesh.glb").is_file()
