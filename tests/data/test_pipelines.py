"""Rendering as an Apache Beam pipeline, by its runner on one machine where Beam is installed."""

import sys

import pytest
from furniture_files import write_folder
from test_shards import tree

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import pipelines, render
from iso3d_jax.data.multiview.shards import Shard

HOW = dict(resolution=16, sets=1, workers=1, count=2)


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"apache_beam, which is not installed.*iso3d_jax\[beam\]"):
        pipelines.run("", [Shard(0, 1)], {})


def test_a_worker_makes_the_shard_that_it_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(render, "render_dataset", lambda **k: asked.append(k) or {"train": 1})
    assert pipelines.render_shard("3/7", {"out": "d", "count": 7, "shard": None}) == {"train": 1}
    assert asked == [{"out": "d", "count": 0, "shard": "3/7"}]


@pytest.mark.filterwarnings("default")  # Beam's own
def test_a_pipeline_makes_the_same_bytes(tmp_path, machine):
    pytest.importorskip("apache_beam")
    write_folder(tmp_path / "m", ["a", "b", "c"], y=0.5)
    counts = render.render_dataset([str(tmp_path / "m")], tmp_path / "beam", beam="", **HOW)
    assert sum(counts.values()) == 3
    render.render_dataset([str(tmp_path / "m")], tmp_path / "here", **HOW)
    assert tree(tmp_path / "beam") == tree(tmp_path / "here")
    (tmp_path / "beam" / "manifests" / "00000-of-00002.jsonl").write_bytes(b"damaged")
    with pytest.raises(UserError, match="^line 1 of the manifest .* of its shard again$"):
        render.render_dataset([str(tmp_path / "m")], tmp_path / "beam", beam="", **HOW)
    with pytest.raises(UserError, match="not options of Beam"):
        pipelines.run("--runner 'x", [], {})


RESOLUTION = 16
