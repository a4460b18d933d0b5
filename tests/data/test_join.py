"""The command that joins shards."""

import json

import pytest
from test_shards import NAMES, made

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import join, places
from iso3d_jax.data.multiview import open_dataset, shards


def test_the_command_joins_and_counts(tmp_path, monkeypatch, capsys):
    out = places.place(tmp_path)
    monkeypatch.setattr(join, "_DATA", type("Flag", (), {"value": str(tmp_path)}))
    places.write_text(out / "settings.json", json.dumps({"resolution": 6, "shards": 1}))
    with pytest.raises(UserError, match="no shard that is done"):
        join.main([])
    shards.write_shards(out, 1, map(made, NAMES))
    join.main([])
    sizes = {split: len(open_dataset(tmp_path, split)) for split in ("train", "validation", "test")}
    said = capsys.readouterr().out
    assert ", ".join(f"{split} {size}" for split, size in sizes.items()) + " objects in" in said
    assert "left out 2" in said
