"""Rates between two log lines, by a clock that the test turns."""

import types

import numpy as np
import pytest

from iso3d_jax.core import chips
from iso3d_jax.training import speed


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
    return now


def make(monkeypatch, peak=None, devices=4):
    monkeypatch.setattr(chips, "find_peak", lambda kind: peak if kind == "kind 0" else None)
    kinds = [types.SimpleNamespace(device_kind=f"kind {i}") for i in range(devices)]
    mesh = types.SimpleNamespace(devices=np.array(kinds, object).reshape(2, -1))
    work = dict(a=8e9, b=2e9)
    monkeypatch.setattr(
        speed.flops, "count", lambda jaxpr: types.SimpleNamespace(useful=work[jaxpr])
    )
    return speed.Speed(6, mesh)


def test_steps_objects_operations_and_waiting_a_second(monkeypatch, clock):
    measured = make(monkeypatch, peak=5e9)
    measured.register_flops("2-a", "a")
    measured.register_flops("2-b", "b")
    clock[0] += 30.0  # what was before a restart does not count
    measured.add("2-a")
    measured.restart()
    for branch in ("2-a", "2-b", "2-b"):
        measured.wait(0.5)
        measured.add(branch)
        clock[0] += 2.0
    assert measured.values() == pytest.approx(
        dict(
            steps_per_second=0.5,
            objects_per_second=3.0,
            tflops_per_device=12e9 / 6 / 4 / 1e12,
            data_wait_share=0.25,
            share_of_peak=12e9 / 6 / 4 / 5e9,
        )
    )
    clock[0] += 6.0
    assert measured.values()["steps_per_second"] == pytest.approx(0.25)
    measured.restart()
    clock[0] += 1.0
    assert set(measured.values().values()) == {0.0}


def test_a_branch_is_counted_once_and_unknown_chips_have_no_peak(monkeypatch, clock):
    measured = make(monkeypatch)
    measured.register_flops("2-a", "a")
    measured.register_flops("2-a", "b")
    measured.add("2-a")
    clock[0] += 1.0
    assert measured.values()["tflops_per_device"] == pytest.approx(8e9 / 4 / 1e12)
    assert "share_of_peak" not in measured.values()
