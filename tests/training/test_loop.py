"""The loop: it learns, resumes to the same bits, and refuses what does not fit."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training.loop import EXIT_PREEMPTED, fit
from tests.small_training import ONE_PROGRAM


def params_of(state):
    return {
        k: np.asarray(v)
        for k, v in (state.params | {f"ema/{k}": v for k, v in state.ema_params.items()}).items()
    }


def test_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path, make_config, make_task):
    cfg = make_config(**ONE_PROGRAM)
    whole = params_of(fit(make_task(cfg), tmp_path / "whole"))

    task = make_task(cfg)
    draw = task.batch

    def interrupted(step, rows):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(step, rows)

    task.batch = interrupted
    with pytest.raises(SystemExit) as stop:
        fit(task, tmp_path / "broken")
    assert stop.value.code == EXIT_PREEMPTED
    resumed = params_of(fit(make_task(cfg), tmp_path / "broken"))
    for key, value in whole.items():
        np.testing.assert_array_equal(value, resumed[key], err_msg=key)
    exported = np.load(tmp_path / "broken" / "model" / "params.npz")
    np.testing.assert_array_equal(exported["conv_out/kernel"], whole["ema/conv_out/kernel"])
    steps = [
        line.split('"step": ')[1].split(",")[0]
        for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [str(i) for i in range(1, 11)]


def test_workdir_of_another_config_is_refused(tmp_path, make_config, make_task):
    cfg = make_config(steps=1, **ONE_PROGRAM)
    fit(make_task(cfg), tmp_path)
    other = make_config(steps=1, **ONE_PROGRAM)
    other.model.unet.model_channels = 32
    with pytest.raises(UserError, match="model.unet.model_channels was 16, is 32"):
        fit(make_task(other), tmp_path)


def test_no_samples_are_drawn_where_none_are_asked_for_but_the_model_is_written(
    tmp_path, make_config, make_task
):
    cfg = make_config(steps=2, sample_every=0, ablate_every=0, **ONE_PROGRAM)
    task, asked = make_task(cfg), []
    task.preview = lambda params: asked.append(len(asked))
    fit(task, tmp_path)
    assert asked == []
    assert (tmp_path / "model" / "params.npz").is_file()


def test_checkpoint_that_does_not_fit_is_refused(tmp_path, make_config, make_task):
    """As above, but with the note of the old config gone."""
    cfg = make_config(steps=1, **ONE_PROGRAM)
    fit(make_task(cfg), tmp_path)
    (tmp_path / "config.json").unlink()
    other = make_config(steps=2, **ONE_PROGRAM)
    other.model.unet.model_channels = 32
    with pytest.raises(UserError, match="does not fit this config"):
        fit(make_task(other), tmp_path)


def test_loss_that_is_not_finite_stops_the_run(tmp_path, make_config, make_task):
    cfg = make_config(checkpoint_every=2, **ONE_PROGRAM)
    task = make_task(cfg)
    draw = task.batch
    task.batch = lambda step, rows: (
        draw(step) | ({"embedding": draw(step)["embedding"] * np.nan} if step == 3 else {})
    )
    with pytest.raises(UserError, match="not finite at step 4.*chair.*checkpoint is of step 2"):
        fit(task, tmp_path)


def test_what_the_weights_attend_to_is_logged_when_asked(tmp_path, make_config, make_task):
    cfg = make_config(steps=4, checkpoint_every=100, **ONE_PROGRAM)
    cfg.ablate_every = 2
    task = make_task(cfg)
    seen = []

    def diagnose(params):
        seen.append(float(np.abs(params["conv_out/kernel"]).sum()))
        return {"x0_db/t0980/right": seen[-1]}

    task.diagnose = diagnose
    fit(task, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [(e["step"], e["x0_db/t0980/right"]) for e in lines if "x0_db/t0980/right" in e]
    assert [step for step, _ in logged] == [2, 4] and len(seen) == 2
    assert logged[1][1] == pytest.approx(seen[1])


def test_it_learns(tmp_path, make_config, make_task):
    """One and the same latent for all objects: soon the network knows it."""
    cfg = make_config(steps=60, checkpoint_every=100, learning_rate=5e-3, **ONE_PROGRAM)
    task = make_task(cfg)
    draw = task.batch

    def same(step, rows):
        batch = draw(step, rows)
        for name in ("moments", "reference_moments"):
            mean, logvar = np.split(np.ones_like(batch[name]), 2, -1)
            batch[name] = np.concatenate([mean, -30 * logvar], -1)
        return batch

    task.batch = same
    fit(task, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/2-b"] for line in lines]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])


def test_the_first_line_says_what_the_task_says_of_itself(tmp_path, make_config, make_task, capsys):
    task = make_task(make_config(**ONE_PROGRAM))
    task.cfg = dataclasses.replace(task.cfg, steps=0)  # no step has to be compiled
    task.summary = "cameras mvdream (the base's)"
    fit(task, tmp_path)
    said = capsys.readouterr()
    first = (said.out + said.err).splitlines()[0]
    assert "weights, cameras mvdream (the base's), batch 8" in first
