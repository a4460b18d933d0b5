"""What the commands refuse, each in one sentence."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iso3d_jax import reconstruct
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.posed_pictures import LAYOUTS
from iso3d_jax.reconstruct import default_config
from iso3d_jax.reconstruction import batch, loop, run, settings, state
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.weights.bundle import load_model

Named = SimpleNamespace(dtype="float32")  # what a run asks a model whose folder it knows


def metadata(cfg, **changes):
    entry = {"picture": "p", "model": "m", "init": "none", "dtype": "float32"}
    entry["config"] = cfg.to_dict()
    return entry | changes


@pytest.mark.parametrize(("key", "name"), [("picture", "picture"), ("model", "model")])
def test_a_folder_of_another_run_is_refused(small_config, tmp_path, key, name):
    assert not run._check_same_run(
        tmp_path, metadata(make_spec(small_config)), make_spec(small_config)
    )
    state.save(tmp_path, state.start(make_spec(small_config)), metadata(make_spec(small_config)))
    assert run._check_same_run(tmp_path, metadata(make_spec(small_config)), make_spec(small_config))
    with pytest.raises(UserError, match=f"another {name}.*--out"):
        run._check_same_run(
            tmp_path, metadata(make_spec(small_config), **{key: "other"}), make_spec(small_config)
        )


def test_a_folder_of_another_type_is_refused_with_the_flag_that_goes_on(small_config, tmp_path):
    state.save(tmp_path, state.start(make_spec(small_config)), metadata(make_spec(small_config)))
    with pytest.raises(UserError, match="float32 and this one is in bfloat16: add --dtype float"):
        run._check_same_run(
            tmp_path, metadata(make_spec(small_config), dtype="bfloat16"), make_spec(small_config)
        )


def test_a_folder_of_another_config_is_refused(small_config, tmp_path):
    state.save(tmp_path, state.start(make_spec(small_config)), metadata(make_spec(small_config)))
    free = small_config.copy_and_resolve_references()
    free.preview_every, free.mesh.faces = 7, 99
    assert run._check_same_run(tmp_path, metadata(free), free)
    other = small_config.copy_and_resolve_references()
    other.guidance.rescale = 0.25
    with pytest.raises(UserError, match=r"config\.guidance\.rescale differ"):
        run._check_same_run(tmp_path, metadata(other), make_spec(other))
    assert "mesh" not in settings.comparable(small_config.to_dict())


def test_a_run_that_is_not_finished_may_go_on_with_another_seed_and_other_rates(
    small_config, tmp_path
):
    there = metadata(make_spec(small_config))
    stopped = state.start(make_spec(small_config))._replace(step=jnp.int32(7), skipped=jnp.int32(3))
    state.save(tmp_path, stopped, there)
    other = small_config.copy_and_resolve_references()
    other.seed, other.guidance.scale, other.max_bad_steps = 1, 2.5, 3
    other.optimizer.update(encoding=0.002, networks=0.003)
    assert run._check_same_run(tmp_path, metadata(other), make_spec(other))
    now = loop.go_on(tmp_path, metadata(other), stopped, small_config.steps)
    changes = [
        {"iteration": 7, "key": "seed", "from": 22, "to": 1},
        {"iteration": 7, "key": "optimizer.encoding", "from": 0.03, "to": 0.002},
        {"iteration": 7, "key": "optimizer.networks", "from": 0.01, "to": 0.003},
        {"iteration": 7, "key": "guidance.scale", "from": 1.3, "to": 2.5},
    ]
    assert now["changes"] == changes and now["config"] == other.to_dict()
    history = {"wanted_candidates": [0.5, 1.25], "wanted_samples": [0.75, 0.25], "step": [4, 7]}
    report = run._report(now, history, stopped, {}, {}, {}, other)
    assert report["changes"] == changes and report["seed"] == 1
    assert report["skipped_iterations"] == 3
    assert report["wanted"] == {"candidates": 1.25, "samples": 0.75}

    # a second change is written below the first; what is finished is not another seed's
    state.save(tmp_path, stopped._replace(step=jnp.int32(20)), now)
    with pytest.raises(UserError, match=r"finished run .*config\.seed differ"):
        run._check_same_run(tmp_path, metadata(make_spec(small_config)), make_spec(small_config))
    state.save(tmp_path, stopped._replace(step=jnp.int32(9)), now)
    again = loop.go_on(
        tmp_path, metadata(make_spec(small_config)), stopped._replace(step=jnp.int32(9)), 20
    )
    assert [c["iteration"] for c in again["changes"]] == [7] * 4 + [9] * 4


def test_a_finished_run_s_file_follows_what_may_change(small_config, tmp_path):
    """The mesh of another threshold is also what export writes then."""
    done = state.start(make_spec(small_config))._replace(step=jnp.int32(small_config.steps))
    state.save(tmp_path, done, metadata(make_spec(small_config)))
    small_config.mesh.threshold = 25.0
    assert run._check_same_run(tmp_path, metadata(make_spec(small_config)), make_spec(small_config))
    loop.go_on(tmp_path, metadata(make_spec(small_config)), done, small_config.steps)
    there = state.load_metadata(tmp_path)
    assert there["config"]["mesh"]["threshold"] == 25.0 and "changes" not in there


def test_a_draft_goes_on_with_its_own_views_and_config(small_config, tmp_path):
    """Where only a draft was begun, it is it that a call must fit to."""
    of_draft = draft.draft_spec(make_spec(small_config), 16)
    there = metadata(make_spec(small_config), init="views", config=of_draft.to_dict())
    assert not draft.is_begun(tmp_path)
    folder = tmp_path / draft.FOLDER
    folder.mkdir()
    state.save(folder, state.start(of_draft)._replace(step=jnp.int32(2)), there)
    assert draft.is_begun(tmp_path) and not state.exists(tmp_path)
    drawn = np.random.default_rng(0).random((4, 4, 16, 16, 3))
    np.savez(tmp_path / "views.npz", views=drawn)
    got = run._sample_views(None, None, None, tmp_path, make_spec(small_config), begun=True)
    np.testing.assert_array_equal(got, drawn)
    for key, value in (("rays", 99), ("white", (0.1, 0.2))):
        changed = small_config.copy_and_resolve_references()
        changed.draft[key] = value
        other = draft.draft_spec(make_spec(changed), 16)
        with pytest.raises(UserError, match=rf"config\.draft\.{key} differ"):
            run._check_same_run(folder, there | {"config": other.to_dict()}, other)
    small_config.seed, small_config.draft.networks = 1, 0.5
    other = draft.draft_spec(make_spec(small_config), 16)
    assert run._check_same_run(folder, there | {"config": other.to_dict()}, other)


def test_numbers_of_the_mesh_and_of_bad_steps_are_checked(small_config):
    for group, key, value in (
        ("mesh", "threshold", -1.0), ("mesh", "threshold", float("nan")),
        ("mesh", "remove_outliers", 1.5), ("", "max_bad_steps", 0),
    ):  # fmt: skip
        wrong = small_config.copy_and_resolve_references()
        (wrong[group] if group else wrong)[key] = value
        with pytest.raises(UserError, match=f"config.{group + '.' if group else ''}{key} must be"):
            make_spec(wrong)


def test_preset_follows_the_model(tmp_path):
    assert default_config(["x"]) == "reconstruct:tiny"
    for resolution, preset in ((64, "tiny"), (256, "isotropic3d")):
        folder = tmp_path / str(resolution) / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps({"resolution": resolution}))
        for given in ([f"--model={folder.parent}"], ["--model", str(folder)]):
            assert default_config(["x", *given]).endswith(f":{preset}")


def test_given_views_have_a_preset_of_their_own_and_no_model(tmp_path, monkeypatch):
    assert default_config(["x", "--views", "d"]) == default_config(["x", "--views=d"])
    assert default_config(["x", "--views", "d"]) == "reconstruct:views"
    assert reconstruct.flags.FLAGS["layout"].parser.enum_values == list(LAYOUTS)

    def refused(said, **values):
        absent = ("_MODEL", "_INIT", "_SAVE_INPUT", "_DTYPE", "_MODE", "_MATTING_MODEL")
        flags = dict.fromkeys(absent) | {"_OUT": str(tmp_path / "out")}
        for name, value in (flags | values).items():
            flag = SimpleNamespace(value=value, name=name[1:].lower())
            monkeypatch.setattr(reconstruct, name, flag)
        with pytest.raises(UserError, match=said):
            reconstruct.reconstruct_views(None, str(tmp_path / "in"), None)

    (tmp_path / "in").mkdir()
    refused("--model is for --image and --images", _MODEL="m")
    refused("--init is for --image", _INIT="views")
    refused("leave --mode out", _MODE="sds")
    refused("in holds the pictures that were given", _OUT=str(tmp_path / "in"))
    (tmp_path / "in").rmdir()
    refused("there is no such folder or file")
    (tmp_path / "in").symlink_to(tmp_path / "out" / "views")
    (tmp_path / "out" / "views").mkdir(parents=True)
    refused("views holds the pictures that were given")


def test_export_writes_all_formats_and_refuses(small_config, tmp_path, refused, run_python):
    small_config.mesh.threshold = 2.5
    state.save(tmp_path, state.start(make_spec(small_config)), metadata(make_spec(small_config)))
    for suffix, threshold in (("obj", ["--threshold", "2"]), ("ply", [])):
        process = run_python("-m", "iso3d_jax.export", "--run", tmp_path, "--format", suffix,
                             *threshold)  # fmt: skip
        assert process.returncode == 0, process.stderr
        used = float(threshold[1]) if threshold else 2.5  # the run's own
        assert f"density threshold {used:g}" in process.stdout
        assert (tmp_path / f"mesh.{suffix}").stat().st_size > 1000
    command = ["-m", "iso3d_jax.export"]
    assert "surface is empty" in refused(*command, "--run", tmp_path, "--threshold", "1e9")
    assert "holds no reconstruction" in refused(*command, "--run", tmp_path / "nowhere")
    assert "auto or a number" in refused(*command, "--run", tmp_path, "--threshold", "thick")
    assert "does not end in .ply" in refused(
        *command, "--run", tmp_path, "--format", "ply", "--out", tmp_path / "m.stl"
    )
    turntable = [*command, "--run", tmp_path, "--turntable", tmp_path / "t.avi"]
    assert "ends in .mp4, .webp or .gif" in refused(*turntable)


def test_reconstruct_refuses_bad_pictures_and_runs(tmp_path, refused):
    command = ["-m", "iso3d_jax.reconstruct", "--out", tmp_path / "out"]
    assert "missing.png" in refused(*command, "--image", tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not a picture")
    assert "text.png" in refused(*command, "--image", tmp_path / "text.png")
    assert "unknown preset" in refused(
        *command, "--image", "x.png", "--config", "configs/reconstruct.py:tinny"
    )


def test_a_folder_in_another_process_s_hands_is_refused(
    small_config, tmp_path, monkeypatch, other_process_in
):
    holder = other_process_in(tmp_path)
    patient = run.FolderLock
    monkeypatch.setattr(run, "FolderLock", lambda folder: patient(folder, seconds=0.3))
    with pytest.raises(UserError, match=f"another process \\({holder.pid} on "):
        run.reconstruct(None, np.zeros((8, 8, 4), np.uint8), tmp_path, make_spec(small_config))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_refused_before_anything_runs(small_config, tmp_path, monkeypatch):
    run._check_disk(tmp_path, make_spec(small_config))
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"no room .* the disk has 1 MB left; give another --out"):
        run._check_disk(tmp_path, make_spec(small_config))


def test_a_model_whose_latents_do_not_fit_its_config_is_refused(model_folder):
    model = load_model(model_folder)
    config = dataclasses.replace(model.config, latent_size=5)
    with pytest.raises(UserError, match=r"latents of \(8, 8, 8\), its config says \(5, 5, 8\)"):
        run.make_denoiser(
            dataclasses.replace(model, config=config), np.zeros((8, 8, 3), np.float32)
        )


@pytest.fixture
def folder_of_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, grey in (("a.png", 10), ("c.png", 60), ("c.jpg", 90)):
        image = Image.new("RGB", (40, 40), (255,) * 3)
        image.paste((grey,) * 3, (10, 10, 30, 30))
        image.save(folder / name)
    (folder / "b.png").write_text("not a picture")
    (folder / "notes.txt").touch()
    return folder


def test_one_bad_picture_does_not_lose_the_others(
    small_config, folder_of_pictures, tmp_path, capsys
):
    pictures = batch.find_pictures(folder_of_pictures)
    assert list(pictures) == ["a", "b", "c.jpg", "c.png"]
    calls = []

    def reconstruct(model, picture, folder, spec, *, model_id, init, programs):
        calls.append((folder.name, id(programs)))
        if folder.name == "c.jpg" and len(calls) < 4:
            raise UserError("the surface is empty")
        metadata = run.run_metadata(model, picture, spec, model_id, init)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mesh.glb").touch()
        report = {
            "picture_sha256": metadata["picture"], "mode": "sds", "device": "cpu", "seed": 1,
            "iterations": 4, "seconds": {}, "mesh": {"threshold": 1.0, "faces": 2}, **metadata,
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(report))

    def again():
        return batch.reconstruct_all(
            Named, pictures, tmp_path / "out", make_spec(small_config), model_id="m", init="none",
            reconstruct=reconstruct,
        )  # fmt: skip

    failed = again()
    assert set(failed) == {"b", "c.jpg"} and failed["c.jpg"] == "the surface is empty"
    assert [name for name, _ in calls] == ["a", "c.jpg", "c.png"]
    assert len({shared for _, shared in calls}) == 1
    assert "failed: b: " in capsys.readouterr().err
    assert set(again()) == {"b"}  # what is finished is left alone, what failed is tried again
    assert [name for name, _ in calls[3:]] == ["c.jpg"]
    small_config.seed += 1  # another run: nothing counts as finished
    again()
    assert [name for name, _ in calls[4:]] == ["a", "c.jpg", "c.png"]


def test_no_pictures_are_refused(tmp_path, refused):
    with pytest.raises(UserError, match="holds no picture"):
        batch.find_pictures(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        batch.find_pictures(tmp_path / "none")
    assert "one of the three" in refused("-m", "iso3d_jax.reconstruct", "--out", tmp_path)
