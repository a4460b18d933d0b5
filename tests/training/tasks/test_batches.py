"""Loaders: epochs in a global shuffle, positions in checkpoints, and encoding within the step."""

import dataclasses

import jax
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.encode import encode_table
from iso3d_jax.data.multiview import open_dataset
from iso3d_jax.data.picture_table import PictureTable
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.training import sharding
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.loop import fit
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import batches, denoiser, stages
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec


def test_every_epoch_has_every_object_once_in_another_order(make_config, make_task):
    task = make_task(make_config(loader="grain", batch_size=4))
    names = sum((task.names(step) for step in range(6)), [])  # 24 of 6 objects: four epochs
    epochs = [names[i : i + 6] for i in range(0, 24, 6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = make_task(make_config(loader="grain", batch_size=4, seed=4))
    assert other.names(0) + other.names(1) != names[:8]
    first = task.batch(0)["embedding"]
    objects = [int(name.split()[1]) for name in names[:4]]
    embedding = task.batches.table.embedding
    for i, drawn in enumerate(first):  # the batch is of the objects that it names
        assert (embedding[:, objects[i]] == drawn).all(-1).any()


def test_hosts_read_their_own_rows_of_the_same_batch(make_config, make_task):
    cfg = make_config(loader="grain")
    whole, some = make_task(cfg), make_task(cfg)
    for step in (0, 1, 2, 7, 3):
        batch, part = whole.batch(step), some.batch(step, np.array([2, 3, 6]))
        assert all(np.array_equal(batch[name][[2, 3, 6]], part[name]) for name in batch)


def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path, make_config, make_task):
    """The loader's position is in the checkpoint, and the weights end with the same bits."""
    one_branch = dict(single_view_share=0.0, reference_dropout=0.0)
    cfg = make_config(loader="grain", checkpoint_every=2, lr_schedule="constant", **one_branch)
    ends = []
    for stops in ((4,), (2, 4)):
        workdir = tmp_path / str(len(stops))
        for cfg.steps in stops:
            state = fit(make_task(cfg), workdir)
        ends.append(jax.device_get(state.params))
    for path, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][path], err_msg=path)
    checkpoints = Checkpoints(tmp_path / "2", make_spec(StageSpec, cfg))
    metadata = checkpoints.manager.metadata(2).custom_metadata
    assert metadata["config"]["seed"] == cfg.seed
    assert checkpoints.position(2)["next_index"] == 2
    checkpoints.close()


def test_a_position_is_where_the_iterator_goes_on(make_config, make_task):
    task = make_task(make_config(loader="grain"))
    for step in range(3):
        task.batch(step)
    resumed = make_task(make_config(loader="grain"))
    resumed.restore_position(task.position())
    fourth = task.batch(3)
    again = resumed.batch(3)
    assert all(np.array_equal(fourth[name], again[name]) for name in fourth)
    assert task.position() == resumed.position()
    assert task.position()["next_index"] == 4


def test_encoding_in_the_step_gives_the_loss_of_encoding_once(make_stage):
    """The same draws, the same posterior noise: from pictures and from an encoded set."""
    model = bundle.load_model(networks=("vae", "clip"))
    records = [open_dataset("samples", "train")[i] for i in range(2)]
    for record in records:  # two sets of views are enough
        for key in ("images", "azimuth_deg", "elevation_deg", "fov_deg", "distance"):
            record[key] = record[key][:8]
    columns = ("images", "azimuth_deg", "elevation_deg", "fov_deg", "distance")
    table = MultiViewTable(
        **{key: np.stack([record[key] for record in records]) for key in columns},
        names=["first", "second"],
    )
    picture = model.config.picture
    encoded = encode_table(table, model.vae, model.clip, variants=2, pictures=[picture])
    pictures = PictureTable(records, 2, [picture])
    assert pictures.name(1) == records[1]["name"]
    assert np.array_equal(pictures.mirrored, encoded.mirrored)

    one_branch = dict(batch_size=4, reference_dropout=0.0, single_view_share=0.0)
    cameras = dict(camera_encoding=model.config.camera_encoding)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    online = stages._online_encoder(model, mesh)
    for loader in ("memory", "grain"):
        cfg = make_stage(loader=loader, model=cameras, **one_branch)
        want = batches.make_batches(cfg, encoded)(0)
        read = batches.make_batches(cfg, pictures)(0)
        if loader == "memory":
            assert read["colour"].any() and read["object"].any()
        found = online(sharding.put_batch(read, 4, mesh))
        assert found.keys() == want.keys()
        for name, value in want.items():
            close = dict(rtol=2e-3, atol=5e-3) if value.dtype == np.float16 else dict(atol=0)
            np.testing.assert_allclose(found[name], value, **close, err_msg=name)

        def loss(batch, cfg=cfg):
            inputs = denoiser.make_inputs(batch, jax.random.key(1), cfg, 0.7)
            return float(((inputs["z_t"] - inputs["target"]) ** 2).mean())

        np.testing.assert_allclose(loss(found), loss(want), rtol=1e-4)


def test_online_encoding_reads_pictures(make_stage):
    task = stages.DenoiserTask.__new__(stages.DenoiserTask)
    task.cfg = make_stage(encoding="online", data="samples", data_encoded="somewhere")
    task.config = ModelSpec(picture="centred")
    with pytest.raises(UserError, match="leave data_encoded out"):
        task._table()
    task.cfg = dataclasses.replace(task.cfg, data_encoded="")
    assert len(task._table()) == 18
