"""benchmarks/fuzz/pictures.py: the same cases for a seed, and none that escapes."""

import numpy as np
import pytest

from benchmarks.fuzz import child
from benchmarks.fuzz import pictures as fuzz
from benchmarks.fuzz.__main__ import run_corpus
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import picture_files, pictures

REFUSED = {"dds", "tga", "eps", "ico"}  # formats that are not among the named


def test_cases_are_the_same_for_a_seed():
    first, again = list(fuzz.cases(3, 80)), list(fuzz.cases(3, 80))
    assert first == again and len({name for name, *_ in first}) == 80
    assert [data for _, data, _ in fuzz.cases(4, 80)] != [data for _, data, _ in first]


def test_whole_files_are_read_and_damaged_ones_are_ours():
    names = [name for name, *_ in fuzz._whole_files(np.random.default_rng(0))]
    lines = run_corpus("pictures", 0, len(names) + 100)
    assert len(lines) == len(names) + 100
    for k, line in enumerate(lines):
        if k < len(names):
            assert line["verdict"] == ("our error" if names[k] in REFUSED else "ok"), line
        assert line["verdict"] in ("ok", "our error"), line
    assert len({line["verdict"] for line in lines[len(names) :]}) == 2


@pytest.mark.parametrize(
    "error, outcome",
    [(UserError("no"), "our error"), (UserError("two\nlines"), "other"), (TypeError("x"), "other"),
     (SystemExit(3), "other"), (MemoryError(), "memory"),
     (UserError(f"x {picture_files.NO_MEMORY}: reduce it"), "memory")],
)  # fmt: skip
def test_outcomes(monkeypatch, error, outcome):
    def load(path, **options):
        raise error

    monkeypatch.setattr(pictures, "load_picture", load)
    assert child._try(fuzz, ("x", b"", ".png"), 1.0)[0] == outcome


def test_endless_loops_and_what_is_no_picture_are_seen(monkeypatch):
    def spin(path, **options):
        while True:
            pass

    monkeypatch.setattr(pictures, "load_picture", spin)
    assert child._try(fuzz, ("x", b"", ".png"), 0.2)[0] == "hang"
    monkeypatch.setattr(pictures, "load_picture", lambda path, **options: np.zeros((4, 4, 3), "u1"))
    assert child._try(fuzz, ("x", b"", ".png"), 1.0)[0] == "other"
