"""The command that joins shards."""

import json

import numpy as np
import pytest
from test_shards import NAMES, made

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import join, places
from iso3d_jax.data.multiview import joining, open_dataset, shards
from iso3d_jax.data.names import hash_name


def test_the_command_joins_and_counts(tmp_path, monkeypatch, capsys):
    out = places.place(tmp_path)
    monkeypatch.setattr(join, "_DATA", type("Flag", (), {"value": str(tmp_path)}))
    monkeypatch.setattr(join, "_DROP", type("Flag", (), {"value": False}))
    places.write_text(out / "settings.json", json.dumps({"resolution": 6, "shards": 1}))
    with pytest.raises(UserError, match="no shard that is done"):
        join.main([])
    shards.write_shards(out, 1, map(made, NAMES))
    join.main([])
    sizes = {split: len(open_dataset(tmp_path, split)) for split in ("train", "validation", "test")}
    said = capsys.readouterr().out
    assert ", ".join(f"{split} {size}" for split, size in sizes.items()) + " objects in" in said
    assert "left out 2" in said
    monkeypatch.setattr(join, "_DROP", type("Flag", (), {"value": True}))
    with pytest.raises(UserError, match="no object of .* has a hash"):
        join.main([])


def test_duplicates_are_left_out_for_good(tmp_path, monkeypatch, capsys):
    """All but the first, in the order of the shards; the others' records stay what they were."""
    out = places.place(tmp_path)
    places.write_text(out / "settings.json", json.dumps({"resolution": 6, "shards": 3}))
    alike = {"object1": 7, "object2": 7, "object30": 7 ^ 1 << 40, "object5": 7 ^ 0b1110 << 30}

    def hashed(name):
        entry, record = made(name)
        k = int(name.removeprefix("object"))
        rng = np.random.default_rng(k)
        return entry | {"quality": {"hash": alike.get(name, int(rng.integers(2**63)))}}, record

    shards.write_shards(out, 3, map(hashed, NAMES))
    joining.join_shards(out)
    before = {record["name"]: record["images"] for record in open_dataset(tmp_path, "all")}
    order = sorted(before, key=lambda name: (hash_name(name) % 3, name))
    first = next(name for name in order if name in {"object1", "object2", "object30"})
    dropped = {"object1", "object2", "object30"} - {first}
    assert joining.drop_duplicates(out) == 2
    with pytest.raises(UserError, match="not finished"):
        open_dataset(tmp_path, "all")
    assert joining.join_shards(out)["left out"] == 4
    after = {record["name"]: record["images"] for record in open_dataset(tmp_path, "all")}
    assert after.keys() == before.keys() - dropped
    assert all((after[name] == before[name]).all() for name in after)
    skipped = dict(line.split("\t") for line in (tmp_path / "skipped.txt").read_text().splitlines())
    assert {name: skipped[name] for name in dropped} == dict.fromkeys(
        dropped, f"it looks as {first} does"
    )
    assert joining.drop_duplicates(out) == 0
