"""What is made, in which order, and what is left as it is when the same call comes again.

Networks are stood in for: nothing is trained, drawn or compiled here.
"""

import json
import shutil
import types
import zlib

import numpy as np
import pytest

from iso3d_jax import compare
from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import EmptySurface, UserError
from iso3d_jax.evaluation.ablations import measure, plan
from iso3d_jax.metrics import pixels
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.weights.model_spec import ModelSpec
from tests.pages.embedded import without_files


class Asked(list):
    """What was asked for; `empty` holds the trainings whose scenes come out empty."""

    empty: tuple[str, ...] = ()


@pytest.fixture
def made(monkeypatch):
    """Trainings and scenes that were asked for, in order."""
    asked = Asked()

    def fit(cfg, workdir, programs):
        asked.append(f"{workdir.parent.name} {workdir.name}")
        if cfg.init_from:
            assert (workdir.parent / "stage1/trained.json").is_file()
        (workdir / "checkpoints").mkdir(parents=True)
        programs["1-b"] = None

    def reconstruct(model, picture, out, cfg, *, model_id, programs):
        if model_id.startswith(asked.empty or "-"):
            raise EmptySurface("the surface is empty")
        asked.append(f"scene of {model_id} with L2 {cfg.loss.reference_l2:g}")
        assert picture.shape[2] == 4 and picture.dtype == np.uint8
        return types.SimpleNamespace(state=(model_id, cfg.loss.reference_l2))

    def noise(*words):
        rng = np.random.default_rng(zlib.crc32(repr(words).encode()))
        return rng.random() * rng.random((4, 64, 64, 3)).astype(np.float32)

    def load(workdir, dtype=None):
        assert (workdir / "trained.json").is_file()
        channels = 8 if workdir.name == "ccr" else 0
        return types.SimpleNamespace(config=ModelSpec(unet=UNetConfig(reference_channels=channels)))

    frozen = types.SimpleNamespace(config=ModelSpec(picture="centred"))
    monkeypatch.setattr(measure, "load_frozen", lambda *a: frozen)
    monkeypatch.setattr(measure, "load_model", load)
    monkeypatch.setattr(measure._Task, "from_spec", lambda cfg: types.SimpleNamespace(cfg=cfg))
    monkeypatch.setattr(
        measure.loop, "fit", lambda task, workdir, programs: fit(task.cfg, workdir, programs)
    )
    monkeypatch.setattr(measure.run, "reconstruct", reconstruct)
    monkeypatch.setattr(measure.state, "load", lambda folder, cfg: ("empty", folder.parent.name))
    monkeypatch.setattr(
        measure.views, "generate",
        lambda model, task, steps, seed: np.stack([noise(len(asked), n) for n in task.names]),
    )  # fmt: skip
    monkeypatch.setattr(measure, "see", lambda state, azimuth, elevation, cfg, model: noise(state))
    monkeypatch.setattr(
        measure, "figures_of",
        lambda answer, task, model, what: {
            f"{what}/psnr": float(pixels.psnr(answer, task.truth).mean())
        },
    )  # fmt: skip
    one_step = {"x0_db/t0980/right": 1.0}
    monkeypatch.setattr(measure.Comparison, "_one_step", lambda self, model: one_step)
    monkeypatch.setattr(measure.Comparison, "encoded", lambda self: "encoded")
    monkeypatch.setattr(
        measure.views, "retrieve", lambda model, task, train: (task.truth, task.names)
    )
    return asked


def test_everything_once_and_again_only_what_is_missing(made, tmp_path):
    cfg = config_files.load_config("configs/compare.py:tiny,seeds=2")
    cfg.objects, cfg.scenes = 2, 1
    report = compare.compare(cfg, tmp_path)
    of_a_seed = [
        "stage1", "method", "scene of method", "no_ema", "scene of no_ema", "ccr", "scene of ccr",
        "no_stage1", "scene of no_stage1", "scene of method",
    ]  # fmt: skip
    assert made == [
        f"{what}, seed {seed} with L2 {1000 if k == 9 else 0}"
        if what.startswith("scene")
        else f"seed{seed} {what}"
        for seed in range(2)
        for k, what in enumerate(of_a_seed)
    ]
    rows = report["runs"]
    assert list(rows) == ["method", "no_ema", "ccr", "no_stage1", "reference_l2"]
    views = {name: row["figures"]["views/psnr"] for name, row in rows.items()}
    assert views["reference_l2"] == views["method"] != views["ccr"]
    scenes = {row["figures"]["scene/psnr"]["mean"] for row in rows.values()}
    assert len(scenes) == 5 and report["baselines"]["nearest training object"]
    assert json.loads((tmp_path / "report.json").read_text())["runs"] == rows
    page = (tmp_path / "index.html").read_text()
    # Of both objects the picture, the true views and 5 runs' views of 2 seeds; of one the scenes.
    assert page.count("<img ") == 2 * (5 + 5 * 2 * 4) + 5 * 2 * 4 and "http" not in without_files(
        page
    )
    assert not (tmp_path / "seed0/ccr/checkpoints").exists()

    made.clear()
    shutil.rmtree(tmp_path / "seed1/runs/ccr")  # stopped before its scores were written
    shutil.rmtree(tmp_path / "seed1/no_ema")  # nobody asks for it: its scores are there
    again = compare.compare(cfg, tmp_path)
    assert made == ["scene of ccr, seed 1 with L2 0"]
    assert again["runs"]["method"] == rows["method"]

    made.clear()
    cfg.seeds = 3
    assert compare.compare(cfg, tmp_path, ["reference_l2"])["runs"]["reference_l2"]["figures"][
        "scene/psnr"
    ]["n"] == 3  # fmt: skip
    assert [name.split(", ")[0] for name in made] == [
        "seed2 stage1", "seed2 method", "scene of method", "scene of method",
    ]  # fmt: skip


def test_an_empty_scene_is_a_result(made, tmp_path, capsys):
    cfg = config_files.load_config("configs/compare.py:tiny,seeds=1")
    cfg.objects, cfg.scenes = 2, 1
    made.empty = ("ccr",)
    rows = compare.compare(cfg, tmp_path, ["method", "ccr"])["runs"]
    assert rows["ccr"]["figures"]["scene/psnr"]["n"] == 1
    assert made[-1] == "seed0 ccr" and "surface is empty" in capsys.readouterr().out


def test_other_frozen_networks_are_another_comparison(made, tmp_path, monkeypatch):
    cfg = plan.make_spec(config_files.load_config("configs/compare.py:tiny,seeds=1"))
    plan.ensure_same_comparison(tmp_path, cfg)
    plan.ensure_same_comparison(tmp_path, cfg)
    digest = {"sha256 of model.safetensors": "0"}
    monkeypatch.setattr(plan, "model_facts", lambda path, name: digest)
    with pytest.raises(UserError, match=r"other networks \(the sha256 of clip, the sha256 of vae"):
        plan.ensure_same_comparison(tmp_path, cfg)
