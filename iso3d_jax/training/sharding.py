"""Where each array lives: a mesh, and a short table of path rules. Modules know nothing of it.

Axes: `data` splits the batch; `fsdp` splits the batch and, by the rules, the weights; `tensor`
splits heads and hidden channels. Views stay together on one device.
"""

from __future__ import annotations

import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iso3d_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# First match wins; the path is the weight's (or its optimiser state's, which ends in it).
RULES: tuple[tuple[str, P], ...] = (
    (r"(to_q|to_k|to_v|qkv|c_fc|ff/proj_in)/kernel$", P("fsdp", "tensor")),
    (r"(to_out|out_proj|c_proj|ff/proj_out)/kernel$", P("tensor", "fsdp")),
    (
        r"(emb|linear_in|linear_out|transformer/proj_in|transformer/proj_out)/kernel$",
        P(None, "fsdp"),
    ),
    (r"kernel$", P(None, None, None, "fsdp")),
    (r"", P()),
)


def make_mesh(shape: dict[str, int] | None = None, devices=None) -> Mesh:
    """A mesh over all devices; `shape` such as {"data": 2, "fsdp": 4}, the rest goes to `data`."""
    devices = jax.devices() if devices is None else devices
    sizes = {axis: (shape or {}).get(axis, 1) for axis in AXES}
    named = sizes["fsdp"] * sizes["tensor"]
    if len(devices) % named:
        raise UserError(
            f"mesh fsdp {sizes['fsdp']} x tensor {sizes['tensor']} does not divide "
            f"the {len(devices)} devices"
        )
    sizes["data"] = len(devices) // named
    grid = np.asarray(devices).reshape([sizes[axis] for axis in AXES])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule's partition for one array; an axis that does not divide its dimension is dropped."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            axes = [
                axis if axis and shape[i] % mesh.shape[axis] == 0 else None
                for i, axis in enumerate(spec[: len(shape)])
            ]
            return P(*axes)
    raise AssertionError(f"no sharding rule matches {path}")


def state_shardings(state, mesh: Mesh):
    """A NamedSharding for every array of a train state (or any tree), by its path."""

    def one(path, leaf):
        name = "/".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        )
        return NamedSharding(mesh, spec_for(name, np.shape(leaf), mesh))

    return jax.tree_util.tree_map_with_path(one, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over `data` and `fsdp` along their first axis."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def put_batch(batch, mesh: Mesh):
    """Host arrays to the devices; every process gives its own share of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
