"""benchmarks/fuzz: what it finds is none, and it would find what there is."""

from benchmarks.fuzz.__main__ import run_corpus


def test_a_thousand_damaged_pickles_and_the_hostile_ones():
    """Each within 2 GB and 5 s of processor time, in child processes; refused by our own error."""
    lines = run_corpus("weights", 0, 1000, function="pickles", batch=1000)
    assert len(lines) == 1000
    bad = [line for line in lines if line["verdict"] not in ("ok", "our error")]
    assert not bad, bad[:5]
    hostile = [line for line in lines if line["name"].startswith("hostile")]
    assert len(hostile) > 30 and {line["verdict"] for line in hostile} == {"our error"}
