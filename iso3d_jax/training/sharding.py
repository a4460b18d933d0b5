"""Where each array lives: a device mesh and a short table of path rules. Modules know neither.

Axes: `data` splits the batch; `fsdp` splits the batch and, by the rules, the weights with their
moments and averages; `tensor` splits attention's and the feed-forward's hidden channels. The views
of an object stay together on one device, for joint attention reads them all.

Replicated on purpose: biases and norms (vectors, under 0.1% of the weights), factored moments
(vectors again), the step and the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import FlatParams

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

Rules = tuple[tuple[str, P], ...]

# First match wins; the path is the weight's. There is no rule for "the rest": a new kind of layer
# has to say where it lives.
UNET_RULES: Rules = (
    (r"(to_q|to_k|to_v|ff/proj_in)/kernel$", P("fsdp", "tensor")),
    (r"(to_out|ff/proj_out)/kernel$", P("tensor", "fsdp")),
    (
        r"(emb|linear_in|linear_out|layout/[\w/]+|shortcut/\w+|transformer/proj_in|"
        r"transformer/proj_out)/kernel$",
        P(None, "fsdp"),
    ),
    (
        r"^conv_out/kernel$",
        P(None, None, "fsdp", None),
    ),  # its outputs are the latents' few channels
    (r"(stem|conv_in|conv_out|conv|skip|down)/kernel$", P(None, None, None, "fsdp")),
    (r"(bias|scale)$", P()),
)
LORA_RULES: Rules = (
    (r"lora_a$", P("fsdp", None)),
    (r"lora_b$", P()),
)
# Networks that are trained at small sizes only: every device has all of them.
REPLICATED: Rules = ((r"", P()),)


def make_mesh(shape: Mapping[str, int] | None = None, devices=None) -> Mesh:
    """A device mesh over all devices; `shape` such as {"fsdp": 4}, and the rest goes to `data`.

    On TPUs it lies along the torus, so that an axis' neighbours are wired.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: (shape or {}).get(axis, 1) for axis in AXES}
    if min(sizes.values()) < 1:
        raise UserError(f"mesh sizes must be 1 or more, not {dict(shape or {})}")
    named = sizes["fsdp"] * sizes["tensor"]
    if len(devices) % named:
        raise UserError(
            f"mesh fsdp {sizes['fsdp']} x tensor {sizes['tensor']} does not divide "
            f"the {len(devices)} devices"
        )
    sizes["data"] = len(devices) // named
    # What jax.make_mesh calls too; there no axis of a v5p's or v6e's torus may be split over two.
    grid = mesh_utils.create_device_mesh(
        [sizes[axis] for axis in AXES], devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch_size(batch_size: int, accumulate: int, device_mesh: Mesh) -> None:
    """UserError where a batch does not split evenly over devices and accumulation steps."""
    data, fsdp = device_mesh.shape["data"], device_mesh.shape["fsdp"]
    ways = data * fsdp * accumulate
    if accumulate < 1 or batch_size % ways:
        raise UserError(
            f"batch_size {batch_size} does not divide by {ways}: data {data} x fsdp {fsdp} x "
            f"accumulate {accumulate}, on {device_mesh.devices.size} devices"
        )


def spec_for(path: str, shape: tuple[int, ...], sizes: Mapping[str, int], rules: Rules) -> P:
    """The first matching rule's partition of one weight.

    Args:
      path: the weight's.
      shape: the weight's.
      sizes: the mesh's axis sizes.
      rules: (regular expression, partition) pairs.

    Raises:
      UserError: no rule matches, the rule has more dimensions than the weight, or a dimension does
        not divide by its axis.
    """
    for pattern, spec in rules:
        if not re.search(pattern, path):
            continue
        if len(spec) > len(shape):
            raise UserError(
                f"sharding rule '{pattern}' names {len(spec)} dimensions, but {path} has "
                f"{len(shape)}: {shape}"
            )
        for i, axis in enumerate(spec):
            if axis is not None and shape[i] % sizes[axis]:
                raise UserError(
                    f"sharding rule '{pattern}' splits dimension {i} of {path}, which is "
                    f"{shape[i]}, over axis {axis} of size {sizes[axis]}: it does not divide; "
                    f"choose another mesh.{axis}"
                )
        return spec
    raise UserError(f"no sharding rule matches {path} {shape}; add one for this kind of layer")


def param_specs(
    shapes: Mapping[str, tuple[int, ...]], device_mesh: Mesh, rules: Rules
) -> dict[str, P]:
    """Every weight's partition; UserError too where a rule is never the first to match."""
    unused = {pattern for pattern, _ in rules}
    specs = {}
    for path, shape in shapes.items():
        specs[path] = spec_for(path, shape, device_mesh.shape, rules)
        unused.discard(next(pattern for pattern, _ in rules if re.search(pattern, path)))
    for pattern, spec in rules:
        if pattern in unused:
            raise UserError(f"sharding rule '{pattern}' -> {spec} matches no weight")
    return specs


def state_shardings(state, device_mesh: Mesh, rules: Rules):
    """A NamedSharding for every array of a train state.

    Averages and moments live where their weight does: flat dicts keep the weight's path as the key,
    so the last key of a leaf's path says which weight it belongs to.
    """
    shapes = {path: np.shape(leaf) for path, leaf in state.params.items()}
    specs = param_specs(shapes, device_mesh, rules)

    def one(path, leaf):
        keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        weight = keys[-1] if keys else ""
        same = weight in specs and np.shape(leaf) == shapes[weight]
        return NamedSharding(device_mesh, specs[weight] if same else P())

    return jax.tree_util.tree_map_with_path(one, state)


def batch_sharding(device_mesh: Mesh) -> NamedSharding:
    """Batches are split over `data` and `fsdp` along their first axis."""
    return NamedSharding(device_mesh, BATCH)


def local_rows(batch_size: int, device_mesh: Mesh) -> np.ndarray:
    """The rows of a global batch that this process's devices need, in order."""
    shares = batch_sharding(device_mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[share] for share in shares]))


def put_batch(batch: dict[str, np.ndarray], batch_size: int, device_mesh: Mesh):
    """This process's `local_rows` to its devices, as one global batch of `batch_size` rows."""
    shapes = {name: (batch_size, *value.shape[1:]) for name, value in batch.items()}
    return jax.make_array_from_process_local_data(batch_sharding(device_mesh), batch, shapes)


def put_params(params: dict, shardings: dict) -> dict:
    """Whole arrays on every host to sharded ones; no device ever holds more than its share."""

    def put(value, sharding):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return {path: put(value, shardings[path]) for path, value in params.items()}


def to_host(params: FlatParams) -> dict[str, np.ndarray]:
    """Sharded arrays whole on every host, one at a time; all processes must call it together."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return {path: np.asarray(value) for path, value in params.items()}
    return {
        path: np.asarray(multihost_utils.process_allgather(value, tiled=True))
        for path, value in params.items()
    }
