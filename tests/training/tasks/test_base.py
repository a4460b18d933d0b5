"""A run has its base's cameras and prediction, and says and records it where it changes them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.planning import compile_for
from iso3d_jax.reconstruction.run import make_denoiser
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import base, registry
from iso3d_jax.weights import bundle
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.tensors import open_tensors
from iso3d_jax.weights.torch_file import write_torch

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "isotropic3d_tiny_fp16.ckpt"
ARCH = json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the released file and of one in MVDream's layout, which has no vision tower."""
    folder = tmp_path_factory.mktemp("models")
    import_weights([str(CHECKPOINT)], folder / "released", ARCH)
    tensors = {k: t for k, t in open_tensors(CHECKPOINT).items() if "cond_stage_model" not in k}
    entries = [(k, t.shape, t.dtype, t.read) for k, t in tensors.items()]
    write_torch(folder / "sd-v2.1-base-4view.pt", entries)
    import_weights([str(folder / "sd-v2.1-base-4view.pt")], folder / "mvdream", ARCH)
    return folder


def full(models, stage, source, **changes):
    """The full-size preset with the golden model's numbers, from one of `models`."""
    cfg = config_files.load_config(f"configs/stage{stage}.py")
    cfg.batch_size, cfg.encoding, cfg.data_variants, cfg.data = 2, "online", 1, "samples"
    cfg.model.resolution = 64
    numbers = vars(bundle.load_config(models / "released").unet)
    cfg.model.unet.update({k: v for k, v in numbers.items() if k in cfg.model.unet})
    cfg.init_from = str(models / source)
    cfg.init.vae = cfg.init.clip = str(models / "released")
    cfg.model.update(changes)
    return cfg


def elevations_of(camera):
    """Effective degrees, from the height of cameras [..., 16] on the unit sphere."""
    return np.degrees(np.arcsin(camera.reshape(*camera.shape[:-1], 4, 4)[..., 2, 3]))


def azimuths_of(camera):
    c2w = camera.reshape(*camera.shape[:-1], 4, 4)
    return np.degrees(np.arctan2(c2w[..., 1, 3], c2w[..., 0, 3])) + 90.0


def spec_of(config):
    """As a training has it: what the config leaves to the base is filled in."""
    return settle(config)[0]


def settle(config):
    return base.settle(make_spec(StageSpec, config))


def exported(task, folder):
    """The model.json of the run, whose weights are its base's still."""
    task.export(bundle.load_weights(task.cfg.init_from, ("unet",))["unet"], folder)
    return bundle.load_config(folder)


def sampled_with(model, monkeypatch):
    """The cameras that `sample_views` hands to the network, [4, 16]."""
    seen = []
    size = model.config.latent_size

    def sample_latents(unet, context, camera, *args, **kwargs):
        seen.append(np.asarray(camera))
        return np.zeros((1, 4, size, size, 4), np.float32)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample_latents", sample_latents)
        patch.setattr(sampling, "decode_views", lambda vae, z: np.zeros((1, 4, 64, 64, 3)))
        sampling.sample_views(model, [np.ones((64, 64, 3), np.float32)])
    return seen[0]


AZIMUTHS, ELEVATIONS = np.arange(4) * 90.0, np.full(4, 15.0)


def test_stage_1_from_mvdream_has_its_true_angles(models, monkeypatch, capsys, tmp_path):
    """Batches, model.json, sampling and guidance; with its sampling's numbers, not the released."""
    cfg = full(models, 1, "mvdream")
    task = registry.make_task(cfg)
    model = task.cfg.model
    assert (model.camera_encoding, model.parameterization) == ("mvdream", "eps")
    assert cfg == full(models, 1, "mvdream")  # the caller's own stays as it was
    assert task.summary == "cameras mvdream (the base's), prediction eps (the base's)"
    assert "learn anew" not in capsys.readouterr().out
    step = next(s for s in range(99) if task.branch(s) == "1-b")
    camera = task.batch(step, np.arange(2))["camera"]
    assert camera.shape == (2, 4, 16)
    quarters = np.diff(azimuths_of(camera)) % 360
    np.testing.assert_allclose(np.where(quarters > 180, 360 - quarters, quarters), 90, atol=1e-2)

    config = exported(task, tmp_path / "model")
    assert (config.camera_encoding, config.parameterization) == ("mvdream", "eps")
    assert not {"sampling_camera_encoding", "base_camera_encoding"} & config.to_dict().keys()
    theirs = bundle.load_config(models / "mvdream")
    assert (config.eta, config.guidance_scale) == (theirs.eta, theirs.guidance_scale) == (0.0, 10.0)
    model = bundle.load_model(tmp_path / "model")
    want = camera_condition(ELEVATIONS, AZIMUTHS, "mvdream")
    np.testing.assert_allclose(sampled_with(model, monkeypatch), want, rtol=1e-6, atol=1e-6)
    assert make_denoiser(model, np.ones((64, 64, 3), np.float32))[1].camera_encoding == "mvdream"


def test_the_released_file_drifts_where_its_2d_script_does_and_nowhere_else(models, monkeypatch):
    model = bundle.load_model(models / "released")
    camera = sampled_with(model, monkeypatch)
    want = camera_condition(ELEVATIONS, AZIMUTHS, "isotropic3d_sampling")
    np.testing.assert_allclose(camera, want, rtol=1e-6, atol=1e-7)
    assert elevations_of(camera)[0] > 0.25 > 0.01 > elevations_of(camera)[1]
    assert (
        make_denoiser(model, np.ones((64, 64, 3), np.float32))[1].camera_encoding == "isotropic3d"
    )


def test_stage_2_from_the_released_file_is_sampled_as_it_was_trained(
    models, monkeypatch, capsys, tmp_path
):
    task = registry.make_task(full(models, 2, "released"))
    assert task.summary.startswith("cameras isotropic3d (the base's)")
    step = next(s for s in range(99) if task.branch(s) == "2-b")
    batch = task.batch(step, np.arange(2))
    assert np.abs(np.diff(azimuths_of(batch["camera"]))).max() < 6.3  # the circle in radians
    assert batch["reference_camera"].shape == (2, 1, 16)
    config = exported(task, tmp_path / "model")
    assert config.camera_encoding == "isotropic3d"
    assert "sampling_camera_encoding" not in config.to_dict()
    assert (config.eta, config.guidance_scale, config.picture) == (1.0, 10.0, "launch")
    camera = sampled_with(bundle.load_model(tmp_path / "model"), monkeypatch)
    np.testing.assert_allclose(
        camera, camera_condition(ELEVATIONS, AZIMUTHS, "isotropic3d"), rtol=1e-6, atol=1e-7
    )
    assert capsys.readouterr().out.count("learn anew") == 0


def test_a_change_of_the_bases_facts_is_announced_and_recorded(models, capsys, tmp_path):
    cfg = full(models, 1, "mvdream", camera_encoding="isotropic3d", parameterization="v", eta=0.5)
    task = registry.make_task(cfg)
    lines = [line for line in capsys.readouterr().out.splitlines() if "learn anew" in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"stage 1: cameras isotropic3d, but the base {models / 'mvdream'}")
    assert "--config.model.camera_encoding=mvdream keeps" in lines[0]
    assert "prediction v" in lines[1] and "--config.model.parameterization=eps keeps" in lines[1]
    assert "cameras isotropic3d (the base had mvdream)" in task.summary
    config = exported(task, tmp_path / "model")
    assert (config.camera_encoding, config.base_camera_encoding) == ("isotropic3d", "mvdream")
    assert (config.parameterization, config.base_parameterization) == ("v", "eps")
    assert "sampling_camera_encoding" not in config.to_dict()
    assert (config.eta, config.guidance_scale) == (0.5, 10.0)
    # The next run's base is this one: nothing changes any more, and nothing is said.
    again = full(models, 2, "mvdream")
    again.init_from = str(tmp_path / "model")
    again, found = settle(again)
    assert found.changes == () and found.records == {}
    assert (again.model.camera_encoding, again.model.parameterization) == ("isotropic3d", "v")


def test_the_same_command_resumes_and_another_encoding_does_not(models, tmp_path):
    """What was settled is in config.json, whoever said it."""
    for changes in ({}, {}, dict(camera_encoding="mvdream")):
        cfg = full(models, 1, "mvdream", **changes)
        Checkpoints(tmp_path, spec_of(cfg)).close()
    stored = json.loads((tmp_path / "config.json").read_text())["model"]
    assert (stored["camera_encoding"], stored["eta"]) == ("mvdream", 0.0)
    cfg = full(models, 1, "mvdream", camera_encoding="isotropic3d")
    with pytest.raises(UserError, match="model.camera_encoding was mvdream, is isotropic3d"):
        Checkpoints(tmp_path, spec_of(cfg))


def folder_that_says(path, config, **changes):
    """A model folder by its model.json alone, which is all that `settle` reads."""
    path.mkdir()
    made = config.to_dict() | changes
    (path / "model.json").write_text(json.dumps({k: v for k, v in made.items() if v is not None}))
    return str(path)


def test_a_2d_base_is_trained_with_true_angles_and_its_own_prediction(models, tmp_path):
    """It has learned no cameras, so nothing of it is changed by choosing some."""
    config = bundle.load_config(models / "mvdream")
    cfg = full(models, 1, "mvdream")
    cfg.init_from = folder_that_says(
        tmp_path / "sd", config, camera_encoding=None, parameterization="v", eta=None
    )
    cfg, found = settle(cfg)
    assert (cfg.model.camera_encoding, cfg.model.parameterization) == ("mvdream", "v")
    assert found.changes == () and "prediction v (the base's)" in found.summary
    assert "eta" not in cfg.model.to_dict() and sampling.DEFAULTS["eta"] == 1.0
    cfg = full(models, 1, "mvdream", camera_encoding="isotropic3d")
    cfg.init_from = str(tmp_path / "sd")
    assert settle(cfg)[1].changes == ()


def test_what_no_shape_tells_is_the_bases_and_what_else_differs_is_said(models, tmp_path):
    config = bundle.load_config(models / "mvdream")
    unet = vars(config.unet) | {"num_head_channels": 16}
    cfg = full(models, 1, "mvdream")
    cfg.init_from = folder_that_says(
        tmp_path / "base", config, unet=unet, resolution=512, scale_factor=0.5, steps=7
    )
    cfg, found = settle(cfg)
    assert cfg.model.unet.num_head_channels == 16 and cfg.model.steps == 7
    said = "\n".join(found.changes)
    assert "unet.num_head_channels is 16" in said
    assert "pictures of 64 pixels, but the base" in said and "is of 512" in said
    assert "scaled by 0.18215" in said and "trained with 0.5" in said
    tower = folder_that_says(tmp_path / "tower", config, camera_encoding="harmonics")
    cfg = dataclasses.replace(cfg, init=dataclasses.replace(cfg.init, drawing=tower))
    assert "drawing decoder" in base.settle(cfg)[1].changes[-1]


def test_small_presets_say_their_own_cameras():
    for spec in ("configs/stage1.py:tiny", "configs/stage2.py:furniture"):
        cfg = config_files.load_config(spec)
        before = cfg.model.to_dict()
        cfg.init_from = ""
        settled, found = settle(cfg)
        assert found.changes == ()
        assert settled.model.to_dict() == before and before["camera_encoding"] == "harmonics_lens"


def test_other_machines_are_compiled_for_without_a_base(models):
    """--compile_for reads no weights, and a folder that is not here is no matter."""
    cfg = full(models, 2, "mvdream")
    cfg.init_from = "/nowhere"
    task = compile_for.AbstractTask(compile_for.settle(cfg))
    model = task.cfg.model
    assert (model.camera_encoding, model.parameterization) == ("mvdream", "eps")
    assert "camera_embed/linear_in/kernel" in task.abstract_params


@pytest.mark.parametrize("name", ["mvdraem", "isotropic3d_sampling"])
def test_cameras_that_nothing_is_trained_with_are_refused(models, name):
    with pytest.raises(UserError, match=f"camera_encoding must be one of .* not '{name}'"):
        registry.make_task(full(models, 1, "mvdream", camera_encoding=name))


def test_pictures_of_another_size_are_refused_before_they_are_encoded(models):
    with pytest.raises(UserError, match="64 pixels .* for 256: add --config.model.resolution=64"):
        registry.make_task(full(models, 1, "mvdream", resolution=256))


def test_an_image_tower_is_settled_too():
    cfg = config_files.load_config("configs/image_tower.py")
    cfg.model.camera_encoding = "harmonic"
    with pytest.raises(UserError, match="did you mean 'harmonics'"):
        registry.make_task(cfg)
    assert isinstance(cfg, ConfigDict)
