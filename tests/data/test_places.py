"""Data sets in a bucket: the same bits as on a disk, through epath and a bucket held in memory."""

import os

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from furniture_files import write_folder
from test_render_objects import Notes
from test_shards import NAMES, finish, made, tree, write

from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import places, rasterizer, render
from iso3d_jax.data.multiview import joining, open_dataset, shards
from iso3d_jax.data.multiview.shards import Shard, ShardWriter


class Bucket(MemoryFileSystem):
    """S3 as far as epath knows it."""

    store: dict = {}
    pseudo_dirs = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(os.fspath(path).removeprefix("s3://"))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A place in it, and the user's cache in a folder of the test."""
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    fake = Bucket()
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", {"s3": fake}.__getitem__)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return "s3://bucket/data"


class Fresh(Notes):
    """Its pictures do not say what was drawn before."""

    def load(self, parts, light=None):
        self.drawn = []


def stored(place):
    """The bytes of each file below a place."""
    start = place.removeprefix("s3:/") + "/"
    return {name.removeprefix(start): content.getvalue() for name, content in Bucket.store.items()}


def test_files_appear_whole_or_not_at_all(bucket, tmp_path):
    for root in (places.place(bucket), places.place(tmp_path / "here")):
        file = root / "below" / "a.txt"
        places.write_text(file, "first")
        with pytest.raises(KeyError):
            with places.whole_file(file) as temporary:
                temporary.write_text("second")
                raise KeyError
        assert file.read_text() == "first" and places.names(root / "below") == {"a.txt"}
        assert places.names(root / "nothing") == set()
        with places.on_disk(file) as local:
            assert local.read_text() == "first"
        assert local.exists() != places.is_remote(root)
    assert os.fspath(places.place("~")) == os.path.expanduser("~")


def test_what_is_half_in_a_bucket_goes(bucket, monkeypatch):
    file = places.place(bucket) / "manifests" / "a.jsonl"

    def interrupted(source, target, length):
        target.write(source.read(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(places.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        places.write_text(file, "several lines")
    assert not file.exists()


def test_a_bucket_that_cannot_be_reached_is_a_sentence(monkeypatch):
    def missing(name):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", missing)
    with pytest.raises(UserError, match="s3://b/d is in a bucket .*Install s3fs.*gcsfs for gs://"):
        places.place("s3://b/d")


def test_a_data_set_in_a_bucket_is_that_on_a_disk(bucket, tmp_path, monkeypatch):
    expected = write(tmp_path / "here", NAMES)
    out = places.place(bucket)
    with ShardWriter(out, Shard(0, 2)) as writer:  # ends before it is done
        for name in [name for name in NAMES if writer.shard.holds(name)][:7]:
            writer.add(*made(name))
    monkeypatch.setattr("test_shards.tree", lambda out: stored(bucket))
    found = finish(bucket)
    assert {name for name in found if not name.endswith(".lock")} == set(expected)
    assert {name: found[name] for name in expected} == expected

    for split in ("train", "test"):
        here, there = open_dataset(tmp_path / "here", split), open_dataset(bucket, split)
        assert len(here) == len(there)
        for k in (0, len(here) - 1, -2):
            assert here[k]["name"] == there[k]["name"]
            assert (here[k]["images"] == there[k]["images"]).all()
    copies = tree(tmp_path / "cache")
    assert len(copies) == 4 and set(copies.values()) <= set(expected.values())
    Bucket.store = {n: f for n, f in Bucket.store.items() if "array_record" not in n}
    assert (
        open_dataset(bucket, "train")[0]["name"]
        == open_dataset(tmp_path / "here", "train")[0]["name"]
    )
    # More objects: another state of the data set, whose copies are its own.
    with pytest.raises(UserError, match="is not a multi-view data set"):
        open_dataset("s3://bucket", "train")
    with pytest.raises(UserError, match="there is no data set at s3://bucket/other"):
        open_dataset("s3://bucket/other", "train")


def test_the_command_renders_into_a_bucket(bucket, tmp_path, monkeypatch):
    def run_each(tasks, make, work, **limits):
        machine = make()
        return ((task, work(machine, task)) for task in tasks)

    monkeypatch.setattr(child_processes, "run_each", run_each)
    monkeypatch.setattr(rasterizer, "Rasterizer", Fresh)
    write_folder(tmp_path / "m", ["a", "b", "c", "d", "e"], y=0.5)
    how = dict(resolution=8, sets=1)
    for shard in ("0/2", "1/2"):
        render.render_dataset([str(tmp_path / "m")], bucket, shard=shard, **how)
    joining.join_shards(places.place(bucket))
    render.render_dataset([str(tmp_path / "m")], tmp_path / "here", count=2, **how)
    assert stored(bucket) == tree(tmp_path / "here")
    assert len(open_dataset(bucket, "all")) == 5
    assert shards.read_done(places.place(bucket), Shard(0, 2)) is not None
