"""A folder of pictures: their names, what counts as finished, one device and several."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import batch, loop
from iso3d_jax.reconstruction.spec import make_spec


@dataclasses.dataclass
class Model:
    config: Any
    unet: Any
    vae: Any
    dtype: str = "float32"


def test_pictures_have_their_stem_or_where_it_is_shared_their_name(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.png", "c.webp", "notes.txt", "d.bmp", "e.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = batch.find_pictures(tmp_path)
    assert list(found) == ["a", "b", "c.png", "c.webp", "d", "e"]
    assert found["b"] == tmp_path / "b.PNG" and found["c.webp"] == tmp_path / "c.webp"


def test_what_is_finished_is_this_very_run(small_config, tmp_path):
    metadata = {"picture": "p", "model": "m", "init": "none", "dtype": "float32",
             "config": small_config.to_dict()}  # fmt: skip
    assert not batch.is_finished(tmp_path, metadata)
    report = {
        "picture_sha256": "p", "mode": "sds", "device": "cpu", "seed": 1, "iterations": 4,
        "seconds": {}, "mesh": {"threshold": 1.0, "faces": 2},
        **{k: v for k, v in metadata.items() if k != "picture"},
    }  # fmt: skip

    def write(**changes):
        (tmp_path / "report.json").write_text(json.dumps(report | changes))

    write()
    assert not batch.is_finished(tmp_path, metadata)  # without its mesh
    (tmp_path / "mesh.glb").touch()
    assert batch.is_finished(tmp_path, metadata)
    for key in ("picture_sha256", "model", "init", "dtype"):
        write(**{key: "other"})
        assert not batch.is_finished(tmp_path, metadata), key
    other = small_config.copy_and_resolve_references()
    other.guidance.scale = 9.0  # may change in a run that goes on, and makes another result
    write(config=other.to_dict())
    assert not batch.is_finished(tmp_path, metadata)
    other = small_config.copy_and_resolve_references()
    other.preview_every = 99
    write(config=other.to_dict())
    assert batch.is_finished(tmp_path, metadata)
    (tmp_path / "report.json").write_text("{broken")
    assert not batch.is_finished(tmp_path, metadata)


def test_the_networks_go_to_their_device_and_the_config_stays():
    config = {"name": "m"}
    model = Model(config, {"w": jnp.ones(2)}, jnp.zeros(3))
    model.dtype = jnp.zeros(())  # every field but the config is weights
    moved = batch.on_device(model, jax.devices()[0])
    assert moved.config is config and moved is not model
    assert moved.unet["w"].devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(moved.vae, 0)


def test_the_first_cause_is_raised_and_what_was_only_stopped_is_not():
    seen = []

    def work(device, stopped):
        seen.append(device)
        if device == 1:
            raise loop.Interrupted(2)
        if device == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        batch._on_all([0, 1, 2], work)
    assert sorted(seen) == [0, 1, 2]
    with pytest.raises(loop.Interrupted):
        batch._on_all([0, 1], work)
    batch._on_all([0, 3], work)

    def stopped_late(device, stopped):
        stopped.append(15)

    with pytest.raises(loop.Interrupted) as error:
        batch._on_all([0], stopped_late)
    assert error.value.signum == 15


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(5):
        image = Image.new("RGB", (60, 60), (255,) * 3)
        image.paste((40 * k,) * 3, (10, 10, 50, 50))
        image.save(folder / f"{k}.png")
    return batch.find_pictures(folder)


@pytest.mark.parametrize(("devices", "spread", "alone"), [(1, "objects", True), (3, "views", True),
                                                         (3, "objects", False)])  # fmt: skip
def test_each_device_takes_one_object_at_a_time(
    small_config, pictures, tmp_path, monkeypatch, devices, spread, alone
):
    """With programs of its own, its own copy of the model, and every picture once."""
    device = jax.devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * devices)
    monkeypatch.setattr(batch, "on_device", lambda model, device: "copy")
    small_config.parallelism = spread
    calls, sheets = [], []

    def reconstruct(model, picture, folder, cfg, *, model_id, init, programs):
        calls.append((folder.name, model, id(programs)))
        assert (model_id, init) == ("m", "none") and picture.shape == (60, 60, 4)
        if folder.name == "3":
            raise UserError("no")

    monkeypatch.setattr(batch.run, "run_metadata", lambda *args: {"config": {}})
    monkeypatch.setattr(batch, "is_finished", lambda folder, metadata: folder.name == "1")
    monkeypatch.setattr(
        batch, "_write_sheet", lambda out, names, views: sheets.append((out, names))
    )
    failed = batch.reconstruct_all(
        "model", pictures, tmp_path / "out", make_spec(small_config), model_id="m", init="none",
        reconstruct=reconstruct,
    )  # fmt: skip
    assert failed == {"3": "no"} and sheets == [(tmp_path / "out", ["0", "1", "2", "4"])]
    assert sorted(name for name, *_ in calls) == ["0", "2", "3", "4"]
    assert {model for _, model, _ in calls} == ({"model"} if alone else {"copy"})
    if alone:
        assert len({programs for *_, programs in calls}) == 1


def test_an_unforeseen_failure_stops_the_other_devices(
    small_config, pictures, tmp_path, monkeypatch
):
    device = jax.devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 2)
    monkeypatch.setattr(batch, "on_device", lambda model, device: "copy")
    monkeypatch.setattr(batch.run, "run_metadata", lambda *args: {"config": {}})

    def reconstruct(model, picture, folder, cfg, **given):
        raise OSError("disk full") if folder.name == "0" else loop.Interrupted(0)

    with pytest.raises(OSError, match="disk full"):
        batch.reconstruct_all(
            "model", pictures, tmp_path / "out", make_spec(small_config), model_id="m",
            init="none", reconstruct=reconstruct,
        )  # fmt: skip
