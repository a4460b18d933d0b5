"""The loop: it learns, resumes to the same bits, and refuses what does not fit."""

import os
import signal

import numpy as np
import pytest

from iso3d_jax.errors import UserError
from iso3d_jax.training.loop import EXIT_PREEMPTED, fit


def params_of(state):
    return {
        k: np.asarray(v)
        for k, v in (state.params | {f"ema/{k}": v for k, v in state.ema_params.items()}).items()
    }


def test_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path, make_config, make_task):
    cfg = make_config()
    whole = params_of(fit(make_task(cfg), cfg, tmp_path / "whole"))

    task = make_task(cfg)
    draw = task.batch

    def interrupted(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(step)

    task.batch = interrupted
    with pytest.raises(SystemExit) as stop:
        fit(task, cfg, tmp_path / "broken")
    assert stop.value.code == EXIT_PREEMPTED
    resumed = params_of(fit(make_task(cfg), cfg, tmp_path / "broken"))
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
    cfg = make_config(steps=1)
    fit(make_task(cfg), cfg, tmp_path)
    other = make_config(steps=1)
    other.model.unet.model_channels = 32
    with pytest.raises(UserError, match="model.unet.model_channels was 16, is 32"):
        fit(make_task(other), other, tmp_path)


def test_checkpoint_that_does_not_fit_is_refused(tmp_path, make_config, make_task):
    """As above, but with the note of the old config gone."""
    cfg = make_config(steps=1)
    fit(make_task(cfg), cfg, tmp_path)
    (tmp_path / "config.json").unlink()
    other = make_config(steps=2)
    other.model.unet.model_channels = 32
    with pytest.raises(UserError, match="does not fit this config"):
        fit(make_task(other), other, tmp_path)


def test_loss_that_is_not_finite_stops_the_run(tmp_path, make_config, make_task):
    cfg = make_config(checkpoint_every=2)
    task = make_task(cfg)
    draw = task.batch
    task.batch = lambda step: (
        draw(step) | ({"embedding": draw(step)["embedding"] * np.nan} if step == 3 else {})
    )
    with pytest.raises(UserError, match="not finite at step 4.*checkpoint is of step 2"):
        fit(task, cfg, tmp_path)


def test_loss_falls(tmp_path, make_config, make_task):
    cfg = make_config(
        steps=60, checkpoint_every=100, stage=1, embedding_dropout=0.0, learning_rate=3e-3
    )
    fit(make_task(cfg), cfg, tmp_path)
    import json

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [next(v for k, v in line.items() if k.startswith("loss/")) for line in lines]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
