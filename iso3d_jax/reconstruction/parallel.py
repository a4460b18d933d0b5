"""One object on several devices, `config.parallelism = "views"`.

Rays are split over all devices, views over as many as divide them for the autoencoder, and the
denoiser's batch (with and without the embedding, groups of views) over as many as divide that: the
views that the denoiser sees together stay together. Everything else is small and on every device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction.spec import ReconstructionSpec


def make_mesh(devices: Sequence) -> Mesh:
    """A device mesh whose axes are the prime factors of the number of devices, the smallest first.

    A batch that only some of the devices divide is split over the first axes then.
    """
    sizes, rest, factor = [], len(devices), 2
    while rest > 1:
        if rest % factor == 0:
            sizes.append(factor)
            rest //= factor
        else:
            factor += 1
    names = tuple(f"part{k}" for k in range(len(sizes)))
    grid = np.asarray(devices).reshape(sizes)
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(sizes))


def mesh_for(spec: ReconstructionSpec, devices: Sequence) -> Mesh | None:
    """The device mesh that a spec asks for; None where one device makes one object.

    Raises:
      UserError: the devices do not divide the rays of an iteration.
    """
    if spec.parallelism == "objects" or len(devices) == 1:
        return None
    rays = {f"{spec.draft.rays} rays of a draft": spec.draft.rays} | {
        f"{groups * spec.views} renders of {size}x{size}": groups * spec.views * size**2
        for _, size, groups in spec.phases
    }
    for name, count in rays.items():
        if count % len(devices):
            raise UserError(
                f"config.parallelism=views: {len(devices)} devices do not divide the {name}; hide "
                "some devices or use --config.parallelism=objects"
            )
    return make_mesh(devices)


def replicate(device_mesh: Mesh | None, tree):
    """The arrays of a tree on every device."""
    return tree if device_mesh is None else jax.device_put(tree, NamedSharding(device_mesh, P()))


def on_one(device_mesh: Mesh | None, tree):
    """The arrays of a replicated tree on the first device alone, for programs of one device."""
    return tree if device_mesh is None else jax.device_put(tree, device_mesh.devices.flat[0])


def split(device_mesh: Mesh | None, x: Array) -> Array:
    """Within a program: the first axis over as many devices as divide it."""
    if device_mesh is None:
        return x
    names: list[str] = []
    for name, size in device_mesh.shape.items():
        if x.shape[0] % (size * math.prod(device_mesh.shape[n] for n in names)):
            break
        names.append(name)
    return jax.lax.with_sharding_constraint(x, NamedSharding(device_mesh, P(tuple(names) or None)))


def gather(device_mesh: Mesh | None, x: Array) -> Array:
    """Within a program: all of an array on every device."""
    return (
        x
        if device_mesh is None
        else jax.lax.with_sharding_constraint(x, NamedSharding(device_mesh, P()))
    )


def map_rays(
    device_mesh: Mesh | None,
    fn: Callable,
    keys: tuple[jax.Array, ...],
    shared,
    rays: tuple[Array, ...],
) -> tuple[Any, dict[str, Float[Array, " N"]]]:
    """fn(keys, shared, rays) for each device's share of the rays; differentiable.

    Args:
      fn: returns a tree with something for each of its rays, and scalars by name.
      keys: folded with the share's number where there are several.
      shared: a tree that all shares see whole.
      rays: arrays whose first axis is the ray.

    Returns:
      What fn returns for all R rays, on every device, and its scalars, one for each of N shares.
    """

    def share(keys, shared, rays):
        if device_mesh is not None:
            number = jax.lax.axis_index(device_mesh.axis_names)
            keys = tuple(jax.random.fold_in(key, number) for key in keys)
        values, scalars = fn(keys, shared, rays)
        return values, {name: value[None] for name, value in scalars.items()}

    if device_mesh is None:
        return share(keys, shared, rays)
    every = P(device_mesh.axis_names)
    values, scalars = jax.shard_map(
        share, mesh=device_mesh, in_specs=(P(), P(), every), out_specs=every, check_vma=False
    )(keys, shared, rays)
    return jax.tree.map(functools.partial(gather, device_mesh), (values, scalars))
