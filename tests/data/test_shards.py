"""Shards of a data set: which objects, what a killed process leaves, and the same bits always."""

import json
import os

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import places
from iso3d_jax.data.asset_sources import assign_split
from iso3d_jax.data.multiview import joining, open_dataset, records, shards
from iso3d_jax.data.multiview.shards import Shard, ShardWriter

NAMES = [f"object{k}" for k in range(40)]  # 4 of validation and 5 of test among them
REASONS = {"object3": "flat", "object7": "empty"}


def made(name):
    """An object's entry and record, by its name alone."""
    texts = dict(name=name, title="Café", category="c", creator="d|e", license="f", source="g",
                 split=assign_split(name))  # fmt: skip
    if name in REASONS:
        return texts | {"status": "refused", "reason": REASONS[name]}, None
    k = int(name.removeprefix("object"))
    numbers = {key: np.full(4, k, np.float32) for key in records.NUMBERS}
    images = np.random.default_rng(k).integers(0, 256, (4, 6, 6, 4)).astype(np.uint8)
    record = texts | numbers | {"set_index": np.zeros(4, np.int32), "images": images}
    return texts | {"status": "rendered", "lacks": ""}, records.serialize(record)


def tree(folder):
    """The bytes of each file of a data set."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(folder, names, count=2):
    """A data set made at once."""
    out = places.place(folder)
    shards.write_shards(out, count, map(made, names))
    places.write_text(out / "settings.json", json.dumps({"resolution": 6, "shards": count}))
    joining.join_shards(out)
    return tree(folder)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return write(tmp_path_factory.mktemp("at_once"), NAMES)


def finish(folder, count=2):
    """What a command does that goes on with a data set."""
    out = places.place(folder)
    places.write_text(out / "settings.json", json.dumps({"resolution": 6, "shards": count}))
    for shard in (Shard(k, count) for k in range(count)):
        mine = [name for name in NAMES if shard.holds(name)]
        done = shards.read_done(out, shard)
        if done is not None and done.keys() >= set(mine):
            continue
        with ShardWriter(out, shard) as writer:
            for name in mine:
                if name not in writer.entries:
                    writer.add(*made(name))
            writer.finish()
    joining.join_shards(out)
    return tree(folder)


def test_a_name_is_in_one_shard_for_ever():
    assert [shards.hash_name(name) % 7 for name in NAMES[:8]] == [4, 0, 3, 2, 0, 5, 4, 5]
    for count in (1, 2, 7):
        holders = [[k for k in range(count) if Shard(k, count).holds(n)] for n in NAMES]
        assert [len(h) for h in holders] == [1] * len(NAMES)
    assert str(Shard(3, 100)) == "00003-of-00100" and Shard.parse("3/100") == Shard(3, 100)
    for wrong in ("3", "100/100", "-1/5", "1/0", "a/b", "1/20000", "1/2/3", ""):
        with pytest.raises(UserError, match="not a shard; 3/100 is the fourth of a hundred"):
            Shard.parse(wrong)
    counts = [shards.choose_count(n) for n in (0, 24, 1000, 1001, 10**6, 10**7)]
    assert counts == [1, 1, 1, 2, 1000, 1000]


def test_what_was_made_is_read(expected, tmp_path):
    assert write(tmp_path, NAMES) == expected
    found = {record["name"]: record for record in open_dataset(tmp_path, "all")}
    assert sorted(found) == sorted(set(NAMES) - REASONS.keys())
    for name, record in found.items():
        k = int(name.removeprefix("object"))
        want = np.random.default_rng(k).integers(0, 256, (4, 6, 6, 4)).astype(np.uint8)
        np.testing.assert_array_equal(record["images"], want)
        assert record["split"] == assign_split(name) and (record["distance"] == k).all()
    sizes = {split: len(open_dataset(tmp_path, split)) for split in records.SPLITS}
    assert sum(sizes.values()) == len(found) and min(sizes.values()) > 0
    credits = expected["CREDITS.md"].decode().splitlines()
    assert len(credits) == 6 + len(found) and "| object9 | Café | d/e | f | g |" in credits
    assert sorted(expected["skipped.txt"].decode().splitlines()) == [
        f"{name}\t{reason}" for name, reason in sorted(REASONS.items())
    ]


def test_neither_order_nor_pieces_change_a_bit(expected, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SAVE_BYTES", 700)  # a piece every two records or so
    assert write(tmp_path, reversed(NAMES)) == expected


def test_what_a_killed_process_had_saved_is_not_made_again(expected, tmp_path, monkeypatch):
    writer = ShardWriter(places.place(tmp_path), Shard(0, 2))
    mine = [name for name in NAMES if writer.shard.holds(name)]
    for k, name in enumerate(mine[:9]):
        writer.add(*made(name))
        if k in (3, 6):
            writer.save()
    writer._stack.close()  # as the system does; the last two are lost
    with pytest.raises(UserError, match="not finished"):
        open_dataset(tmp_path, "train")
    asked = []
    monkeypatch.setitem(globals(), "made", lambda name, f=made: asked.append(name) or f(name))
    assert finish(tmp_path) == expected
    assert asked == mine[7:] + [name for name in NAMES if name not in mine]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_piece_is_made_again(expected, tmp_path, damage):
    writer = ShardWriter(places.place(tmp_path), Shard(0, 2))
    mine = [name for name in NAMES if writer.shard.holds(name)]
    for name in mine[:8]:
        writer.add(*made(name))
    writer.close()
    (piece,) = (tmp_path / "partial" / "00000-of-00002").glob("*.array_record")
    content = bytearray(piece.read_bytes())
    at = content.index(b'"object', len(content) // 20)
    if damage == "flipped":
        content[at + 2] ^= 1
    piece.write_bytes(
        {"cut": content[:at], "empty": b"", "text": b"no records"}.get(damage, content)
    )
    with ShardWriter(places.place(tmp_path), Shard(0, 2)) as writer:
        assert len(writer.entries) < 8
    assert finish(tmp_path) == expected


@pytest.mark.parametrize("at", range(6))
def test_killed_while_a_shard_is_finished(expected, tmp_path, monkeypatch, at):
    """Files are replaced one after the other; the process ends before one of them."""

    class Killed(BaseException):
        pass

    calls = []
    whole_file = places.whole_file

    def killed(path):
        calls.append(path.name)
        if len(calls) > at:
            raise Killed
        return whole_file(path)

    monkeypatch.setattr(places, "whole_file", killed)
    with pytest.raises(Killed):
        finish(tmp_path)
    monkeypatch.undo()
    assert finish(tmp_path) == expected


def test_a_shard_that_was_done_takes_more_objects(expected, tmp_path, monkeypatch):
    write(tmp_path, NAMES[:25])
    out = places.place(tmp_path)
    unlink = type(out).unlink

    def killed(path, **kwargs):
        if path.suffix == ".jsonl":
            raise KeyboardInterrupt
        unlink(path, **kwargs)

    monkeypatch.setattr(type(out), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):  # between its records' copy and the old manifest's end
        ShardWriter(out, Shard(1, 2))
    monkeypatch.undo()
    with pytest.raises(UserError, match="not finished"):  # not what it was, and no more yet
        open_dataset(tmp_path, "train")
    asked = []
    monkeypatch.setitem(globals(), "made", lambda name, f=made: asked.append(name) or f(name))
    assert finish(tmp_path) == expected
    assert sorted(asked) == sorted(NAMES[25:])


def test_what_was_refused_stays_so_until_it_is_asked_for(expected, tmp_path, monkeypatch):
    write(tmp_path, NAMES)
    out = places.place(tmp_path)
    (shard,) = (s for s in (Shard(0, 2), Shard(1, 2)) if s.holds("object3"))
    with ShardWriter(out, shard, retry=["object3", "object1"]) as writer:
        assert "object3" not in writer.entries
        assert {"object1", "object7"} & {
            n for n in NAMES if shard.holds(n)
        } <= writer.entries.keys()
        monkeypatch.setitem(REASONS, "object3", "thin")
        writer.add(*made("object3"))
        writer.finish()
    joining.join_shards(out)
    assert "object3\tthin" in (tmp_path / "skipped.txt").read_text()
    with ShardWriter(out, shard, retry=["object3"]) as writer:
        monkeypatch.delitem(REASONS, "object3")
        writer.add(*made("object3"))
        writer.finish()
    joining.join_shards(out)
    assert "object3" in {record["name"] for record in open_dataset(tmp_path, "all")}


def test_a_split_larger_than_tensorflow_datasets_shuffles_in_memory(tmp_path, monkeypatch):
    """Its own writer asks for TensorFlow once a split passes this bound, a gigabyte."""
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    write(tmp_path, NAMES, 1)
    assert len(open_dataset(tmp_path, "all")) == len(NAMES) - len(REASONS)


def test_what_cannot_be_joined_is_said_in_a_sentence(tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match):
            joining.join_shards(places.place(tmp_path))

    refused("has no shard that is done")
    write(tmp_path, NAMES, 3)
    lost = tmp_path / "manifests" / "00001-of-00003.jsonl"
    manifest = lost.read_bytes()
    lost.unlink()
    refused("1 of 3 shards of .* are not done; run data.render with --shard 1/3$")
    lost.write_bytes(manifest[:-30])
    refused("line .* of the manifest .*00001-of-00003.jsonl is damaged")
    lost.write_bytes(manifest)
    other = tmp_path / "manifests" / "00000-of-00002.jsonl"
    other.write_bytes(b"")
    refused("manifests are of 2 and of 3 shards")
    other.unlink()
    (gone,) = tmp_path.rglob("multiview-train.array_record-00001-of-00003")
    os.rename(gone, tmp_path / "elsewhere")
    refused("multiview-train.array_record-00001-of-00003 is gone")
    os.rename(tmp_path / "elsewhere", gone)
    joining.join_shards(places.place(tmp_path))
