"""A whole reconstruction as an order of its parts, which are stand-ins that note what they get."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iso3d_jax import sampling
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import grids, transforms
from iso3d_jax.reconstruction import loop, pictures, run, state, surface, turntable_file
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.losses import DenoiserSpec
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.weights.model_spec import ModelSpec

SPEC = DenoiserSpec(24, 1.0, "v", "mvdream")
MODEL = SimpleNamespace(config=SimpleNamespace(name="m", resolution=24), dtype="float32")
PICTURE = np.arange(64 * 4, dtype=np.uint8).reshape(8, 8, 4)


class Parts:
    """The parts of a run in the order in which they were called, with what they were given."""

    def __init__(self, monkeypatch):
        self.calls, self.given = [], {}
        self.views = np.random.default_rng(0).random((4, 4, 8, 8, 3))
        self.fitted = SimpleNamespace(hull="the draft's hull")

        def part(module, name, answer):
            def wrapped(*args, **given):
                self.calls.append(name)
                self.given[name] = args, given
                return answer(*args, **given)

            monkeypatch.setattr(module, name, wrapped)

        prepared = [np.full((8, 8, 3), 0.5)]
        part(sampling, "prepare_all", lambda model, pictures, how: prepared)
        part(run, "make_denoiser", lambda model, prepared, mesh: ("denoiser", SPEC))
        part(sampling, "sample_views", lambda model, pictures, **given: self.views[:1])
        part(draft, "make_source", lambda views, cfg: self.fitted)
        part(draft, "sampled_hull", lambda views, cfg: "a hull of its own")
        part(draft, "fit", self.fit)
        part(loop, "optimize", self.optimize)
        part(surface, "choose_surface", lambda current, cfg, hull: (2.5, {"hull_iou": 0.5}))
        part(surface, "sharpen", lambda current, cfg, threshold: ("hard", threshold))
        part(surface, "write_mesh", lambda path, *args, **given: {
            "faces": 7, "threshold": 2.5, "psnr_db": 20.0, "mask_iou": 0.75})  # fmt: skip
        part(pictures, "all_round", lambda scene, cfg, count, label: "turn")
        part(turntable_file, "write", lambda path, turn, seconds: None)
        part(pictures, "contact_sheet", lambda *args: None)
        part(pictures, "strip", lambda current, cfg, size: np.zeros((4, 4, 3), np.uint8))

    def fit(self, source, spec, denoiser_spec, out, metadata, programs, on_step, preview):
        current = state.start(spec)
        preview(current, 100)
        return current._replace(occs=current.occs + 0.5), {"draft_compile": 1.0}, {"seed": 22}

    def optimize(self, current, source, spec, denoiser_spec, folder, metadata, *, preview, **given):
        self.begun_at = int(current.step)
        preview(current, 30)
        end = current._replace(step=jnp.int32(spec.steps), skipped=jnp.int32(3))
        state.save(folder, end, metadata)
        return end, {"step": [20], "guidance": [1.5, 0.5]}, {"compile": 1.239}


@pytest.fixture
def parts(monkeypatch):
    return Parts(monkeypatch)


@pytest.fixture
def cfg(small_config):
    small_config.show.surface = "outline"
    small_config.draft.sets = ((0.0, 15.0), (45.0, 10.0))
    return small_config


def reconstruct(out, cfg, **given):
    return run.reconstruct(MODEL, PICTURE, out, make_spec(cfg), **given)


def test_distillation_from_nothing(cfg, parts, tmp_path, capsys):
    programs: dict = {}
    result = reconstruct(tmp_path, cfg, programs=programs)
    assert parts.calls == [
        "prepare_all", "make_denoiser", "sample_views", "sample_views", "make_source", "optimize",
        "strip", "choose_surface", "sharpen", "all_round", "write", "contact_sheet",
        "write_mesh",
    ]  # fmt: skip
    args, given = parts.given["optimize"]
    assert (
        args[1] == "denoiser"
        and args[2] == make_spec(cfg)
        and args[3] is SPEC
        and args[4] == tmp_path
    )
    assert given["programs"] is programs and parts.begun_at == 0
    assert parts.given["prepare_all"][0][2] is None  # the model's own way
    assert parts.given["choose_surface"][0][2] is None  # no hull where it is not asked for
    assert parts.given["all_round"][0] == (("hard", 2.5), make_spec(cfg), 3, "turntable")
    assert parts.given["write"][0] == (tmp_path / "turntable.mp4", "turn", 1.0)
    sheet = parts.given["contact_sheet"][0]
    assert sheet[0] == tmp_path / "contact_sheet.png" and sheet[3] == "turn"
    np.testing.assert_array_equal(sheet[2], parts.views[0])
    args, given = parts.given["write_mesh"]
    assert args[0] == tmp_path / "mesh.glb" and args[3] == 2.5
    assert given.pop("turn") == "turn"
    facts = given.pop("options").facts
    assert facts["seed"] == 22 and facts["generator"].startswith("iso3d_jax ") and not given
    assert int(args[1].step) == 20  # the scene as it was optimised, not sharpened
    assert parts.given["strip"][0][2] == 32  # no larger than the video, nor than twice the pictures
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    assert report["turntable"] == "turntable.mp4"
    assert report["skipped_iterations"] == 3 and report["init"] == "none" and report["seed"] == 22
    assert report["mesh"]["hull_iou"] == 0.5 and report["mesh"]["faces"] == 7
    assert report["losses"] == {"step": 20, "guidance": 0.5} and report["draft"] is None
    assert set(report["seconds"]) == {"views", "draft", "optimisation", "turntable", "mesh",
                                      "of_optimisation"}  # fmt: skip
    assert report["seconds"]["of_optimisation"] == {"compile": 1.24}
    assert report["iterations"] == 20 and report["mode"] == "sds" and report["model"] == "m"
    assert (
        report["picture_sha256"]
        == run.run_metadata(MODEL, PICTURE, make_spec(cfg), "", "none")["picture"]
    )
    assert report["peak_memory_gb"]["process"] > 0.05 and report["versions"]["jax"]
    assert result.folder == tmp_path and int(result.state.step) == 20
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "input.png")), PICTURE)
    assert (tmp_path / "previews" / "00030.png").is_file()
    said = capsys.readouterr().out
    assert "views.png (drawn before the 3D starts" in said and "(7 faces" in said


def test_without_ffmpeg_the_turntable_is_a_webp(cfg, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(turntable_file, "has_ffmpeg", lambda: False)
    result = reconstruct(tmp_path, cfg)
    assert parts.given["write"][0][0] == tmp_path / "turntable.webp"
    assert result.report["turntable"] == "turntable.webp"
    said = capsys.readouterr().out
    assert "no ffmpeg is here: the turntable is turntable.webp" in said
    assert "turntable.mp4" not in said


def test_distillation_from_a_draft_chooses_the_surface_by_its_hull(cfg, parts, tmp_path):
    cfg.show.surface = "hull"
    cfg.init, cfg.init_skip = "views", 0.25
    cfg.picture = "framed"
    reconstruct(tmp_path, cfg)
    assert parts.calls.index("fit") < parts.calls.index("optimize") and parts.begun_at == 5
    args, _ = parts.given["fit"]
    assert args[0] is parts.fitted and args[3] == tmp_path and args[2] is SPEC
    current = parts.given["optimize"][0][0]
    assert float(current.occs[0]) == 0.5
    assert parts.given["choose_surface"][0][2] == "the draft's hull"
    assert parts.given["prepare_all"][0][2] == "framed"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["draft"] == {"seed": 22}
    assert report["seconds"]["of_optimisation"] == {"draft_compile": 1.0, "compile": 1.24}
    parts.fitted.hull = None
    reconstruct(tmp_path / "other", cfg)
    assert parts.given["choose_surface"][0][2] == "a hull of its own"


def test_a_given_beginning_goes_before_the_config_s(cfg, parts, tmp_path):
    cfg.init = "views"
    reconstruct(tmp_path / "a", cfg, init="none", model_id="other")
    assert "fit" not in parts.calls
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["init"] == "none" and report["model"] == "other"


def test_distillation_goes_on_from_another_run(cfg, parts, tmp_path):
    theirs = draft.draft_spec(make_spec(cfg), 24)  # of mode "views"
    there = state.start(theirs)
    there = there._replace(params=jax.tree.map(lambda x: x + 1.0, there.params))
    (tmp_path / "theirs").mkdir()
    state.save(tmp_path / "theirs", there, {"config": theirs.to_dict()})
    cfg.init_skip = 0.5
    reconstruct(tmp_path / "ours", cfg, init=tmp_path / "theirs")
    current = parts.given["optimize"][0][0]
    assert parts.begun_at == 10 and "fit" not in parts.calls
    np.testing.assert_array_equal(current.params["density"]["in"], there.params["density"]["in"])
    cfg.field.hidden = 9
    with pytest.raises(UserError, match=r"that scene has another size, see config\.field"):
        reconstruct(tmp_path / "third", cfg, init=tmp_path / "theirs")


def test_a_draft_alone(cfg, parts, tmp_path):
    cfg.mode, cfg.draft.steps = "views", 9
    cfg.phases = ((20, 16, 1),)
    reconstruct(tmp_path, cfg)
    args, given = parts.given["optimize"]
    assert args[1] is parts.fitted and args[2] == draft.draft_spec(make_spec(cfg), 24)
    assert given["label"] == "draft from views" and "fit" not in parts.calls


def test_the_same_call_goes_on_where_it_was_stopped(cfg, parts, tmp_path, capsys):
    begin = state.start(make_spec(cfg))._replace(step=jnp.int32(7))
    metadata = run.run_metadata(MODEL, PICTURE, make_spec(cfg), "", "none")
    state.save(tmp_path, begin, metadata | {"history": {"step": [7]}})
    np.savez(tmp_path / "views.npz", views=parts.views)
    cfg.guidance.scale = 9.0
    result = reconstruct(tmp_path, cfg)
    assert parts.begun_at == 7 and "sample_views" not in parts.calls  # nor are they drawn again
    np.testing.assert_array_equal(result.sampled, parts.views)
    np.testing.assert_array_equal(result.views.images, parts.views[0])
    assert [c["key"] for c in result.report["changes"]] == ["guidance.scale"]
    assert "going on at iteration 7 of 20" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run with another picture"):
        run.reconstruct(MODEL, PICTURE[::-1], tmp_path, make_spec(cfg))
    with pytest.raises(UserError, match="holds a run with another picture"):
        run.reconstruct(MODEL, PICTURE.reshape(4, 16, 4), tmp_path, make_spec(cfg))


def test_a_begun_draft_of_another_run_is_refused(cfg, parts, tmp_path):
    cfg.init = "views"
    of_draft = draft.draft_spec(make_spec(cfg), 24)
    (tmp_path / draft.FOLDER).mkdir(parents=True)
    metadata = run.run_metadata(MODEL, PICTURE, of_draft, "", "views")
    state.save(tmp_path / draft.FOLDER, state.start(of_draft), metadata | {"picture": "other"})
    with pytest.raises(UserError, match="another picture"):
        reconstruct(tmp_path, cfg)
    state.save(tmp_path / draft.FOLDER, state.start(of_draft), metadata)
    np.savez(tmp_path / "views.npz", views=parts.views)
    reconstruct(tmp_path, cfg)
    assert "sample_views" not in parts.calls and "fit" in parts.calls


def test_sets_of_views_are_drawn_at_their_cameras(cfg, tmp_path, monkeypatch):
    """And are drawn again where nothing was made of those that are there."""
    cfg.draft.sets = ((0.0, 15.0), (45.0, 10.0), (20.0, 0.0), (70.0, 30.0))
    drawn, prepared = [], np.full((8, 8, 3), 0.25, np.float32)

    def sample(model, pictures, **given):
        assert model is MODEL and pictures[0] is prepared
        drawn.append(given)
        return np.full((1, 4, 8, 8, 3), 0.1 * len(drawn))

    monkeypatch.setattr(sampling, "sample_views", sample)
    np.savez(tmp_path / "views.npz", views=np.zeros(3))
    views = run._sample_views(MODEL, PICTURE, prepared, tmp_path, make_spec(cfg), begun=False)
    lens = dict(fov_deg=40.0, scale=1.075)
    assert drawn == [dict(num_views=4, azimuth_deg=a, elevation_deg=e, seed=22) | lens
                     for a, e in cfg.draft.sets]  # fmt: skip
    np.testing.assert_allclose(views[:, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(draft.load_views(tmp_path / "views.npz"), views)
    frames = transforms.read(tmp_path / "transforms.json")  # the views and cameras, for others
    assert len(frames.pictures) == 16 and frames.lenses[0].fov_deg == pytest.approx(40.0)
    assert np.asarray(Image.open(frames.pictures[5])).tolist() == [[[51] * 3] * 8] * 8
    azimuth = np.degrees(np.arctan2(frames.c2w[5, 1, 3], frames.c2w[5, 0, 3]))
    assert azimuth == pytest.approx(135.0, abs=1e-3)  # the second of the second set
    with Image.open(tmp_path / "views.png") as sheet:
        rows = grids.untile(sheet, 256)
    assert [len(row) for row in rows] == [5] * 3  # three sets of them, the picture first
    np.testing.assert_allclose([row[0].mean() for row in rows], 64, atol=1)
    np.testing.assert_allclose([row[4].mean() for row in rows], 255 * np.array([0.1, 0.2, 0.3]),
                               atol=1)  # fmt: skip
    assert len(drawn) == 4
    assert (
        run._sample_views(MODEL, None, None, tmp_path, make_spec(cfg), begun=True).shape
        == views.shape
    )
    assert len(drawn) == 4


class Eighths:
    """An autoencoder whose latents are every eighth pixel."""

    def encode(self, x):
        return x[:, ::8, ::8], None


jax.tree_util.register_static(Eighths)


def test_a_prior_holds_the_model_s_facts(monkeypatch):
    config = ModelSpec(
        resolution=16, latent_size=2, latent_channels=3, scale_factor=0.5,
        parameterization="eps", camera_encoding="isotropic3d",
    )  # fmt: skip
    model = SimpleNamespace(config=config, vae=Eighths(), alphas_cumprod=np.linspace(1, 0, 10))
    prepared = np.random.default_rng(0).uniform(0.5, 1.0, (16, 16, 3))
    monkeypatch.setattr(
        sampling, "embed_pictures", lambda model, pictures: jnp.full((1, 1, 4), pictures.shape[0])
    )
    monkeypatch.setattr(sampling, "network_for", lambda model, picture: (model, picture))
    denoiser, spec = run.make_denoiser(model, prepared, "mesh")
    assert spec == DenoiserSpec(16, 0.5, "eps", "isotropic3d", "mesh")
    assert (
        denoiser.vae is model.vae and denoiser.unet == (model, prepared) and denoiser.folded is None
    )
    np.testing.assert_array_equal(denoiser.context, np.ones((1, 1, 4)))
    np.testing.assert_allclose(denoiser.picture, prepared, rtol=1e-6)
    want = np.clip((1 - prepared.min(-1) - 0.02) / 0.1, 0, 1)
    np.testing.assert_allclose(denoiser.mask, want, atol=1e-5)
    np.testing.assert_allclose(denoiser.alphas_cumprod, model.alphas_cumprod, rtol=1e-6)
    for key in ("latent_size", "latent_channels"):
        wrong = dataclasses.replace(config, **{key: getattr(config, key) + 1})
        with pytest.raises(UserError, match="turns 16x16 pixels into latents of"):
            run.make_denoiser(SimpleNamespace(config=wrong, vae=Eighths()), prepared)


def test_a_run_is_told_by_its_picture_model_and_config(cfg):
    metadata = run.run_metadata(MODEL, PICTURE, make_spec(cfg), "folder", None)
    assert (
        metadata["model"] == "folder"
        and metadata["dtype"] == "float32"
        and metadata["init"] == "None"
    )
    assert metadata["config"] == cfg.to_dict()
    other = PICTURE.copy()
    other[3, 3, 0] += 1
    assert (
        run.run_metadata(MODEL, other, make_spec(cfg), "", None)["picture"] != metadata["picture"]
    )
    assert (
        run.run_metadata(MODEL, PICTURE, make_spec(cfg), "", None)["picture"] == metadata["picture"]
    )


def test_room_on_the_disk_for_three_states_and_the_other_files(cfg, tmp_path, monkeypatch):
    leaves = jax.tree.leaves(state.start(make_spec(cfg)))
    needed = 3 * sum(x.size * x.dtype.itemsize for x in leaves) + 50_000_000
    for free, enough in ((needed, True), (needed - 1, False)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(run.shutil, "disk_usage", lambda path, usage=usage: usage)
        if enough:
            run._check_disk(tmp_path, make_spec(cfg))
        else:
            with pytest.raises(UserError, match=f"may need {needed / 1e6:.0f} MB"):
                run._check_disk(tmp_path, make_spec(cfg))


def test_the_beginning_is_told_once_the_folder_is_known_to_be_this_runs(cfg, parts, tmp_path):
    """Before anything is written there, and never of a folder that is refused."""
    told = []
    cfg.init = "views"
    out = tmp_path / "run"
    reconstruct(out, cfg, on_begin=lambda: told.append(sorted(p.name for p in out.iterdir())))
    assert told == [[".lock"]]
    assert sorted(p.name for p in (out / "previews").iterdir()) == ["00030.png", "draft_00100.png"]
    with pytest.raises(UserError, match="another picture"):
        run.reconstruct(MODEL, PICTURE[::-1], out, make_spec(cfg), on_begin=lambda: told.append(1))
    assert len(told) == 1
