"""Data sets in a bucket: the same bits as on a disk, through epath and a bucket held in memory."""

import os
from pathlib import Path

import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from furniture_files import write_catalogue, write_folder
from gltf_files import Gltf, png
from test_render_objects import Notes
from test_shards import NAMES, finish, made, tree, write

from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, beside, meshes, places, rasterizer, render
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
    beside._remote_names.cache_clear()
    return "s3://bucket/data"


class Fresh(Notes):
    """Its pictures do not say what was drawn before."""

    def load(self, parts, light=None):
        self.drawn = []


def stored(place):
    """The bytes of each file below a place."""
    start = place.removeprefix("s3:/") + "/"
    return {
        name.removeprefix(start): content.getvalue()
        for name, content in Bucket.store.items()
        if name.startswith(start)
    }


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
    for path in (tmp_path / "m").iterdir():
        places.place("s3://meshes/m/" + path.name).write_bytes(path.read_bytes())
    how = render.How(8, 1)
    for shard in ("0/2", "1/2"):  # meshes and data set in buckets
        render.render_dataset(["s3://meshes/m"], bucket, how, shard=shard)
    joining.join_shards(places.place(bucket))
    render.render_dataset([str(tmp_path / "m")], tmp_path / "here", how, count=2)
    assert stored(bucket) == tree(tmp_path / "here")
    assert len(open_dataset(bucket, "all")) == 5
    assert shards.read_done(places.place(bucket), Shard(0, 2)) is not None


def write_meshes(folder: Path) -> Path:
    """Meshes with files beside them, below them and in an archive."""
    write_folder(folder / "obj", ["a", "b"], y=0.5)
    write_catalogue(folder / "shop.sh3f", [{"stem": "chair"}, {"stem": "desk"}])
    file = Gltf()
    pixels = np.full((2, 2, 3), (200, 30, 60), np.uint8)
    file.mesh(file.material(pixels), TEXCOORD_0=np.zeros((4, 2), "f4"))
    del file.json["images"][0]["bufferView"]
    file.json["images"][0]["uri"] = "textures/red.png"
    deep = folder / "gltf" / "deep"
    (deep / "textures").mkdir(parents=True)
    (deep / "square.gltf").write_bytes(file.gltf("square.bin"))
    (deep / "square.bin").write_bytes(file.data)
    (deep / "textures" / "red.png").write_bytes(png(pixels))
    (deep / "._square.gltf").write_bytes(b"of another system")
    return folder


@pytest.fixture
def meshes_there(bucket, tmp_path):
    """The same meshes in a folder and in the bucket."""
    here, there = write_meshes(tmp_path / "meshes"), places.place("s3://bucket/meshes")
    for path in here.rglob("*"):
        if path.is_file():
            (there / path.relative_to(here).as_posix()).write_bytes(path.read_bytes())
    return here, there


def test_meshes_in_a_bucket_are_those_on_a_disk(meshes_there):
    """In a folder, below it, in a catalogue, and by themselves; what they name comes along."""
    here, there = meshes_there
    single = "gltf/deep/square.gltf"
    for below in ("", "gltf", single, "shop.sh3f"):
        local = asset_sources.find_assets([str(here / below)])
        remote = asset_sources.find_assets([os.fspath(there / below)])
        assert [a.name for a in remote] == [a.name for a in local] and local
        for mine, theirs in zip(local, remote, strict=True):
            assert (theirs.title, theirs.source, theirs.creator) == (
                mine.title, mine.source, mine.creator
            )  # fmt: skip
            assert asset_sources.icon_bytes(theirs) == asset_sources.icon_bytes(mine)
            notes = []
            pairs = zip(
                asset_sources.load_asset(theirs, notes.append),
                asset_sources.load_asset(mine),
                strict=True,
            )
            assert notes == []
            for a, b in pairs:
                np.testing.assert_array_equal(a.positions, b.positions)
                assert a.colour == b.colour and (a.texture is None) == (b.texture is None)
                if a.texture is not None:
                    np.testing.assert_array_equal(a.texture, b.texture)


def test_what_a_bucket_does_not_give_costs_one_object(meshes_there, monkeypatch):
    _, there = meshes_there
    (there / "gltf/deep/textures/red.png").unlink()
    (there / "other.png").write_bytes(b"of another folder")
    asset = asset_sources.find_assets([os.fspath(there / "gltf")])[0]
    notes = []
    asset_sources.load_asset(asset, notes.append)
    assert notes == ["no texture: textures/red.png is not there"]
    read = beside.bucket_reader(there / "gltf")
    with pytest.raises(beside.NotThere, match="outside of the mesh's folder"):
        read("../other.png")
    assert read("DEEP\\square.BIN") == (there / "gltf/deep/square.bin").read_bytes()
    monkeypatch.setattr(beside, "MOST_BYTES", 100)
    with pytest.raises(meshes.BadMesh, match=r"square.gltf has [\d,]+ bytes, and the most is 100"):
        asset_sources.load_asset(asset)

    def fails(*args, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Bucket, "info", fails)
    with pytest.raises(meshes.BadMesh, match="cannot be read .PermissionError: Access Denied"):
        asset_sources.load_asset(asset)


def test_a_bucket_that_cannot_be_listed_is_a_sentence(meshes_there, monkeypatch):
    _, there = meshes_there
    with pytest.raises(UserError, match="--assets s3://bucket/none: there is no such file"):
        asset_sources.find_assets(["s3://bucket/none"])

    def fails(*args, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Bucket, "ls", fails)
    monkeypatch.setattr(Bucket, "isdir", lambda self, path: True)
    with pytest.raises(UserError, match="s3://bucket/meshes: it cannot be listed .*Access Denied"):
        asset_sources.find_assets([os.fspath(there)])
