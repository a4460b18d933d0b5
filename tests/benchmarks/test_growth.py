"""Exponents of calls whose time is known."""

import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("XLA_FLAGS", "")  # the script sets it, for processes of its own
    import growth

    yield growth
    sys.modules.pop("growth")


@pytest.mark.parametrize(
    ("power", "constant", "exponent", "last", "worse"),
    [(1, 0.0, 1.0, 1.0, False), (2, 0.0, 2.0, 2.0, True), (1, 64.0, 0.1835, 0.339, False)],
)
def test_exponents_by_hand(growth, monkeypatch, power, constant, exponent, last, worse):
    """Least squares over the logarithms; those of 64 + n were worked out in plain Python."""
    clock = [0.0]
    monkeypatch.setattr(growth, "time", types.SimpleNamespace(process_time=lambda: clock[0]))

    def make(size):
        def call():
            clock[0] += constant + size**power

        return call

    row = growth.measured(make, 2, 3)
    assert row["sizes"] == [2, 4, 8, 16, 32, 64]
    assert row["seconds"] == [constant + size**power for size in row["sizes"]]
    assert row["exponent"] == pytest.approx(exponent, abs=0.01)
    assert row["exponent_of_the_last_three"] == pytest.approx(last, abs=0.01)
    assert row["worse_than_n_log_n"] is worse


def test_the_drawing_has_a_line_for_each(growth):
    row = {"seconds": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "exponent_of_the_last_three": 1.0}
    svg = growth.chart({"points": row, "rays": row | {"seconds": [1.0] * 6}})
    tree = ElementTree.fromstring(svg)
    lines = [e.attrib["points"].split() for e in tree if e.tag.endswith("polyline")]
    assert [len(line) for line in lines] == [2, 6, 6]
    assert lines[0][-1] == lines[1][-1]  # 32 times at 32 times the size lies on the dashed line
    assert {y.split(",")[1] for y in lines[2]} == {"330.0"}
    names = [e.text for e in tree if e.tag.endswith("text")]
    assert "points: 1.0" in names and "rays: 1.0" in names
