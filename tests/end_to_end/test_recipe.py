"""`make weights`, the recipe of the small model: its commands, and all of it on a few boxes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iso3d_jax.commands import config_files

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ("autoencoder", "image_tower", "stage1", "stage2", "tiny")


@pytest.fixture
def make(tmp_path):
    """Runs make in a new folder with this project's recipe and this Python."""
    for name in ("Makefile", "launch", "configs", "setup.py", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed-test").touch()  # what runs this test is installed

    def run(*arguments):
        return subprocess.run(
            ["make", f"BIN={Path(sys.executable).parent}", *arguments, "weights"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "MAKEFLAGS": ""},
            capture_output=True,
            text=True,
        )

    return run


def test_each_step_names_a_config_that_exists_and_keys_that_it_has(make):
    process = make("-n", "TRAIN_FLAGS=--config.steps=2")
    assert process.returncode == 0, process.stderr
    found = re.findall(r"^begun=.*?echo \"(\w+): ([^\"]*)\"", process.stdout, re.MULTILINE)
    steps = dict(found)
    assert len(steps) == len(found) and set(TRAINED) < set(steps)
    for name in TRAINED:
        config = config_files.load_config(re.search(r"--config (\S+)", steps[name])[1])
        keys = re.findall(r"--config\.([\w.]+)=", steps[name])
        assert "steps" in keys
        for key in keys:
            assert key in config, (name, key)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_whole_recipe_in_a_few_steps(make, tmp_path):
    """Things made by rules stand in for both kinds of meshes; the scores mean nothing."""
    flags = "TRAIN_FLAGS=--config.steps=2 --config.batch_size=4"
    few = (
        "ASSETS=procedural:60", "ZERO_AD=procedural:50", "PROCEDURAL=40",
        "EVALUATE_FLAGS=--consistency_objects=1",
    )  # fmt: skip
    process = make(*few, flags)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    times = [line.split()[0] for line in (tmp_path / "runs/times.txt").read_text().splitlines()]
    assert times[0] == "furniture64" and times[-1] == "evaluate" and set(TRAINED) < set(times)
    assert (tmp_path / "models/tiny/model.safetensors").stat().st_size < 24e6
    for folder in ("evaluation", "evaluation_game"):
        assert "| tiny model |" in (tmp_path / "out" / folder / "table.md").read_text()
    again = make(*few, flags)
    assert again.returncode == 0 and "image_tower:" not in again.stdout  # nothing is done twice
