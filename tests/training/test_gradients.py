"""Gradients of a mean on one device, whole and in parts, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.training import gradients, sharding
from iso3d_jax.training.gradients import value_and_gradients

RNG = np.random.default_rng(0)
KERNEL, SHIFT = RNG.normal(size=(3, 2)), RNG.normal(size=2)
INPUTS = {"x": RNG.normal(size=(8, 3)), "y": RNG.normal(size=(8, 2))}


def loss_fn(params, inputs):
    error = inputs["x"] @ params["kernel"] + params["shift"] - inputs["y"]
    rows = (error**2).sum(1)
    return rows.mean(), {"total": rows.sum(), "first": inputs["x"][0, 0]}


@pytest.mark.parametrize("on_mesh", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_loss_and_gradients_are_means_and_sums_are_sums(parts, on_mesh):
    trained = {"kernel": jnp.asarray(KERNEL, jnp.float32)}
    frozen = {"shift": jnp.asarray(SHIFT, jnp.float32)}
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in INPUTS.items()}

    def found(trained, frozen, inputs):
        return value_and_gradients(loss_fn, trained, frozen, inputs, sharding.REPLICATED, parts)

    if on_mesh:
        with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
            (loss, sums), grads = jax.jit(found)(trained, frozen, inputs)
    else:
        (loss, sums), grads = found(trained, frozen, inputs)
    error = INPUTS["x"] @ KERNEL + SHIFT - INPUTS["y"]
    rows = (error**2).sum(1)
    np.testing.assert_allclose(loss, rows.mean(), rtol=1e-5)
    np.testing.assert_allclose(sums["total"], rows.sum(), rtol=1e-5)
    assert set(grads) == {"kernel"}
    np.testing.assert_allclose(grads["kernel"], 2 * INPUTS["x"].T @ error / 8, rtol=1e-4)
    # Part i has the rows i, i + parts, ...: so every device has some of each part.
    np.testing.assert_allclose(sums["first"], INPUTS["x"][:parts, 0].sum(), rtol=1e-5)


def test_shares_of_a_half_precision_gradient_are_added_in_float32():
    """256 and 1 make 256 in bfloat16."""
    gradient = jnp.asarray([[256.0, 1.0, 0.0, 0.0], [1.0, 256.0, 0.0, 2.0]], jnp.bfloat16)
    add = jax.vmap(lambda g: gradients._scatter(0, jnp.bfloat16, None, g)[0], axis_name="fsdp")
    found = add(gradient)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found.reshape(-1), [257, 257, 0, 2])
