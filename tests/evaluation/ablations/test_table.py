"""The comparison's plan, table and page, without any training."""

import dataclasses
import json

import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError
from iso3d_jax.evaluation.ablations import plan, report
from tests.pages.accessibility import problems
from tests.pages.embedded import without_files


def comparison(preset):
    return plan.make_spec(config_files.load_config(f"configs/compare.py:{preset}"))


def test_over_seeds():
    each = [{"a": 1.0, "b": None}, {"a": 2.0, "b": 4.0}, {"a": 6.0}]
    summary = report.over_seeds(each)
    assert summary["a"] == {"mean": 3.0, "deviation": pytest.approx(np.sqrt(7.0)), "n": 3}
    assert summary["b"] == {"mean": 4.0, "deviation": None, "n": 1}
    assert report.cell(summary["a"], 2) == "3.00 ± 2.65" and report.cell(summary["b"], 1) == "4.0"
    assert report.cell(None, 2) == "–"


@pytest.fixture
def made():
    """A comparison of two runs, three seeds, two objects of which one is a scene."""
    runs = {
        "method": [{"views/psnr": 10.0 + s, "scene/psnr": 8.0} for s in range(3)],
        "no_ema": [{"views/psnr": 9.0, "scene/psnr": 7.0 + s} for s in range(3)],
    }
    facts = {
        "title": "A <comparison>",
        "protocol": "a test",
        "data": {"objects": 2, "views": 4, "scenes": 1},
        "settings": {"seeds": 3},
        "code": {"iso3d_jax": "0"},
    }
    falling = [(step, 1.0 / step) for step in (1, 2, 4)]
    losses = {"stage1": [falling] * 3, "method": [falling] * 3, "no_ema": [falling, [], []]}
    return report.assemble(runs, {"mean training picture": {"views/psnr": 14.5}}, losses, facts)


def test_table(made):
    text = report.markdown(made)
    assert "| run | views: PSNR (dB) | scene: PSNR (dB) |" in text  # only what is known
    assert "| the method: stage 1, then EMA | 11.00 ± 1.00 | 8.00 ± 0.00 |" in text
    assert "| without EMA | 9.00 ± 0.00 | 8.00 ± 1.00 |" in text
    assert "| mean training picture | 14.50 | – |" in text
    assert made["runs"]["no_ema"]["seeds"][2] == {"views/psnr": 9.0, "scene/psnr": 9.0}


def test_page(made, tmp_path):
    rng = np.random.default_rng(0)
    one = {"views": rng.random((2, 4, 8, 8, 3)), "scene": rng.random((1, 4, 8, 8, 3))}
    shown = {name: [one] * 3 for name in ("method", "no_ema")}
    given, truth = rng.random((2, 8, 8, 3)), rng.random((2, 4, 8, 8, 3))
    path = report.write_page(tmp_path / "x.html", made, given, truth, ["<a>", "b"], shown)
    text = path.read_text()
    assert text.count("<img ") == 2 * 5 + 3 * 2 * (2 * 4 + 4) and "http" not in without_files(text)
    # Stage 1's seeds and their mean, the method's, and the one seed of the other.
    assert text.count("<polyline ") == 4 + 4 + 1 and "without EMA</span>" in text
    assert problems(text) == []
    assert "A &lt;comparison&gt;" in text and "&lt;a&gt;" in text and text.count("<details>") == 2


def test_programs_are_shared_where_the_compiled_step_is_the_same():
    cfg, key = comparison("tiny"), plan.program_key
    keys = {name: key(getattr(cfg.stage2, name)) for name in plan.TRAININGS}
    assert keys["method"] == keys["no_ema"] == keys["no_stage1"] == key(cfg.stage1)
    assert keys["ccr"] != keys["method"]
    assert key(dataclasses.replace(cfg.stage2.no_ema, learning_rate=1e-5)) != keys["method"]
    cosine = comparison("furniture")
    assert key(cosine.stage2.no_stage1) != key(cosine.stage2.method)


@pytest.mark.parametrize("preset", ["tiny", "furniture"])
def test_a_comparison_notes_the_config_that_it_was_given(preset):
    """What config.json holds of a spec is what it would hold of the config, to the letter."""
    config = config_files.load_config(f"configs/compare.py:{preset}")
    spec = plan.make_spec(config)
    assert json.dumps(spec.to_dict()) == json.dumps(config.to_dict())
    assert config == config_files.load_config(f"configs/compare.py:{preset}")
    assert hash(spec) == hash(comparison(preset))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.stage2.ccr.steps = 1


@pytest.mark.parametrize(
    "change, words",
    [
        ("del config.stage2.ccr", "no config of a comparison .*'ccr'; compare it"),
        ("config.stage2.other = config.stage2.ccr", "Trainings has no field other"),
        ("config.what = 1", "ComparisonSpec has no field what"),
        ("config.scenes = config.objects + 1", "config.scenes is 5 but config.objects 4"),
        ("config.reconstruct.steps = 101", "config.phases end at iteration 100"),
        ("config.stage1.trainable = 'lor'", "did you mean 'lora'"),
    ],
)
def test_a_config_that_no_comparison_can_be_made_with_is_refused(change, words):
    config = config_files.load_config("configs/compare.py:tiny")
    with config.unlocked():
        exec(change)
    with pytest.raises(UserError, match=words):
        plan.make_spec(config)


@pytest.mark.parametrize("preset", ["tiny", "furniture"])
def test_what_each_run_is(preset):
    cfg = comparison(preset)
    made = {
        name: plan.training_spec(cfg, name, 2, "encoded", "out/stage1")
        for name in ("stage1", *plan.TRAININGS)
    }
    assert {m.seed for m in made.values()} == {2}
    starts = {name: m.init_from for name, m in made.items()}
    from_stage1 = dict.fromkeys(("method", "no_ema", "ccr"), "out/stage1")
    assert starts == {"stage1": "", "no_stage1": "", **from_stage1}
    assert made["no_ema"].reference_dropout == 1 and made["method"].reference_dropout < 1
    assert made["ccr"].model.unet.reference_channels == made["ccr"].model.unet.in_channels
    assert made["no_stage1"].steps == made["stage1"].steps + made["method"].steps
    losses = {n: plan.scene_spec(cfg, r).loss.reference_l2 for n, r in plan.RUNS.items()}
    assert losses.pop("reference_l2") == 1000 and set(losses.values()) == {0}


def test_a_folder_of_another_comparison_is_refused(tmp_path):
    cfg = comparison("tiny")
    plan.ensure_same_comparison(tmp_path, cfg)
    plan.ensure_same_comparison(tmp_path, dataclasses.replace(cfg, seeds=7))  # more of the same
    faster = dataclasses.replace(cfg.stage1, learning_rate=1.0)
    cfg = dataclasses.replace(cfg, stage1=faster)
    with pytest.raises(UserError, match=r"another config or other networks \(config.stage1\)"):
        plan.ensure_same_comparison(tmp_path, cfg)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        plan.ensure_same_comparison(tmp_path, cfg)
