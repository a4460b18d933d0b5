"""benchmarks/fuzz/coverage_guided.py, but for Atheris: its inputs, and what becomes of outcomes."""

import json
import random

import pytest

from benchmarks.fuzz import child, coverage_guided
from benchmarks.fuzz.coverage_guided import Reader, Run


@pytest.mark.parametrize("name", coverage_guided.READERS)
def test_whole_inputs_are_read_and_changed_ones_are_other_files(name):
    reader = coverage_guided.READERS[name]()
    for seed in reader.seeds:
        files, entry = reader.unpack(seed)
        assert child._try(reader, ("", files, entry), 5.0)[0] == "ok"
    if reader.change is not None:
        text = reader.seeds[-1] if name == "obj_ply" else reader.seeds[0]
        changed = {reader.change(text, random.Random(k)) for k in range(20)}
        assert len(changed) > 10 and text not in changed
        assert len({json.dumps(str(reader.unpack(data))) for data in changed}) == len(changed)
        assert isinstance(reader.change(b"\xff{", random.Random(0)), bytes)


def test_a_place_in_the_code_is_one_finding(tmp_path, monkeypatch):
    def attempt(path):
        exec(path.read_bytes(), {})

    (tmp_path / "corpus").mkdir()
    run = Run(Reader([], lambda data: ({"x": data}, "x"), attempt), tmp_path, 1e9)
    for code in (b"pass", b"1 / 0", b"[][1]", b"\n1 / 0", b"1 / 0  # again"):
        run.try_one(code)
    found = sorted(path.read_bytes() for path in (tmp_path / "findings").iterdir())
    assert found == [b"\n1 / 0", b"1 / 0"]  # the others are of the same lines
    monkeypatch.setattr(coverage_guided.os, "_exit", lambda status: statuses.append(status))
    statuses: list[int] = []
    run.finish()
    result = json.loads((tmp_path / "result.json").read_text())
    assert statuses == [1] and result["executions"] == 5 and len(result["findings"]) == 2
    assert result["verdicts"] == {"ok": 1, "other": 4}
