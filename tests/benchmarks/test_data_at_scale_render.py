"""benchmarks/data_at_scale/render.py: each part at a small size."""

import pytest

from benchmarks.data_at_scale import render as benchmark
from iso3d_jax.core.errors import UserError


def test_parts_find_what_is_so(tmp_path):
    found = benchmark.split(tmp_path / "split", bound=30_000, side=16)
    assert found["bytes"] > 30_000 and found["objects"] > 3
    found = benchmark.join(tmp_path / "join", objects=80, count=4)
    assert sum(found["lengths"].values()) == 76 and found["peak MB"] < 1000
    assert found["said"].endswith("objects")


def test_the_rate_is_of_the_objects(tmp_path):
    try:
        found = benchmark.rate(objects=2, resolution=16, sets=1)
    except UserError as e:
        pytest.skip(f"rendering needs moderngl and EGL: {e}")
    seconds = found["core seconds an object"]
    assert 0 < seconds["drawing"] < seconds["in all"] and found["bytes an object"] > 100


@pytest.mark.slow
def test_apart_and_killed_gives_the_same_bytes(tmp_path):
    (tmp_path / "kills").mkdir()
    assert benchmark.two_shards(tmp_path / "two", objects=4)["the same bytes"]
    assert benchmark.kills(tmp_path / "kills", 2)["the same bytes"]
