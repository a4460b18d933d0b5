"""benchmarks/fuzz: what it finds is none, and it would find what there is."""

import copy
import json

import numpy as np
import pytest

from benchmarks.fuzz import child, mutation
from benchmarks.fuzz.__main__ import BAD, run_corpus, table


def bad(lines):
    return [line for line in lines if line["verdict"] in BAD]


@pytest.mark.long
def test_a_thousand_damaged_pickles_and_the_hostile_ones():
    """Each within 2 GB and 5 s of processor time, in a child process; refused by our own error."""
    lines = run_corpus("weights", 0, 1000, function="pickles", batch=1000)
    assert len(lines) == 1000 and not bad(lines), bad(lines)[:5]
    hostile = [line for line in lines if line["name"].startswith("hostile")]
    assert len(hostile) > 30 and {line["verdict"] for line in hostile} == {"our error"}


@pytest.mark.parametrize("corpus, count", [("documents", 80), ("checkpoints", 40), ("meshes", 40)])
def test_a_slice_of_each_corpus(corpus, count, tmp_path):
    lines = run_corpus(corpus, 1, count, tmp_path / "log.jsonl", batch=count)
    assert len(lines) == count and not bad(lines), bad(lines)[:5]
    assert {line["verdict"] for line in lines} == {"ok", "our error"}
    whole = [line["verdict"] for line in lines if line["name"].startswith("whole")]
    assert set(whole) <= {"ok"}
    # What is in the log is not tried again.
    assert run_corpus(corpus, 1, count, tmp_path / "log.jsonl") == lines
    assert f"| {corpus} | {count} |" in table({corpus: lines})


def test_what_one_input_is_made_of_is_not_what_others_were():
    """A run that goes on makes the inputs that an unbroken one would have made."""
    before = copy.deepcopy(mutation.ODD_VALUES)
    for index in range(3000):
        mutation.mutate_json(np.random.default_rng(index), {"a": [1, {"b": 2}], "c": "d"})
    assert before == mutation.ODD_VALUES


class Module:
    """A corpus whose one input does what it is told."""

    @staticmethod
    def attempt(path):
        exec(path.read_text(), {})


@pytest.mark.parametrize(
    "code, verdict",
    [
        ("pass", "ok"),
        ("from iso3d_jax.core.errors import UserError; raise UserError('x')", "our error"),
        ("from iso3d_jax.core.errors import UserError; raise UserError('x\\ny')", "other"),
        ("1 / 0", "other"),
        ("raise SystemExit(0)", "other"),
        ("raise MemoryError", "memory"),
        ("while True: pass", "hang"),
        ("while True:\n  try:\n    while True: pass\n  except Exception: pass", "hang"),
    ],
)
def test_verdicts(code, verdict):
    assert child._try(Module, ("x", code.encode(), ".py"), 0.2)[0] == verdict


def test_a_process_that_dies_is_told_with_its_input(tmp_path, monkeypatch):
    from benchmarks.fuzz import __main__ as driver

    script = tmp_path / "child.py"
    lines = [
        {"index": 0, "name": "a", "limit": 5}, {"index": 0, "name": "a", "verdict": "ok",
         "detail": "", "seconds": 0.0}, {"index": 1, "name": "b", "limit": 5},
    ]  # fmt: skip
    said = [json.dumps(line) for line in lines]
    script.write_text(f"import os\nfor l in {said!r}: print(l, flush=True)\nos.abort()\n")
    run = driver.subprocess.Popen

    def popen(command, **options):
        return run([command[0], str(script)], **options)

    monkeypatch.setattr(driver.subprocess, "Popen", popen)
    found = list(driver._child("weights", 0, 2, 0, 2, "cases"))
    assert [line["verdict"] for line in found] == ["ok", "other"]
    assert found[1]["name"] == "b" and "-6" in found[1]["detail"]
