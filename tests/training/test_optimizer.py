"""Schedules, updates and the guard against numbers worked out here in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training.optimizer import (
    GuardState,
    by_weight,
    clip,
    global_norm,
    guard,
    make_optimizer,
    make_schedule,
)
from iso3d_jax.training.spec import StageSpec, make_spec

KERNEL = np.array([[0.5, -1.0, 2.0], [0.25, 3.0, -0.75]])
BIAS = np.array([1.0, -2.0, 0.5])
PARAMS = {"kernel": jnp.asarray(KERNEL, jnp.float32), "bias": jnp.asarray(BIAS, jnp.float32)}
# Three steps; the norms are above, above and below the clipping of 1.5.
GRADS = [
    {"kernel": np.array([[3.0, -1.0, 0.5], [2.0, 0.1, -4.0]]), "bias": np.array([1.0, -2.0, 0.3])},
    {"kernel": np.array([[-2.0, 1.5, 9.0], [0.5, 0.2, 1.0]]), "bias": np.array([0.2, 3.0, -1.0])},
    {"kernel": np.array([[0.1, 0.3, -0.2], [0.4, -0.5, 0.1]]), "bias": np.array([0.3, 0.1, -0.2])},
]


def config(make_config, **changes):
    numbers = dict(
        learning_rate=0.02, final_learning_rate=0.002, warmup_steps=2, steps=8, grad_clip=1.5,
        weight_decay=0.3, adam_b2=0.95,
    )  # fmt: skip
    return make_spec(StageSpec, make_config(**numbers | changes))


def rate(step, warmup=2, steps=8, first=0.02, last=0.002):
    if step < warmup:
        return first * step / warmup
    share = min(step - warmup, steps - warmup) / (steps - warmup)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


def clipped(grads, limit=1.5):
    norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
    return {name: g * min(1.0, limit / norm) for name, g in grads.items()}


def run(tx, grads):
    """The weights after each step, and the last state."""
    params, state, seen = PARAMS, tx.init(PARAMS), []
    for g in grads:
        g = {name: jnp.asarray(value, jnp.float32) for name, value in g.items()}
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def test_the_rate_climbs_falls_as_a_cosine_and_stays_at_its_end(make_config):
    schedule = make_schedule(config(make_config))
    found = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(found, [rate(step) for step in range(12)], rtol=1e-5)
    np.testing.assert_allclose(found[:3], [0.0, 0.01, 0.02], rtol=1e-6)
    np.testing.assert_allclose(found[5], 0.011, rtol=1e-5)  # half way between the two
    np.testing.assert_allclose(found[8:], 0.002, rtol=1e-5)  # at the last step and after it


def test_a_constant_rate_and_no_warmup(make_config):
    constant = make_schedule(config(make_config, lr_schedule="constant"))
    np.testing.assert_allclose(
        [float(constant(s)) for s in range(4)] + [float(constant(999))],
        [0.0, 0.01, 0.02, 0.02, 0.02], rtol=1e-6,
    )  # fmt: skip
    at_once = make_schedule(config(make_config, warmup_steps=0))
    want = [rate(step, warmup=0) for step in (0, 4, 8)]
    np.testing.assert_allclose([float(at_once(s)) for s in (0, 4, 8)], want, rtol=1e-5)
    # A run that is all warm-up still has a schedule.
    short = make_schedule(config(make_config, steps=2))
    np.testing.assert_allclose([float(short(s)) for s in (1, 2, 3)], [0.01, 0.02, 0.002], rtol=1e-5)
    with pytest.raises(UserError, match="lr_schedule"):
        make_schedule(config(make_config, lr_schedule="linear"))


@pytest.mark.parametrize("kind, tolerance", [("adamw", 2e-6), ("adamw_bf16", 6e-4)])
def test_three_steps_of_adam_with_clipping_schedule_and_decay_of_kernels_alone(
    make_config, kind, tolerance
):
    seen, state = run(make_optimizer(config(make_config, optimizer=kind)), GRADS)
    want = {"kernel": KERNEL.copy(), "bias": BIAS.copy()}
    decay = {"kernel": 0.3, "bias": 0.0}
    m = {name: np.zeros_like(p) for name, p in want.items()}
    v = {name: np.zeros_like(p) for name, p in want.items()}
    for step, grads in enumerate(GRADS):
        for name, g in clipped(grads).items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.95 * v[name] + 0.05 * g**2
            mean, square = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.95 ** (step + 1))
            direction = mean / (np.sqrt(square) + 1e-8) + decay[name] * want[name]
            want[name] = want[name] - rate(step) * direction
            np.testing.assert_allclose(
                seen[step][name], want[name], atol=tolerance, err_msg=f"{name}, step {step}"
            )
    moments = optax.tree.get(state, "mu"), optax.tree.get(state, "nu")
    assert moments[0]["kernel"].dtype == (jnp.bfloat16 if kind == "adamw_bf16" else jnp.float32)
    assert moments[1]["kernel"].dtype == jnp.float32


def test_three_steps_of_adafactor(make_config):
    """Small matrices have no factors: one second moment each, whose decay grows with the steps."""
    cfg = config(make_config, optimizer="adafactor", warmup_steps=1)
    seen, _ = run(make_optimizer(cfg), GRADS)
    want = {"kernel": KERNEL.copy(), "bias": BIAS.copy()}
    decay = {"kernel": 0.3, "bias": 0.0}
    v = {name: np.zeros_like(p) for name, p in want.items()}
    clips = 0
    for step, grads in enumerate(GRADS):
        kept = 1 - (step + 1.0) ** -0.8
        for name, g in clipped(grads).items():
            v[name] = kept * v[name] + (1 - kept) * g**2
            direction = g / np.sqrt(v[name])
            rms = np.sqrt((direction**2).mean())
            clips += rms > 1.001
            direction = direction / max(1.0, rms) + decay[name] * want[name]
            want[name] = want[name] - rate(step, warmup=1) * direction
            np.testing.assert_allclose(
                seen[step][name], want[name], atol=2e-6, err_msg=f"{name}, step {step}"
            )
    assert clips  # there was something to clip


SHAPES = {"a": (2, 3), "b": (3,), "c": (2, 3), "d": (2, 3), "e": (3,)}


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()
    }


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(0.1, weight_decay=0.3, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        optax.chain(optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.scale(-0.1)),
        optax.sgd(0.1, momentum=0.9),
    ],
    ids=["adamw", "factored", "momentum"],
)
def test_weight_by_weight_an_optimizer_does_what_it_does_to_all(tx):
    ours, params = by_weight(tx), drawn(0)
    state = theirs = tx.init(params)
    for seed in (1, 2):
        moved, state = ours.update(drawn(seed), state, params)
        want, theirs = tx.update(drawn(seed), theirs, params)
        assert jax.tree.structure((moved, state)) == jax.tree.structure((want, theirs))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), (moved, state), (want, theirs)
        )


def test_weights_of_one_shape_are_traced_once():
    seen = []

    def update(updates, state, params=None):
        seen.append(params)
        return updates, state

    tx = by_weight(optax.GradientTransformation(optax.init_empty_state, update))
    step = jax.jit(lambda grads, params: tx.update(grads, optax.EmptyState(), params)[0])
    found = step(drawn(1), drawn(0))
    assert len(seen) == 2  # a matrix and a vector, of five weights
    for path, value in drawn(1).items():
        np.testing.assert_array_equal(found[path], value)


def test_clipping_is_optaxs_and_takes_the_norm_that_is_known():
    grads = drawn(3)
    norm = float(global_norm(grads))
    np.testing.assert_allclose(norm, float(optax.tree.norm(grads)), rtol=1e-6)
    for limit in (0.5 * norm, 2.0 * norm):
        want, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
        found, _ = clip(limit).update(grads, optax.EmptyState())
        for path, value in want.items():
            np.testing.assert_allclose(found[path], value, rtol=1e-6)
    known, _ = clip(1.0).update(grads, optax.EmptyState(), grad_norm=jnp.float32(10.0))
    np.testing.assert_allclose(known["b"], grads["b"] / 10.0, rtol=1e-6)


def test_who_is_guarded(make_config):
    def guarded(**changes):
        state = make_optimizer(config(make_config, **changes)).init(PARAMS)
        return isinstance(state, GuardState)

    assert not guarded()
    assert guarded(on_bad_step="skip") and guarded(spike_factor=2.0)
    with pytest.raises(UserError, match="on_bad_step"):
        guarded(on_bad_step="skipp")


def good(tx, state, loss, gradient=1.0):
    grads = {"w": gradient * jnp.ones(2)}
    return tx.update(grads, state, {"w": jnp.ones(2)}, loss=jnp.float32(loss))


def test_the_guards_running_mean_is_of_the_good_steps(make_config):
    tx = guard(optax.sgd(0.5), 3.0)
    state = tx.init({"w": jnp.ones(2)})
    for loss in (4.0, 1.0, np.nan, 2.0):
        updates, state = good(tx, state, loss)
        np.testing.assert_array_equal(updates["w"], [0.0, 0.0] if loss != loss else [-0.5, -0.5])
    want = 0.02 * (0.98**2 * 4.0 + 0.98 * 1.0 + 2.0)
    np.testing.assert_allclose(float(state.mean), want, rtol=1e-5)
    np.testing.assert_allclose(float(state.weight), 0.02 * (0.98**2 + 0.98 + 1), rtol=1e-5)
    assert int(state.good_steps) == 3 and int(state.in_row) == 0


def test_a_spike_is_one_after_twenty_good_steps_and_counts_in_a_row():
    tx = guard(optax.sgd(0.5), 3.0)
    state = tx.init({"w": jnp.ones(2)})
    for _ in range(19):
        state = good(tx, state, 1.0)[1]
    updates, early = good(tx, state, 100.0)  # the twentieth: nobody knows yet what a spike is
    assert int(early.skipped) == 0 and float(updates["w"][0]) == -0.5
    state = good(tx, state, 1.0)[1]
    for row, (loss, gradient) in enumerate([(3.1, 1.0), (1.0, np.inf), (np.inf, 1.0)], 1):
        updates, state = good(tx, state, loss, gradient)
        assert (int(state.skipped), int(state.in_row)) == (1, row)
        np.testing.assert_array_equal(updates["w"], 0.0)
    assert int(state.good_steps) == 20
    _, state = good(tx, state, 2.9)
    assert (int(state.skipped), int(state.in_row), int(state.good_steps)) == (0, 0, 21)


def test_without_a_factor_no_loss_is_a_spike_but_what_is_not_finite_is_left_out():
    tx = guard(optax.sgd(0.5), 0.0)
    state = tx.init({"w": jnp.ones(2)})
    for _ in range(21):
        state = good(tx, state, 1.0)[1]
    assert int(good(tx, state, 1e6)[1].skipped) == 0
    assert int(good(tx, state, 1.0, np.nan)[1].skipped) == 1
