"""The gradient of a mean over a batch that many devices share.

On a mesh every device goes through its own rows. It gathers each weight along `fsdp` before it
uses it, and what it has of that weight's gradient is added up in float32 and scattered along `fsdp`
again, so that no device holds a whole gradient. Left to itself the compiler's partitioner added
them up whole on every device, and in the compute type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from iso3d_jax.models.params import FlatParams
from iso3d_jax.training import sharding

# (loss, sums over rows by name), gradients by path
Gradients = tuple[tuple[jax.Array, dict[str, jax.Array]], FlatParams]


def value_and_gradients(
    loss_fn: Callable[[FlatParams, Any], tuple[jax.Array, dict[str, jax.Array]]],
    trained: FlatParams,
    frozen: FlatParams,
    inputs: Any,
    rules: sharding.Rules,
    parts: int = 1,
    gather_dtype: Callable[[str], Any] = lambda path: jnp.float32,
) -> Gradients:
    """Mean loss, sums and gradients of the trained weights over a batch.

    Args:
      loss_fn: of all weights and some rows: their mean loss, and sums over them by name.
      trained, frozen: weights by path.
      inputs: a tree of arrays whose first axis is the batch; on a mesh (`jax.set_mesh`) split over
        `data` and `fsdp`.
      rules: of the weights, see training/sharding.py.
      parts: how many shares of a device's rows are gone through one after the other.
      gather_dtype: the type that a weight, by path, is gathered in: the one it is used in.
    """
    device_mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if device_mesh.empty else device_mesh.shape
    rows = tuple(axis for axis in ("data", "fsdp") if sizes.get(axis, 1) > 1)
    if not rows:  # what there is of `tensor` the partitioner does
        return _in_parts(dict, loss_fn, trained, frozen, inputs, parts)
    # An axis of size 1 is named too: then nothing at all is left to the partitioner.
    axes = {axis for axis in sharding.AXES if axis != "tensor" or sizes[axis] == 1}
    specs = {
        path: sharding.spec_for(path, value.shape, sizes, rules)
        for path, value in {**trained, **frozen}.items()
    }
    split = {  # along which dimension a weight is split over `fsdp`
        path: spec.index("fsdp")
        for path, spec in specs.items()
        if "fsdp" in spec and "fsdp" in rows
    }
    shares = {
        path: P(*(axis if axis == "fsdp" else None for axis in spec))
        for path, spec in specs.items()
    }
    devices = sizes["data"] * sizes["fsdp"]

    def local(trained, frozen, inputs):
        def gathering(weights):
            return {
                path: _gather(value, split[path], gather_dtype(path)) if path in split else value
                for path, value in weights.items()
            }

        (loss, sums), grads = _in_parts(gathering, loss_fn, trained, frozen, inputs, parts)
        loss, sums = jax.lax.psum((loss / devices, sums), rows)
        # The gather's derivative has added up and scattered along `fsdp` already.
        left = {path: tuple(a for a in rows if a != "fsdp" or path not in split) for path in grads}
        grads = {
            path: jax.lax.psum(g / devices, left[path]) if left[path] else g / devices
            for path, g in grads.items()
        }
        return (loss, sums), grads

    of_trained = {path: shares[path] for path in trained}
    of_frozen = {path: shares[path] for path in frozen}
    return jax.shard_map(
        local,
        in_specs=(of_trained, of_frozen, sharding.BATCH),
        out_specs=((P(), P()), of_trained),
        axis_names=axes,
        check_vma=False,
    )(trained, frozen, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(share: jax.Array, axis: int, dtype) -> jax.Array:
    """A float32 weight from its shares along `fsdp`, sent as `dtype`.

    Its gradient is added up and scattered in float32, which the derivative of a conversion and a
    gather would do in `dtype`.
    """
    return jax.lax.all_gather(share.astype(dtype), "fsdp", axis=axis, tiled=True)


def _scatter(axis: int, dtype, _, gradient: jax.Array) -> tuple[jax.Array]:
    gradient = gradient.astype(jnp.float32)
    return (jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=axis, tiled=True),)


_gather.defvjp(lambda share, axis, dtype: (_gather(share, axis, dtype), None), _scatter)


def _in_parts(gathering, loss_fn, trained, frozen, inputs, parts: int) -> Gradients:
    """Mean loss, sums and gradients over `parts` shares of some rows, one after the other.

    Share i has the rows i, i + parts, ...
    """

    def loss_and_sums(trained, share):
        return loss_fn(gathering({**frozen, **trained}), share)

    gradients = jax.value_and_grad(loss_and_sums, has_aux=True)
    if parts == 1:
        return gradients(trained, inputs)
    gradients = jax.jit(gradients)  # its shapes and the loop's body are of one trace
    shares = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), inputs)

    def add(total, share):
        return jax.tree.map(jnp.add, total, gradients(trained, share)), None

    first = jax.tree.map(lambda x: x[0], shares)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, trained, first)
    )
    ((loss, sums), grads), _ = jax.lax.scan(add, zeros, shares)
    return (loss / parts, sums), jax.tree.map(lambda g: g / parts, grads)
