"""benchmarks/fuzz/pictures.py: the same cases for a seed, and none that escapes."""

import os
import signal

import numpy as np
import pytest

from benchmarks.fuzz import pictures as fuzz
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import pictures

REFUSED = {"dds", "tga", "eps", "ico"}  # formats that are not among the named


def test_cases_are_the_same_for_a_seed():
    first, again = list(fuzz.cases(3, 80)), list(fuzz.cases(3, 80))
    assert first == again and len({name for name, *_ in first}) == 80
    assert [data for _, data, _ in fuzz.cases(4, 80)] != [data for _, data, _ in first]


def test_whole_files_are_read_and_damaged_ones_are_ours(tmp_path):
    names = [name for name, *_ in fuzz._whole_files(np.random.default_rng(0))]
    for k, (name, data, suffix) in enumerate(fuzz.cases(0, len(names) + 100)):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        found = fuzz.attempt(path)
        if k < len(names):
            assert found == ("our error" if names[k] in REFUSED else "ok"), name
        assert found in ("ok", "our error"), f"{name}: {found}"


@pytest.mark.parametrize(
    "error, outcome",
    [(UserError("no"), "our error"), (UserError("two\nlines"), "other"), (TypeError("x"), "other"),
     (SystemExit(3), "other"), (MemoryError(), "memory")],
)  # fmt: skip
def test_outcomes(monkeypatch, error, outcome):
    def load(path, **options):
        raise error

    monkeypatch.setattr(pictures, "load_picture", load)
    assert fuzz.attempt("x.png").partition(":")[0] == outcome


def test_crashes_and_endless_loops_are_seen(monkeypatch):
    monkeypatch.setattr(
        pictures, "load_picture", lambda path, **options: os.kill(os.getpid(), signal.SIGSEGV)
    )
    assert fuzz.attempt("x.png") == f"other: signal {int(signal.SIGSEGV)}"

    def spin(path, **options):
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setattr(pictures, "load_picture", spin)
    assert fuzz.attempt("x.png") == "hang"
