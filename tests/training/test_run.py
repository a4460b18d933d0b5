"""A training run from its config, with the engine in place of itself."""

import pytest

from iso3d_jax.commands.config_files import load_config
from iso3d_jax.core.errors import UserError
from iso3d_jax.training import distributed, loop, run


@pytest.fixture
def fitted(monkeypatch):
    calls = []
    monkeypatch.setattr(distributed, "initialize", lambda asked: calls.append(asked))
    monkeypatch.setattr(loop, "fit", lambda task, workdir, **given: calls.append(
        (task.cfg.dtype, workdir, given)))  # fmt: skip
    return calls


def test_the_engine_gets_what_was_asked_for(fitted, tmp_path):
    cfg = load_config("stage1:tiny")
    cfg.encoding = "online"  # nothing is encoded before the engine, in half precision on a CPU
    model = run.train(
        cfg, tmp_path / "run", dtype="bfloat16", distributed=False, profile_steps=3,
        wandb_project="p",
    )  # fmt: skip
    assert model == tmp_path / "run" / "model" and (tmp_path / "run").is_dir()
    given = dict(profile_steps=3, wandb_project="p")
    assert fitted == [False, ("bfloat16", tmp_path / "run", given)]
    assert cfg.dtype == "float32"  # the caller's is as it was


def test_mistakes_are_found_before_anything_begins(fitted, tmp_path):
    with pytest.raises(UserError, match="the autoencoder trains in float32"):
        run.train(load_config("autoencoder"), tmp_path, dtype="bfloat16")
    cfg = load_config("stage1:tiny")
    cfg.init_from = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"--config\.init_from: model folder not found"):
        run.train(cfg, tmp_path)
    cfg = load_config("stage1:tiny")
    cfg.steps = 0
    with pytest.raises(UserError, match=r"config\.steps"):
        run.train(cfg, tmp_path)
    assert not fitted
