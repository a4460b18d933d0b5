"""The train state: one step by hand, the average after it, and the key of each step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iso3d_jax.training.optimizer import guard
from iso3d_jax.training.state import apply_gradients, averaged_params, create_state, step_key

PARAMS = {
    "a/kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
    "b/bias": jnp.array([0.25, -1.0]),
    "frozen": jnp.array([7.0]),
}
TRAINED = ["b/bias", "a/kernel"]
GRADS = {"a/kernel": jnp.array([[2.0, 1.0], [-4.0, 0.0]]), "b/bias": jnp.array([-1.0, 8.0])}


def state_at(step, tx=None, trained=TRAINED):
    state = create_state(PARAMS, tx or optax.sgd(0.5), 11, trained)
    return state.replace(
        step=jnp.int32(step), ema_params={k: v + 1.0 for k, v in state.ema_params.items()}
    )


def test_a_new_state_is_at_step_0_with_moments_and_averages_of_what_is_trained():
    state = create_state(PARAMS, optax.adam(1e-3), 11, TRAINED)
    assert int(state.step) == 0 and state.step.dtype == jnp.int32
    assert set(state.ema_params) == set(TRAINED) and set(state.params) == set(PARAMS)
    assert set(optax.tree.get(state.opt_state, "mu")) == set(TRAINED)
    for path in TRAINED:
        np.testing.assert_array_equal(state.ema_params[path], PARAMS[path])
        # The state is donated: the same buffer twice would be given away twice.
        assert state.ema_params[path] is not state.params[path]
        pointers = [x[path].unsafe_buffer_pointer() for x in (state.ema_params, state.params)]
        assert pointers[0] != pointers[1]
    assert set(create_state(PARAMS, optax.sgd(1.0), 11).ema_params) == set(PARAMS)


def test_each_step_and_each_seed_has_its_own_key():
    def numbers(seed, step):
        state = create_state(PARAMS, optax.sgd(0.5), seed, TRAINED).replace(step=jnp.int32(step))
        return tuple(np.asarray(jax.random.key_data(step_key(state))).tolist())

    keys = [numbers(seed, step) for seed in (11, 12) for step in (0, 1, 2)]
    assert len(set(keys)) == 6
    want = jax.random.key_data(jax.random.fold_in(jax.random.key(12), 2))
    assert keys[-1] == tuple(np.asarray(want).tolist())


@pytest.mark.parametrize(
    "step, decay", [(0, 0.1), (1, 2 / 11), (50, 51 / 60), (80, 0.9), (1000, 0.9)]
)
def test_one_step_of_gradient_descent_and_the_average_of_what_it_gave(step, decay):
    """The decay is (1 + step) / (10 + step) until that is 0.9; the average moves to new weights."""
    before = state_at(step)
    state, norms = apply_gradients(before, GRADS, optax.sgd(0.5), 0.9)
    assert int(state.step) == step + 1
    for path, g in GRADS.items():
        moved = np.asarray(PARAMS[path]) - 0.5 * np.asarray(g)
        np.testing.assert_allclose(state.params[path], moved, rtol=1e-6)
        average = decay * (np.asarray(PARAMS[path]) + 1.0) + (1 - decay) * moved
        np.testing.assert_allclose(state.ema_params[path], average, rtol=1e-5)
    np.testing.assert_array_equal(state.params["frozen"], PARAMS["frozen"])
    np.testing.assert_array_equal(state.key, before.key)
    norm = np.sqrt(4 + 1 + 16 + 1 + 64)
    moved = [0.0, -2.5, 2.5, 3.0, 0.75, -5.0]
    want = dict(grad_norm=norm, update_norm=0.5 * norm, param_norm=np.sqrt(np.square(moved).sum()))
    assert norms.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(norms[name], value, rtol=1e-6, err_msg=name)


def test_gradients_that_are_not_finite_change_nothing_though_the_loss_is():
    tx = guard(optax.sgd(0.5, momentum=0.9), 0.0)
    before = state_at(0, tx)
    spoiled = GRADS | {"b/bias": jnp.array([jnp.nan, 1.0])}
    state, norms = apply_gradients(before, spoiled, tx, 0.9, jnp.float32(1.0))
    for path in PARAMS:
        np.testing.assert_array_equal(state.params[path], PARAMS[path])
    for path in TRAINED:
        trace = optax.tree.get(state.opt_state, "trace")
        np.testing.assert_array_equal(trace[path], 0.0)
    assert int(state.step) == 1  # the next step draws anew
    assert (int(norms["skipped"]), int(norms["skipped_in_row"])) == (1, 1)
    state, norms = apply_gradients(state, GRADS, tx, 0.9, jnp.float32(1.0))
    assert (int(norms["skipped"]), int(norms["skipped_in_row"])) == (0, 0)
    np.testing.assert_allclose(state.params["b/bias"], [0.75, -5.0])
    _, norms = apply_gradients(state, GRADS, tx, 0.9, jnp.float32(jnp.nan))
    assert int(norms["skipped"]) == 1


def test_the_guard_watches_the_loss_and_the_gradients_norm_where_there_is_none():
    tx = guard(optax.sgd(0.5), 3.0)
    state, _ = apply_gradients(state_at(0, tx), GRADS, tx, 0.9, jnp.float32(5.0))
    np.testing.assert_allclose(state.opt_state.mean, 0.02 * 5.0, rtol=1e-5)
    state, _ = apply_gradients(state_at(0, tx), GRADS, tx, 0.9)
    np.testing.assert_allclose(state.opt_state.mean, 0.02 * np.sqrt(86.0), rtol=1e-5)


def test_the_averaged_weights_are_all_weights():
    found = averaged_params(state_at(3))
    np.testing.assert_array_equal(found["frozen"], PARAMS["frozen"])
    for path in TRAINED:
        np.testing.assert_array_equal(found[path], PARAMS[path] + 1.0)
