"""Kills, damaged checkpoints, a full disk: what was saved stays, and the end is the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.stopping import EXIT_PREEMPTED
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.loop import fit
from tests.fork_server import FAST_COMPILING
from tests.small_training import ONE_PROGRAM

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "tests/training/small_run.py")]


def start(workdir, *changes, **environment):
    """The run as a process group of its own."""
    return subprocess.Popen(
        [*RUN, str(workdir), *changes],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | FAST_COMPILING | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def weights(workdir):
    return dict(np.load(workdir / "model" / "params.npz"))


def last_step(workdir):
    """The newest step that a run has logged; 0 before the first."""
    file = workdir / "metrics.jsonl"
    lines = (
        file.read_text().split("\n")[:-1] if file.exists() else []
    )  # the last may be half a line
    return json.loads(lines[-1])["step"] if lines else 0


def first_line(said):
    return next((line for line in said.splitlines() if "weights" in line), "nothing said")


def in_checkpoints(workdir):
    """Names in the folder: steps that are complete, and what was on its way."""
    folder = workdir / "checkpoints"
    return " ".join(sorted(path.name for path in folder.iterdir())) if folder.exists() else "none"


def check_kills(tmp_path, kills, steps, seed, *changes):
    changes = (f"steps={steps}", *changes)
    process = start(tmp_path / "whole", *changes, f"checkpoint_every={steps}")
    _, said = process.communicate(timeout=1800)
    assert process.returncode == 0, said
    whole = weights(tmp_path / "whole")

    workdir, rng = tmp_path / "killed", np.random.default_rng(seed)
    for number, target in enumerate(sorted(rng.integers(steps // 4, steps, kills)), 1):
        process = start(workdir, *changes)
        while process.poll() is None and last_step(workdir) < target:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))  # while a step or a checkpoint is on its way
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        print(
            f"kill {number} ({process.returncode}): {first_line(said)}; last logged step "
            f"{last_step(workdir)}; checkpoints {in_checkpoints(workdir)}"
        )
    process = start(workdir, *changes)
    _, said = process.communicate(timeout=1800)
    assert process.returncode == 0 and "resumed at step" in said, said
    resumed = weights(workdir)
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    logged = [json.loads(line)["step"] for line in open(workdir / "metrics.jsonl")]
    assert logged == list(range(1, steps + 1))


@pytest.mark.long
def test_a_run_killed_twice_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 2, 24, 0, "checkpoint_every=3")


@pytest.mark.slow
def test_a_resumed_run_compiles_nothing_again(tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",  # the step, not what moves an array
    }
    changes = ("steps=200", "batch_size=2")
    process = start(tmp_path / "run", *changes, **cache)
    while process.poll() is None and last_step(tmp_path / "run") < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_PREEMPTED and "compiled 0 new" not in said, said
    before = last_step(tmp_path / "run")
    process = start(tmp_path / "run", *changes, **cache)
    while process.poll() is None and last_step(tmp_path / "run") < before + 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_PREEMPTED, said
    assert "resumed at step" in said and "compiled 0 new programs" in said, said


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 20, 60, 1, "checkpoint_every=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_config, make_task):
    """A workdir with checkpoints of steps 2 and 3."""
    workdir = tmp_path_factory.mktemp("finished")
    cfg = make_config(steps=3, checkpoint_every=2, **ONE_PROGRAM)
    fit(make_task(cfg), workdir)
    return workdir


@pytest.mark.parametrize("kind", ["bit", "truncated", "missing"])
def test_damaged_checkpoint_is_put_aside(finished, tmp_path, make_stage, capfd, kind):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    files = [path for path in (workdir / "checkpoints" / "3").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if kind == "bit":
        data[len(data) // 2] ^= 16
    elif kind == "truncated":
        del data[-100:]
    largest.write_bytes(data)
    if kind == "missing":
        largest.unlink()
    checkpoints = Checkpoints(workdir, make_stage(steps=3, checkpoint_every=2, **ONE_PROGRAM))
    assert checkpoints.latest_step() == 2
    checkpoints.close()
    said = capfd.readouterr().err
    assert "checkpoint of step 3 is damaged" in said and largest.name in said
    assert (workdir / "damaged" / "3").is_dir()


def test_unreadable_checkpoint_without_checksums(finished, tmp_path, make_config, make_task, capfd):
    """A run that was killed before the checksums were written; then the disk was damaged."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checksums")
    for path in (workdir / "checkpoints" / "3").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.unlink()
    cfg = make_config(steps=3, checkpoint_every=2, **ONE_PROGRAM)
    fit(make_task(cfg), workdir)
    assert "checkpoint of step 3 is damaged" in capfd.readouterr().err
    fresh, again = weights(finished), weights(workdir)
    for name, value in fresh.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_run_with_another_value_of_an_option_is_refused(finished, tmp_path, make_stage):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    same = dict(steps=3, checkpoint_every=2, **ONE_PROGRAM)
    Checkpoints(workdir, make_stage(**same)).close()
    with pytest.raises(UserError, match="noise_offset was 0.0, is 0.1"):
        Checkpoints(workdir, make_stage(**same, noise_offset=0.1))


def test_full_disk_is_one_sentence(finished, tmp_path, make_stage, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    checkpoints = Checkpoints(workdir, make_stage(steps=3, checkpoint_every=2, **ONE_PROGRAM))

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: write failed [No space left on device]")

    monkeypatch.setattr(checkpoints.manager, "save", full)
    with pytest.raises(UserError, match="no space left.*last good checkpoint is of step 3"):
        checkpoints.save(4, {})
    checkpoints.close()


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    """On a real file system of 12 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        process = start(disk / "run", "steps=2000", "checkpoint_every=20", "keep=1000")
        _, said = process.communicate(timeout=900)
        assert process.returncode == 2 and "no space left" in said, said
        good = max(int(p.name) for p in (disk / "run/checkpoints").iterdir() if p.name.isdigit())
        assert f"last good checkpoint is of step {good}" in said
        moved = tmp_path / "moved"
        shutil.copytree(disk / "run", moved)
        process = start(moved, f"steps={good + 1}", "checkpoint_every=20", "keep=1000")
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0 and f"resumed at step {good}" in said, said
    finally:
        subprocess.run(["umount", str(disk)], check=True)
