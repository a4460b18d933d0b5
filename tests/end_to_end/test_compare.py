"""`iso3d_jax.compare` from data to page at the smallest size, stopped and gone on with."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from iso3d_jax import compare
from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.encode import encode_table
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.training.tasks.stages import load_frozen
from tests.pages.embedded import without_files

COMPARISON = """
from iso3d_jax.presets import compare
import smallest_reconstruction

def get_config(arg=None):
    cfg = compare.get_config("tiny,steps=2,seeds=1")
    for training in (cfg.stage1, *(cfg.stage2[name] for name in cfg.stage2)):
        training.data_encoded = "four encoded"
        training.batch_size, training.warmup_steps = 2, 0
        training.model.unet.update(
            model_channels=16, channel_mult=(1,), attention_resolutions=(1,), num_head_channels=8,
            num_groups=4,
        )
    cfg.objects, cfg.ddim_steps = 1, 2
    cfg.reconstruct = smallest_reconstruction.get_config("2")
    return cfg
"""


@pytest.fixture(scope="module")
def four_encoded(desk):
    """Four objects of the samples, encoded by the shipped networks."""
    cfg = config_files.load_config("configs/compare.py:tiny")
    table = MultiViewTable.load("samples", "train")
    four = {k: getattr(table, k)[:4] for k in ("images", "azimuth_deg", "elevation_deg", "names")}
    frozen = load_frozen("", "", cfg.stage1.dtype)
    encoded = encode_table(
        dataclasses.replace(table, **four), frozen.vae, frozen.clip, variants=1,
        pictures=[frozen.config.picture],
    )  # fmt: skip
    encoded.save(desk / "four encoded")
    return desk / "four encoded"


@pytest.fixture
def micro(four_encoded):
    """A comparison of two steps each, on four objects."""
    cfg = config_files.load_config("configs/compare.py:tiny,steps=2,seeds=2")
    for training in (cfg.stage1, *(cfg.stage2[name] for name in cfg.stage2)):
        training.data_encoded = str(four_encoded)
        training.batch_size, training.warmup_steps = 2, 0
        training.model.unet.update(
            model_channels=16, channel_mult=(1,), attention_resolutions=(1,), num_head_channels=8,
            num_groups=4,
        )  # fmt: skip
    cfg.objects, cfg.ddim_steps = 2, 2
    cfg.reconstruct = config_files.load_config("tests/smallest_reconstruction.py")
    return cfg


def test_the_command_with_a_config_of_ones_own(run_python, desk, four_encoded):
    (desk / "comparison.py").write_text(COMPARISON)
    process = run_python(
        "-m", "iso3d_jax.compare", "--config", "comparison.py", "--runs", "method",
        "--out", "comparison",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert (desk / "comparison" / "table.md").is_file()


@pytest.mark.slow
def test_all_runs_go_on_where_they_were_stopped(micro, tmp_path, capsys, monkeypatch):
    out = tmp_path / "comparison"
    report = compare.compare(micro, out)
    assert list(report["runs"]) == ["method", "no_ema", "ccr", "no_stage1", "reference_l2"]
    runs = {name: row["figures"] for name, row in report["runs"].items()}
    for name, figures in runs.items():
        assert figures["scene/psnr"]["n"] == 2 and figures["views/psnr"]["deviation"] > 0, name
    assert runs["reference_l2"]["views/psnr"] == runs["method"]["views/psnr"]  # the same model
    assert runs["reference_l2"]["scene/psnr"] != runs["method"]["scene/psnr"]
    for name in ("no_ema", "ccr", "no_stage1"):
        assert runs[name]["views/psnr"] != runs["method"]["views/psnr"], name
    page = (out / "index.html").read_text()
    # Each of two objects: the picture, four true views, and of 2 seeds 5 runs' views; one scene.
    assert page.count("<img ") == 2 * (5 + 2 * 5 * 4) + 2 * 5 * 4 and "http" not in without_files(
        page
    )
    assert "| without stage 1 |" in (out / "table.md").read_text()
    losses = json.loads((out / "seed0/scenes/reference_l2/0/report.json").read_text())["losses"]
    assert losses["reference_l2"] > 0
    stage1 = np.load(out / "seed0/runs/method/pictures.npz")
    assert stage1["views"].shape == (2, 4, 64, 64, 3) and stage1["scene"].shape[0] == 1

    capsys.readouterr()
    shutil.rmtree(out / "seed1/runs/ccr")
    assert compare.compare(micro, out)["runs"] == report["runs"]
    printed = capsys.readouterr().out
    before_the_table = printed.partition("| run |")[0]
    assert "seed 1: ccr: generating" in before_the_table and "training" not in before_the_table
    assert "seed 0" not in printed and "method: generating" not in printed

    micro.objects = 1
    with pytest.raises(UserError, match=r"another config or other networks \(config.objects\)"):
        compare.compare(micro, out)


def test_what_makes_no_sense_is_refused(tmp_path):
    cfg = config_files.load_config("configs/compare.py:tiny")
    with pytest.raises(UserError, match="did you mean 'no_ema'"):
        compare.compare(cfg, tmp_path, ["noema"])
    cfg.scenes = 9
    with pytest.raises(UserError, match="config.scenes is 9"):
        compare.compare(cfg, tmp_path)
