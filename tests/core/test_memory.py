"""The most memory that a process has held."""

import types

import numpy as np
import psutil

from iso3d_jax.core import memory


def test_peak_memory_is_in_bytes_and_stays_when_memory_is_given_back():
    block = np.ones(20_000_000)
    held = psutil.Process().memory_info().rss
    assert block.nbytes < held < 1.1 * memory.peak_bytes() < 100 * held  # in KiB: a 1,024th
    peak = memory.peak_bytes()
    del block
    assert psutil.Process().memory_info().rss < held and memory.peak_bytes() >= peak


def test_without_resource_the_peak_is_windows_own(monkeypatch):
    now = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(peak_wset=3, rss=1))
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory, "psutil", types.SimpleNamespace(Process=lambda: now), raising=False)
    assert memory.peak_bytes() == 3
