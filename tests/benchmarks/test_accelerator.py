"""benchmarks/accelerator.py: every part runs at tiny size, and what goes wrong is in its file."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import accelerator  # noqa: E402
from on_accelerator import networks, training  # noqa: E402
from on_accelerator.record import Record, markdown  # noqa: E402

from iso3d_jax.core import chips  # noqa: E402
from iso3d_jax.presets import common  # noqa: E402
from iso3d_jax.weights import bundle  # noqa: E402
from iso3d_jax.weights.model_spec import ModelSpec  # noqa: E402


@pytest.fixture
def fast_compilation():
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def record(path, seconds=100.0):
    return Record(path, {"device": "a device"}, seconds, io.StringIO())


def test_a_part_that_fails_keeps_what_it_had_and_the_next_runs(tmp_path):
    run = record(tmp_path / "here" / "a.json")

    def breaks():
        run.row("before", seconds=0.123456, finite=True, gb=float("nan"))
        assert json.loads(run.path.read_text())["parts"]["one"]["state"] == "running"
        with run.trying("within"):
            raise ValueError("not this\nbut that")
        raise RuntimeError("\n  out of memory  \nand a long story")

    run.run("one", breaks, needs=0)
    run.run("two", lambda: run.row("a", seconds=2), needs=0)
    run.run("three", lambda: pytest.fail("it has no time"), needs=1000)
    parts = json.loads(run.path.read_text())["parts"]
    assert parts["one"]["state"] == "failed" and parts["two"]["state"] == "done"
    assert parts["one"]["error"] == "RuntimeError: out of memory"
    assert parts["one"]["rows"] == {
        "before": {"seconds": 0.1235, "finite": True, "gb": "nan"},
        "within": {"error": "ValueError: not this"},
    }
    assert parts["three"]["state"] == "left out" and "it takes 1000 s" in parts["three"]["reason"]
    assert "one: failed" in run.stream.getvalue() and "three: left out" in run.stream.getvalue()


def test_a_second_run_goes_on_behind_the_part_that_died(tmp_path):
    run = record(tmp_path / "a.json")
    run.run("one", lambda: None, needs=0)
    run.run("late", lambda: None, needs=1000)

    def dies():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run("two", dies, needs=0)
    again = record(run.path)
    again.resume()
    states = {name: part["state"] for name, part in again.data["parts"].items()}
    assert states == {"one": "done", "two": "died"}


def test_markdown_has_a_table_for_each_part(tmp_path):
    run = record(tmp_path / "a.json")
    run.run("speed", lambda: (run.row("x", seconds=1.5), run.row("y | z", gb=2)), needs=0)
    text = markdown(json.loads(run.path.read_text()))
    assert "# a device" in text and "## speed: done" in text
    assert (
        "| speed | seconds | gb |\n| --- | --- | --- |\n| x | 1.5 |  |\n| y \\| z |  | 2 |" in text
    )


def test_attention_is_measured_at_the_networks_own_lengths():
    model = ModelSpec.read(common.full_model().to_dict())
    cases = networks.attention_cases(bundle.make_config(model))
    assert list(cases.values()) == [
        (2, 4096, 5, 64), (2, 1024, 10, 64), (2, 256, 20, 64), (2, 64, 20, 64),
        (2, 5120, 5, 64), (2, 1280, 10, 64), (2, 320, 20, 64), (2, 80, 20, 64),
        (1, 257, 16, 80), (8, 1024, 1, 512),
    ]  # fmt: skip


def test_parts_are_named_in_order_and_unknown_ones_refused():
    assert accelerator.names_of("attention,device") == ["device", "attention"]
    with pytest.raises(Exception, match="no part 'speed'; parts are device, precision"):
        accelerator.names_of("speed")


@pytest.mark.parametrize(
    "an_object, largest, best",
    [
        ({1: 1.0, 2: 0.6, 4: 0.595, 8: 0.1}, 64, 2),  # 4 is hardly cheaper: 8 is not tried
        ({1: 1.0, 2: 0.6, 4: None}, 64, 2),  # 4 does not fit
        ({1: 1.0, 2: 0.5}, 2, 2),
        ({1: None}, 64, 0),
    ],
)
def test_the_batch_is_doubled_while_that_pays(an_object, largest, best):
    found, seconds = training.search(an_object.__getitem__, 1, largest, lambda: 1000.0)
    assert found == best and (not best or seconds == an_object[best])


def test_no_larger_batch_is_tried_without_time_for_it():
    left = iter([10.0, -1.0])
    assert training.search(lambda batch: 1 / batch, 1, 64, lambda: next(left)) == (1, 1.0)


QUICK = ["device", "attention", "encode", "hash_grid"]


@pytest.mark.long
def test_quick_parts_run_at_tiny_size(tmp_path, fast_compilation):
    parts = accelerator.run(QUICK, tmp_path / "a.json", 1000.0, tiny=True)["parts"]
    check(parts, QUICK)
    rows = parts["attention"]["rows"]
    assert all(row["kernel"] == "xla" and row["ours_over_xla"] > 0 for row in rows.values())
    assert len(parts["hash_grid"]["rows"]) == 4 and len(parts["encode"]["rows"]) == 2


def test_no_part_is_begun_when_the_time_is_over(tmp_path):
    parts = accelerator.run(["precision", "sds"], tmp_path / "a.json", -1.0, tiny=True)["parts"]
    assert [part["state"] for part in parts.values()] == ["left out"] * 2


@pytest.mark.slow
def test_the_command_runs_every_part_at_tiny_size_and_shows_them(tmp_path):
    out = tmp_path / "a.json"
    command = [sys.executable, "benchmarks/accelerator.py"]
    # The same program is timed on the same numbers again and again, its keys among them.
    again = os.environ | {"JAX_DEBUG_KEY_REUSE": "0"}
    tiny = [*command, "--tiny", "--seconds", "3000", "--out", out]
    subprocess.run(tiny, check=True, cwd=ROOT, env=again)
    parts = json.loads(out.read_text())["parts"]
    check(parts, list(accelerator.PARTS))
    for row in parts["precision"]["rows"].values():
        assert 1e-4 < row["relative_error"] < 0.05
    whole = [row for name, row in parts["sds"]["rows"].items() if name.endswith(": whole")]
    assert len(whole) == 2 and all(row["iterations_per_second"] > 0 for row in whole)
    assert {"2-b, best", "2-a, best"} <= set(parts["training"]["rows"])
    assert parts["iterations"]["rows"]["all 10000 iterations, from these rates"]["hours"] > 0
    shown = subprocess.check_output([*command, "--show", out], cwd=ROOT, text=True)
    assert all(f"## {name}: done" in shown for name in accelerator.PARTS)


def check(parts, names):
    """Every part ended well, and no row is an error."""
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(names, "done")
    for name, part in parts.items():
        for row, columns in part["rows"].items():
            if row == "cudnn":  # a private name of jax's, which may go
                continue
            errors = [key for key, value in columns.items() if key.endswith("error")
                      and isinstance(value, str)]  # fmt: skip
            assert not errors, (name, row, columns)


def test_the_peak_of_the_first_device_is_known():
    assert chips.find_peak("NVIDIA H200") == 989e12
