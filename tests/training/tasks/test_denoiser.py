"""Stages 1 and 2: what a batch holds, and what the loss sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.table import sample_views
from iso3d_jax.diffusion.schedule import make_schedule, training_target
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import batches, denoiser


def test_branches_are_drawn_with_the_papers_shares(make_config, make_stage, make_task):
    task = make_task(make_config(reference_dropout=0.0))
    names = [task.branch(step) for step in range(4000)]
    assert set(names) == {"2-a", "2-b"}
    assert abs(names.count("2-a") / 4000 - 0.3) < 0.025
    assert batches.branch_shares(make_stage(reference_dropout=0.0)) == {"2-a": 0.3, "2-b": 0.7}
    stage1 = make_task(make_config(stage=1))
    assert {stage1.branch(step) for step in range(50)} == {"1-a", "1-b"}


def test_shares_of_a_stage_2_that_goes_without_the_reference_at_times(make_stage):
    """The preset's: a quarter of the steps is of stage 1's branches."""
    cfg = make_spec(StageSpec, config_files.load_config("configs/stage2.py"))
    drawn = batches.Batches(cfg, type("Table", (), {"num_views": 8}))
    names = [drawn.branch(step) for step in range(8000)]
    shares = batches.branch_shares(cfg)
    want = {"2-a": 0.225, "2-b": 0.525, "1-a": 0.075, "1-b": 0.175}
    assert shares == pytest.approx(want) and set(names) == set(want)
    for name, share in want.items():
        assert abs(names.count(name) / 8000 - share) < 0.02, name
    cfg = dataclasses.replace(cfg, reference_dropout=0.0)
    drawn = batches.Batches(cfg, type("Table", (), {"num_views": 8}))
    assert batches.branch_shares(cfg) == {"2-a": 0.3, "2-b": 0.7}
    assert {drawn.branch(step) for step in range(200)} == {"2-a", "2-b"}
    assert batches.branch_shares(make_stage(stage=1)) == {"1-a": 0.3, "1-b": 0.7}
    assert batches.branch_shares(make_stage(reference_dropout=1.0)) == {"1-a": 0.3, "1-b": 0.7}


def test_batches_are_a_function_of_the_step(make_config, make_task):
    first, second = make_task(make_config()), make_task(make_config())
    for step in (5, 0, 5):
        a, b = first.batch(step), second.batch(step)
        assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(first.batch(0)["embedding"], first.batch(1)["embedding"])


def test_stage_2_batch_has_the_reference_at_azimuth_zero(make_config, make_task):
    task = make_task(make_config())
    step = next(s for s in range(100) if task.branch(s) == "2-b")
    batch = task.batch(step)
    assert batch["moments"].shape[:2] == (8, SET) and batch["reference_moments"].shape[:2] == (8, 1)
    c2w = batch["reference_camera"].reshape(-1, 4, 4)
    np.testing.assert_allclose(c2w[:, 0, 3], 0.0, atol=1e-6)  # on -y of the conditioning frame
    assert (c2w[:, 1, 3] < 0).all()
    azimuth = np.degrees(np.arctan2(batch["camera"][..., 7], batch["camera"][..., 3]))
    steps = np.diff(np.concatenate([azimuth, azimuth[:, :1]], 1)) % 360
    np.testing.assert_allclose(
        np.where(steps > 180, 360 - steps, steps), 90.0, atol=1e-2
    )  # mirrored ones turn back


def test_reference_is_never_among_the_targets():
    rng = np.random.default_rng(0)
    azimuth = rng.uniform(-180, 180, (5, 12))
    obj, target, ref = sample_views(rng, 5, 3, azimuth, 500, front_share=1.0)
    assert (ref // SET != target).all()
    front = np.abs(azimuth) <= 90
    possible = np.array(
        [(front[o] & (np.arange(12) // SET != t)).any() for o, t in zip(obj, target, strict=True)]
    )
    assert front[obj, ref][possible].all()


def batch_of(reference: bool):
    rng = np.random.default_rng(0)
    batch = {
        "moments": np.concatenate(
            [rng.normal(size=(2, 3, 4, 4, 2)), np.full((2, 3, 4, 4, 2), -30.0)], -1
        ),
        "camera": np.asarray(camera_condition(np.zeros((2, 3)), np.arange(3) * 90.0, "mvdream")),
        "embedding": rng.normal(size=(2, 4)),
    }
    if reference:
        batch["reference_moments"] = np.concatenate(
            [rng.normal(size=(2, 1, 4, 4, 2)), np.full((2, 1, 4, 4, 2), -30.0)], -1
        )
        batch["reference_camera"] = batch["camera"][:, :1]
    return batch


def perfect_predictor(batch, spoil_reference=0.0):
    """Knows x0 (the posterior's variance is zero), so it can tell eps from z_t and answer v."""
    x0 = jnp.asarray(batch["moments"][..., :2]) * 0.7
    alphas = jnp.asarray(make_schedule())
    seen = {}

    def unet(z_t, t, context, camera):
        seen.update(t=t, z_t=z_t, context=context)
        views = z_t[:, -3:]
        alpha_bar = alphas[t[:, -1]]
        a = alpha_bar.reshape(-1, 1, 1, 1, 1)
        eps = (views - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)
        v = training_target(x0, eps, alpha_bar, "v")
        return jnp.concatenate([jnp.full_like(z_t[:, :-3], spoil_reference), v], 1)

    return unet, seen


def test_perfect_predictor_has_no_loss_and_the_reference_is_clean_at_t_0(make_stage):
    batch = batch_of(reference=True)
    for spoiled in (0.0, 1e6):  # what the network says at the reference's place does not count
        unet, seen = perfect_predictor(batch, spoiled)
        loss, _ = denoiser.denoising_loss(unet, batch, jax.random.key(0), make_stage(), 0.7)
        assert loss < 1e-6
    assert (seen["t"][:, 0] == 0).all() and (seen["t"][:, 1:] == seen["t"][:, 1:2]).all()
    np.testing.assert_allclose(
        seen["z_t"][:, 0], batch["reference_moments"][:, 0, ..., :2] * 0.7, atol=1e-5
    )


@pytest.mark.parametrize("together", [False, True])
def test_the_reference_is_dropped_with_its_rows_embedding_if_asked(make_stage, together):
    """Row by row: zeros in place of its latent where the embedding is zeros, and nowhere else."""
    batch = batch_of(reference=True)
    batch["embedding"] = np.ones_like(batch["embedding"])
    cfg = make_stage(embedding_dropout=0.5, reference_dropped_with_embedding=together)
    plain_cfg = make_stage(embedding_dropout=0.5)
    seen = set()
    for i in range(12):
        inputs = denoiser.make_inputs(batch, jax.random.key(i), cfg, 0.7)
        dropped = ~np.asarray(inputs["context"]).any((1, 2))
        empty = ~np.asarray(inputs["reference"]).any((1, 2, 3, 4))
        np.testing.assert_array_equal(empty, dropped & together)
        seen |= set(dropped.tolist())
        plain = denoiser.make_inputs(batch, jax.random.key(i), plain_cfg, 0.7)
        for name in inputs.keys() - {"reference"}:  # nothing else of the step changes
            np.testing.assert_array_equal(inputs[name], plain[name], err_msg=name)
        np.testing.assert_array_equal(inputs["reference"][~empty], plain["reference"][~empty])
    assert seen == {False, True}


def test_a_reference_in_the_channels_is_not_dropped_with_the_embedding(make_stage):
    cfg = make_stage(reference="channels", reference_dropped_with_embedding=True)
    with pytest.raises(UserError, match="goes with reference=attention alone"):
        denoiser.check_options(cfg)


def test_embedding_is_dropped_to_zeros(make_stage):
    batch = batch_of(reference=False)
    batch["embedding"] = np.ones_like(batch["embedding"])
    unet, seen = perfect_predictor(batch)
    dropped = 0
    for i in range(200):
        denoiser.denoising_loss(
            unet, batch, jax.random.key(i), make_stage(embedding_dropout=0.3), 0.7
        )
        values = np.asarray(seen["context"]).reshape(2, -1)
        assert all((row == 0).all() or (row == 1).all() for row in values)
        dropped += (values == 0).all(1).sum()
    assert abs(dropped / 400 - 0.3) < 0.08
