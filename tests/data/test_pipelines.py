"""Rendering as an Apache Beam pipeline, by its runner on one machine where Beam is installed."""

import json
import sys

import pytest
from furniture_files import write_folder
from test_shards import tree

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import pipelines, render
from iso3d_jax.data.multiview.shards import Shard

HOW, WORK = render.How(16, 1), dict(workers=1, count=2)


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"apache_beam, which is not installed.*iso3d_jax\[beam\]"):
        pipelines.run("", [Shard(0, 1)], {})


def test_a_worker_makes_the_shard_that_it_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(render, "render_dataset", lambda **k: asked.append(k) or {"train": 1})
    given = {"out": "d", "how": {"resolution": 9}, "chosen": {"only": ["a"]}}
    assert pipelines.render_shard("3/7", given) == {"train": 1}
    (told,) = asked
    assert told == {
        "out": "d", "how": render.How(9), "chosen": render.Chosen(["a"]), "shard": "3/7"
    }  # fmt: skip


def test_the_arguments_of_a_pipeline_are_plain_and_whole(monkeypatch, tmp_path):
    """Workers have no class of the command's own module."""
    asked = []
    monkeypatch.setattr(pipelines, "run", lambda *given: asked.append(given))
    monkeypatch.setattr(render.joining, "join_shards", lambda out: {"train": 1})
    write_folder(tmp_path / "m", ["a", "b"])
    how, chosen = render.How(9, 2, layers=["albedo"]), render.Chosen(["a"], licenses=["unknown"])
    render.render_dataset(
        [str(tmp_path / "m")], tmp_path / "out", how, chosen, beam="x", count=3, workers=2,
        retry_refused=True, blender_python="p",
    )  # fmt: skip
    ((options, wanted, arguments),) = asked
    assert options == "x" and wanted == [Shard(k, 3) for k in range(3)]
    sent = json.loads(json.dumps(arguments))
    assert sent.pop("assets") == [str(tmp_path / "m")] and sent.pop("out") == str(tmp_path / "out")
    assert render.Chosen(**sent.pop("chosen")) == chosen
    assert render.How(**sent.pop("how")).checked() == how.checked()
    assert sent == {"workers": 2, "retry_refused": True, "blender_python": "p"}


@pytest.mark.filterwarnings("default")  # Beam's own
def test_a_pipeline_makes_the_same_bytes(tmp_path, machine):
    pytest.importorskip("apache_beam")
    write_folder(tmp_path / "m", ["a", "b", "c"], y=0.5)
    counts = render.render_dataset([str(tmp_path / "m")], tmp_path / "beam", HOW, beam="", **WORK)
    assert sum(counts.values()) == 3
    render.render_dataset([str(tmp_path / "m")], tmp_path / "here", HOW, **WORK)
    assert tree(tmp_path / "beam") == tree(tmp_path / "here")
    (tmp_path / "beam" / "manifests" / "00000-of-00002.jsonl").write_bytes(b"damaged")
    with pytest.raises(UserError, match="^line 1 of the manifest .* of its shard again$"):
        render.render_dataset([str(tmp_path / "m")], tmp_path / "beam", HOW, beam="", **WORK)
    with pytest.raises(UserError, match="not options of Beam"):
        pipelines.run("--runner 'x", [], {})


RESOLUTION = 16
