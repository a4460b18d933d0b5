"""Real processes over jax.distributed: the same curve as one; one is killed, the others stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from iso3d_jax.core.stopping import EXIT_PEER_LOST, EXIT_PREEMPTED
from iso3d_jax.training import distributed

ROOT = Path(__file__).resolve().parents[2]


def launch(workdir, count, *changes):
    """`count` processes of one run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "tests/training/small_run.py", str(workdir), *changes],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": str(ROOT)}
            | (meeting | {"JAX_PROCESS_ID": str(i)} if count > 1 else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes, status=0):
    said = [process.communicate(timeout=1800)[1] for process in processes]
    assert [p.returncode for p in processes] == [status] * len(processes), "\n".join(said)
    return said


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [next(v for k, v in line.items() if k.startswith("loss/")) for line in lines]


def wait_for(file, processes, lines=1):
    while not file.exists() or len(file.read_text().splitlines()) < lines:
        assert all(process.poll() is None for process in processes), processes[0].stderr.read()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_their_own_shares_train_as_one(tmp_path, count):
    finish(launch(tmp_path / "one", 1))
    said = finish(launch(tmp_path / "many", count, 'mesh={"fsdp": 2, "tensor": 1}'))
    assert f"{count} processes" in said[0]
    one = losses(tmp_path / "one")
    assert len(one) == 10
    np.testing.assert_allclose(losses(tmp_path / "many"), one, rtol=1e-5)
    one, many = (dict(np.load(tmp_path / w / "model/params.npz")) for w in ("one", "many"))
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_the_run_goes_on(tmp_path):
    processes = launch(tmp_path, 2, "steps=100000", "checkpoint_every=5")
    wait_for(tmp_path / "metrics.jsonl", processes, 12)
    processes[1].kill()
    began = time.monotonic()
    said = processes[0].communicate(timeout=120)[1]
    assert time.monotonic() - began < 60
    assert processes[0].returncode == EXIT_PEER_LOST, said
    assert "lost another process of this run" in said and "last checkpoint is of step" in said
    processes[1].communicate()

    processes = launch(tmp_path, 2, "steps=100000", "checkpoint_every=5")
    lines = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    wait_for(tmp_path / "metrics.jsonl", processes, lines + 3)
    processes[1].send_signal(signal.SIGTERM)  # one host is preempted: all save the same step
    said = finish(processes, EXIT_PREEMPTED)
    assert "resumed at step" in said[0] and "stopped by SIGTERM; saved at step" in said[0]


def test_what_the_environment_says(monkeypatch):
    assert not distributed.is_expected({})
    assert not distributed.is_expected({"SLURM_NTASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"})
    assert distributed.is_expected({"SLURM_NTASKS": "4"})
    assert distributed.is_expected({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert distributed.is_expected({"JAX_COORDINATOR_ADDRESS": "a:1"})
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    with pytest.raises(distributed.UserError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID not"):
        distributed.initialize(None)
