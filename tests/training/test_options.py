"""Every option of a training config does what it says: each test fails if it does nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError
from iso3d_jax.diffusion.schedule import make_schedule
from iso3d_jax.training.optimizer import GUARD_WARMUP, GuardState, guard, make_optimizer
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.state import create_state
from iso3d_jax.training.tasks import batches, denoiser, inputs, trainable


def first_step(task, step=0):
    """The state after one step of the branch with four views and the reference, and its metrics."""
    params, cfg = task.init_params(), task.cfg
    tx = make_optimizer(cfg)
    state = create_state(params, tx, cfg.seed, task.trained(params))
    batch = task.batch(next(s for s in range(99) if task.branch(s) == "2-b"))
    run = jax.jit(functools.partial(task.train_step, graphdef=task.graphdef, tx=tx, cfg=cfg))
    return state, *run(state.replace(step=jnp.int32(step)), batch)


@pytest.fixture(scope="module")
def plain(make_config, make_task):
    """A step with no option changed."""
    cfg = make_config(warmup_steps=0)
    return first_step(make_task(cfg))


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_min_snr_weights(make_stage, parameterization):
    cfg = make_stage(loss_weighting="min_snr", model=dict(parameterization=parameterization))
    t = jnp.arange(1000)
    alphas = make_schedule().astype(np.float64)
    snr = alphas / (1 - alphas)
    want = np.minimum(snr, 5) / (snr + (parameterization == "v"))
    np.testing.assert_allclose(denoiser.loss_weight(t, cfg), want, rtol=1e-4)
    cfg = dataclasses.replace(cfg, loss_weighting="plain")
    assert (denoiser.loss_weight(t, cfg) == 1).all()


def inputs_of(cfg, batch_size=64):
    rng = np.random.default_rng(0)
    batch = {
        "moments": np.concatenate(
            [rng.normal(size=(batch_size, 2, 4, 4, 3)), np.full((batch_size, 2, 4, 4, 3), -30.0)],
            -1,
        ),
        "camera": np.zeros((batch_size, 2, 16)),
        "embedding": np.ones((batch_size, 4)),
    }
    return denoiser.make_inputs(batch, jax.random.key(1), cfg, 1.0), batch["moments"][..., :3]


def test_noise_offset_moves_a_views_mean(make_stage):
    cfg = make_stage(model=dict(parameterization="eps"))  # the target is the noise
    plain = inputs_of(cfg)[0]["target"].mean((2, 3)).std()
    cfg = dataclasses.replace(cfg, noise_offset=0.5)
    offset = inputs_of(cfg)[0]["target"].mean((2, 3)).std()
    assert abs(plain - 0.25) < 0.04 and abs(offset - np.hypot(0.25, 0.5)) < 0.06


def test_target_follows_the_parameterization(make_stage):
    alphas = jnp.asarray(make_schedule())
    targets = {}
    for kind in ("eps", "v"):
        cfg = make_stage(model=dict(parameterization=kind))
        targets[kind], x0 = inputs_of(cfg)
    alpha = alphas[targets["eps"]["t"]][:, None, None, None, None]
    want = jnp.sqrt(alpha) * targets["eps"]["target"] - jnp.sqrt(1 - alpha) * x0
    np.testing.assert_allclose(targets["v"]["target"], want, atol=1e-4)


@pytest.mark.long
def test_accumulated_gradients_are_those_of_the_whole_batch(make_config, make_task, plain):
    cfg = make_config(warmup_steps=0, accumulate=4)
    _, state, metrics = first_step(make_task(cfg))
    for name in ("loss", "loss_high_noise", "grad_norm"):
        np.testing.assert_allclose(metrics[name], plain[2][name], rtol=1e-4, err_msg=name)
    key = "conv_out/kernel"
    np.testing.assert_allclose(state.params[key], plain[1].params[key], atol=1e-5)


@pytest.mark.slow
def test_recomputed_blocks_give_the_same_gradients(make_config, make_task, plain):
    cfg = make_config(warmup_steps=0, remat="blocks")
    metrics = first_step(make_task(cfg))[2]
    np.testing.assert_allclose(metrics["grad_norm"], plain[2]["grad_norm"], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_near_and_not_equal(make_config, make_task, plain):
    cfg = make_config(warmup_steps=0, dtype="bfloat16")
    _, state, metrics = first_step(make_task(cfg))
    difference = abs(float(metrics["grad_norm"] / plain[2]["grad_norm"]) - 1)
    assert 0 < difference < 0.05
    assert all(value.dtype == jnp.float32 for value in state.params.values())


@pytest.mark.parametrize("kind, words", [("attention", "/to_"), ("lora", "/lora_"), ("refine", "")])
def test_only_the_named_weights_are_trained(make_config, make_task, kind, words):
    cfg = make_config(warmup_steps=0, trainable=kind)
    cfg.model.unet.update(num_res_blocks=1, layout_size=4, layout_width=8)
    task = make_task(cfg)
    before = task.init_params()
    # Transformers are the identity at birth, so nothing behind them has a gradient: open them.
    opened = {
        k: v + 0.1 if "proj_out" in k or k == "conv_out/kernel" else v for k, v in before.items()
    }
    task.init_params = lambda: opened
    start, state, _ = first_step(task)
    changed = {k for k in opened if not np.array_equal(state.params[k], opened[k])}
    assert changed and all(words in path for path in changed)
    assert not any(path.startswith("layout/drawing/") for path in changed)
    assert set(state.ema_params) == set(task.trained(opened))
    if kind == "lora":
        merged = trainable.merge_lora(state.params, task.cfg)
        assert not any("lora" in path for path in merged)
        # Queries and keys of one context token have no gradient: there only weight decay moves a.
        layer = min(path for path in changed if path.endswith("lora_b")).rsplit("/", 1)[0]
        a, b = state.params[f"{layer}/lora_a"], state.params[f"{layer}/lora_b"]
        want = opened[f"{layer}/kernel"] + cfg.lora_alpha / cfg.lora_rank * np.asarray(a) @ b
        np.testing.assert_allclose(merged[f"{layer}/kernel"], want, atol=1e-6)
        assert not np.array_equal(merged[f"{layer}/kernel"], opened[f"{layer}/kernel"])


def test_lora_on_nothing_is_refused():
    cfg = config_files.load_config("configs/stage1.py:tiny")
    inputs.require(make_spec(StageSpec, cfg))
    cfg.trainable = "lora"
    with pytest.raises(UserError, match="trainable=lora.*init_from"):
        inputs.require(make_spec(StageSpec, cfg))


def moments_bytes(cfg, params):
    shapes = jax.eval_shape(make_optimizer(cfg).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def test_optimizers_need_the_memory_they_say_and_go_downhill(make_stage):
    params = {"kernel": jnp.ones((256, 256))}
    weight = 4 * 256 * 256
    sizes = {}
    for name in ("adamw", "adamw_bf16", "adafactor"):
        cfg = make_stage(optimizer=name, warmup_steps=0)
        sizes[name] = moments_bytes(cfg, params)
        tx = make_optimizer(cfg)
        updates, _ = tx.update({"kernel": params["kernel"]}, tx.init(params), params)
        assert (updates["kernel"] < 0).all()
    assert 2 * weight <= sizes["adamw"] < 2.01 * weight
    assert 1.5 * weight <= sizes["adamw_bf16"] < 1.51 * weight
    assert sizes["adafactor"] < 0.02 * weight
    with pytest.raises(UserError, match="did you mean 'adafactor'"):
        make_stage(optimizer="adafacto")


def test_guard_leaves_out_nan_and_spikes():
    import optax

    tx = guard(optax.sgd(1.0, momentum=0.9), spike_factor=3.0)
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(GUARD_WARMUP):
        updates, state = update({"w": jnp.ones(2)}, state, params, loss=jnp.float32(1.0))
        assert int(state.skipped) == 0 and (updates["w"] != 0).all()
    moments = state.inner
    for loss, gradient in ((2.9, 1.0), (3.2, 1.0), (1.0, jnp.nan), (jnp.nan, 1.0)):
        updates, new = update({"w": gradient * jnp.ones(2)}, state, params, loss=jnp.float32(loss))
        bad = not loss < 3.0 or not gradient == 1.0
        assert isinstance(new, GuardState) and int(new.skipped) == bad
        assert bool((updates["w"] == 0).all()) == bad
        if bad:
            jax.tree.map(np.testing.assert_array_equal, new.inner, moments)


@pytest.mark.parametrize("num_views", [4, 6, 8])
def test_number_of_views(make_config, make_task, num_views):
    task = make_task(make_config(num_views=num_views, reference_dropout=0.0))
    step = next(s for s in range(99) if task.branch(s) == "2-b")
    assert task.batch(step)["moments"].shape[1] == num_views
    records = [task.batches.table.record(i) for i in range(6)]
    reference, _, views = task.batches._draw(np.random.default_rng(0), step, records)
    assert all(len(set(row)) == num_views for row in views.tolist())
    assert not (views == reference[:, None]).any()


def test_too_few_views_are_refused(make_config, make_stage, make_task):
    task = make_task(make_config())
    with pytest.raises(UserError, match="num_views 8 needs 3 sets"):
        batches.Batches(make_stage(num_views=8), task.batches.table)


def test_rows_of_a_batch_are_those_of_the_whole(make_config, make_task):
    task = make_task(make_config())
    whole, part = task.batch(3), task.batch(3, np.array([2, 3, 6]))
    assert all(np.array_equal(whole[name][[2, 3, 6]], part[name]) for name in whole)


def test_ablation_without_the_reference():
    cfg = config_files.load_config("configs/stage2.py:tiny,ablation=no_ema")
    table = type("Table", (), {"num_views": 8, "has_lens": True})
    drawn = batches.Batches(make_spec(StageSpec, cfg), table)
    assert {drawn.branch(step) for step in range(50)} == {"1-a", "1-b"}
    assert config_files.load_config("configs/stage2.py:tiny,ablation=no_stage1").init_from == ""
    assert config_files.load_config("configs/stage2.py:tiny").init_from
    with pytest.raises(UserError, match="did you mean 'no_ema'"):
        config_files.load_config("configs/stage2.py:tiny,ablation=noema")


def test_ablation_with_the_reference_by_channels(make_config, make_task):
    """The reference reaches every view's output through the stem, and the views stay as many."""
    preset = config_files.load_config("configs/stage2.py:tiny,ablation=ccr")
    assert preset.reference == "channels" and preset.model.unet.reference_channels == 8
    cfg = make_config(reference="channels")
    cfg.model.unet.reference_channels = 4
    task = make_task(cfg)
    params = task.init_params()
    assert params["input_blocks/0/stem/kernel"].shape[2] == 8
    rng = np.random.default_rng(0)
    params = {k: v + 0.1 * rng.normal(size=v.shape).astype(np.float32) for k, v in params.items()}
    batch = task.batch(next(s for s in range(99) if task.branch(s) == "2-b"))
    seen = []

    def network(z_t, t, context, camera, reference):
        seen.append(z_t.shape)
        return denoiser.merge_params(task.graphdef, params)(z_t, t, context, camera, reference)

    loss = functools.partial(denoiser.denoising_loss, network, cfg=task.cfg, scale_factor=0.7)
    one = loss(batch, jax.random.key(0))[0]
    moved = batch | {"reference_moments": -batch["reference_moments"]}
    assert loss(moved, jax.random.key(0))[0] != one
    assert seen[0] == (8, 4, 4, 4, 4)
