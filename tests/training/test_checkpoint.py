"""Checkpoints: what may change on resume and what may not, what is kept, what is restored."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training import checkpoint, sharding
from iso3d_jax.training.checkpoint import Checkpoints
from iso3d_jax.training.spec import StageSpec, make_spec

FREE = dict(
    steps=99, log_every=7, checkpoint_every=3, sample_every=5, ablate_every=5, keep=9,
    mesh=dict(fsdp=2, tensor=1), accumulate=2, remat="blocks", max_skips=5,
    read_processes=2, max_damaged_share=0.5,
)  # fmt: skip


@pytest.fixture
def workdir(tmp_path, make_stage):
    Checkpoints(tmp_path, make_stage()).close()
    return tmp_path


def test_a_resumed_run_may_be_longer_or_on_other_devices(workdir, make_stage):
    assert set(FREE) == set(checkpoint._FREE)
    Checkpoints(workdir, make_stage(**FREE)).close()
    # The note is of the run's beginning.
    assert json.loads((workdir / "config.json").read_text())["steps"] == 10


@pytest.mark.parametrize(
    "key, value",
    [
        ("learning_rate", 2e-3), ("final_learning_rate", 2e-4), ("lr_schedule", "constant"),
        ("warmup_steps", 3), ("weight_decay", 0.02), ("adam_b2", 0.9), ("grad_clip", 2.0),
        ("ema_decay", 0.8), ("batch_size", 4), ("seed", 4), ("embedding_dropout", 0.3),
        ("reference_dropout", 0.5), ("single_view_share", 0.5), ("front_share", 0.4),
        ("timestep_bias", 1.0), ("optimizer", "adafactor"), ("trainable", "lora"),
        ("loader", "grain"), ("encoding", "online"), ("dtype", "bfloat16"), ("stage", 1),
        ("spike_factor", 3.0), ("on_bad_step", "skip"), ("noise_offset", 0.1),
        ("picture_share", 0.2), ("data_encoded", "there"),
    ],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused(workdir, make_stage, key, value):
    old = getattr(make_stage(), key)
    with pytest.raises(UserError, match=rf"another config \({key} was {old}, is {value}\)"):
        Checkpoints(workdir, make_stage(**{key: value}))


def test_a_difference_is_named_to_its_last_key(workdir, make_config, make_stage):
    with pytest.raises(UserError, match=r"model\.unet\.num_groups was 4, is 8"):
        Checkpoints(workdir, make_stage(model=dict(unet=dict(num_groups=8))))
    cfg = make_config()
    with cfg.unlocked():
        del cfg.model.unet["num_groups"]
    with pytest.raises(UserError, match=r"model\.unet\.num_groups was 4, is None"):
        Checkpoints(workdir, make_spec(StageSpec, cfg))
    (workdir / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        Checkpoints(workdir, make_stage())


def state(number):
    return {"w": number * jnp.arange(3.0), "step": jnp.int32(number)}


def restored(checkpoints):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    everywhere = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = jax.eval_shape(lambda: state(0))
    found = checkpoints.restore(shapes, jax.tree.map(lambda _: everywhere, shapes))
    assert found["w"].sharding == everywhere
    return int(found["step"]), np.asarray(found["w"]).tolist()


def test_the_newest_is_restored_with_its_position_and_older_ones_go(tmp_path, make_stage):
    cfg = make_stage(keep=2)
    checkpoints = Checkpoints(tmp_path, cfg)
    assert checkpoints.latest_step() is None
    for step in (2, 4, 6):
        checkpoints.save(step, state(step), {"next_index": 10 * step})
        checkpoints.wait()
    checkpoints.save(6, state(99))  # there already
    assert checkpoints.latest_step() == 6
    assert restored(checkpoints) == (6, [0.0, 6.0, 12.0])
    assert checkpoints.position(6) == {"next_index": 60}
    metadata = checkpoints.manager.metadata(6).custom_metadata
    assert metadata["config"] == json.loads((tmp_path / "config.json").read_text())
    checkpoints.save(8, state(8))
    checkpoints.close()
    again = Checkpoints(tmp_path, cfg)
    assert sorted(again.manager.all_steps()) == [6, 8] and again.position(8) == {}
    assert restored(again) == (8, [0.0, 8.0, 16.0])
    again.close()


def test_a_workdir_is_one_processes_alone_until_it_is_closed(
    workdir, make_stage, other_process_in, monkeypatch
):
    Checkpoints(workdir, make_stage()).close()
    other_process_in(workdir)  # which gets it, since it was closed
    at_once = functools.partial(checkpoint.FolderLock, seconds=0.0)
    monkeypatch.setattr(checkpoint, "FolderLock", at_once)
    with pytest.raises(UserError, match="another process .* is writing into"):
        Checkpoints(workdir, make_stage())


def test_a_disk_that_is_full_from_the_start_says_that_nothing_is_saved(workdir, make_stage):
    checkpoints = Checkpoints(workdir, make_stage())
    with pytest.raises(
        UserError, match="no space left on the disk of .*; none is saved; make room"
    ):
        with checkpoints.full_disk():
            raise OSError(28, "full")
    with pytest.raises(OSError, match="other"):
        with checkpoints.full_disk():
            raise OSError(5, "other")
    with pytest.raises(UserError, match="^ours$"):
        with checkpoints.full_disk():
            raise UserError("ours")
    checkpoints.close()


def test_full_disks_are_recognised_by_number_word_or_cause():
    def caused(error):
        outer = ValueError("outer")
        outer.__cause__ = error
        return outer

    for full in (
        OSError(28, "full"), ValueError("x: No space left on device"), caused(OSError(28, ""))
    ):  # fmt: skip
        assert checkpoint.is_full_disk(full)
    loop = ValueError("a")
    loop.__context__ = other = ValueError("b")
    other.__context__ = loop
    for fine in (OSError(2, "none"), ValueError("y"), caused(KeyError("z")), loop, None):
        assert not checkpoint.is_full_disk(fine)
