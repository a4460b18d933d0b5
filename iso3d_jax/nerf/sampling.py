"""Where along the rays the field is evaluated: static shapes that still skip empty space.

A ray is cut into steps of one length inside the scene's box (or sphere). The steps whose cell is
occupied, over all rays together, are packed into a fixed number of slots in the order of the
rays. If there are more than slots, evenly spread ones are kept and each stands for a longer
stretch, so that the optical depth stays unbiased; nothing is ever re-compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from iso3d_jax.nerf import occupancy


class Samples(NamedTuple):
    """K samples, sorted by ray and, within a ray, by distance.

    Attributes:
      ray: index of each sample's ray, [K] int32.
      t: distance along the ray, [K].
      length: the stretch it stands for, [K]; zero in empty slots (the last ones).
      valid: whether the slot is used, [K].
      wanted: how many samples there would have been, scalar int32; more than K were thinned.
    """

    ray: Int[Array, " K"]
    t: Float[Array, " K"]
    length: Float[Array, " K"]
    valid: Bool[Array, " K"]
    wanted: Int[Array, ""]


def ray_bounds(
    rays_o: Float[Array, "R 3"], rays_d: Float[Array, "R 3"], radius: float, bound: str
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
    """Entry and exit distance of rays; exit is not above entry where the scene is missed.

    Args:
      bound: 'box' for [-radius, radius]^3 or 'sphere' for |x| <= radius.
    """
    if bound == "sphere":
        middle = -jnp.sum(rays_o * rays_d, -1)
        closest = rays_o + middle[:, None] * rays_d
        square = radius**2 - jnp.sum(closest * closest, -1)
        half = jnp.sqrt(jnp.maximum(square, 0.0))
        return jnp.maximum(middle - half, 0.0), jnp.where(square > 0, middle + half, -1.0)
    if bound != "box":
        raise ValueError(f"bound {bound!r} is not 'box' or 'sphere'")
    safe = jnp.where(jnp.abs(rays_d) < 1e-9, 1e-9, rays_d)
    one, two = (-radius - rays_o) / safe, (radius - rays_o) / safe
    near = jnp.maximum(jnp.max(jnp.minimum(one, two), -1), 0.0)
    return near, jnp.min(jnp.maximum(one, two), -1)


def max_steps(step_size: float, radius: float, bound: str) -> int:
    """The most steps that fit on a ray through the scene."""
    longest = 2.0 * radius * (3.0**0.5 if bound == "box" else 1.0)
    return int(-(-longest * (1 - 1e-6) // step_size))


def pack(mask: Bool[Array, " M"], slots: int) -> tuple[Array, Array, Array, Array]:
    """Chooses `slots` of the true entries of a mask, in order, evenly spread if there are more.

    Returns:
      index [slots] of the chosen entries, valid [slots], stretch (>= 1, how many entries one
      slot stands for) and the number of true entries.
    """
    counts = jnp.cumsum(mask.astype(jnp.int32))
    wanted = counts[-1]
    stretch = jnp.maximum(wanted.astype(jnp.float32) / slots, 1.0)

    def rank(slot: Array) -> Array:
        """Which of the true entries a slot has; no smaller for a later slot."""
        return jnp.where(stretch > 1.0, jnp.floor((slot + 0.5) * stretch).astype(jnp.int32), slot)

    slot = jnp.arange(slots)
    return _find(counts, rank, slots), rank(slot) < wanted, stretch, wanted


BLOCK = 512  # entries


def _find(counts: Int[Array, " M"], rank: Callable[[Array], Array], slots: int) -> Array:
    """For each slot the first entry where `counts` is above its rank, or else the last, [slots].

    A binary search of each slot through all entries would be 24 passes over the slots for an
    iteration at 256x256. So the first slot of each block of entries is found first, by the ranks
    alone; blocks then mark their first slots, and each slot searches its own block.
    """
    entries = counts.shape[0]
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), counts[BLOCK - 1 : -1 : BLOCK]])
    first = jnp.zeros_like(starts)
    for jump in _jumps(slots):
        there = jnp.minimum(first + jump, slots)
        first = jnp.where(rank(there - 1) < starts, there, first)
    begun = jnp.zeros(slots, jnp.int32).at[first].add(1, mode="drop", indices_are_sorted=True)
    begin = (jnp.cumsum(begun) - 1) * BLOCK
    end = jnp.minimum(begin + BLOCK, entries)
    index, own = begin, rank(jnp.arange(slots))
    for jump in _jumps(BLOCK):
        there = jnp.minimum(index + jump, end)
        below = counts.at[there - 1].get(mode="promise_in_bounds") <= own
        index = jnp.where(below, there, index)
    return jnp.minimum(index, entries - 1)


def _jumps(most: int) -> list[int]:
    """Halves of a power of two, whose sum is `most` or more: the steps of a binary search."""
    return [1 << k for k in reversed(range(most.bit_length()))]


def find_steps(
    rays_o: Float[Array, "R 3"],
    rays_d: Float[Array, "R 3"],
    occupied: Bool[Array, " G3"] | None,
    shift: Float[Array, "R 1"] | float = 0.5,
    *,
    step_size: float,
    radius: float,
    bound: str,
) -> tuple[Float[Array, "R S"], Bool[Array, "R S"]]:
    """Where every step of every ray is, and which of them lie in occupied cells of the scene.

    Args:
      occupied: the occupancy grid's cells, or None to take every step.
      shift: where in its step a sample lies, a share of it.
      step_size: length of a step, scene units.
    """
    near, far = ray_bounds(rays_o, rays_d, radius, bound)
    t = near[:, None] + (jnp.arange(max_steps(step_size, radius, bound)) + shift) * step_size
    mask = t < far[:, None]
    if occupied is not None:
        resolution = round(occupied.shape[0] ** (1 / 3))
        x, y, z = (rays_o[:, None, k] + t * rays_d[:, None, k] for k in range(3))
        cell = occupancy.find_cell(x, y, z, resolution, radius)
        mask &= occupied.at[cell].get(mode="promise_in_bounds")
    return t, mask


def march(
    key: jax.Array | None,
    rays_o: Float[Array, "R 3"],
    rays_d: Float[Array, "R 3"],
    occupied: Bool[Array, " G3"] | None,
    *,
    slots: int,
    step_size: float,
    radius: float,
    bound: str = "box",
) -> Samples:
    """Packs the occupied steps of all rays.

    Args:
      key: shifts each ray's steps by a random part of a step; None puts samples in the middle.
      occupied: the occupancy grid's cells, or None to take every step.
      slots: number of samples, K.
      step_size: length of a step, scene units.
    """
    rays = rays_o.shape[0]
    shift = 0.5 if key is None else jax.random.uniform(key, (rays, 1))
    t, mask = find_steps(
        rays_o, rays_d, occupied, shift, step_size=step_size, radius=radius, bound=bound
    )
    steps = t.shape[1]
    index, valid, stretch, wanted = pack(mask.reshape(-1), slots)
    ray = index // steps
    length = jnp.where(valid, step_size * stretch, 0.0)
    ray = jnp.where(valid, ray, rays - 1)
    return Samples(ray, t.reshape(-1)[index], length, valid, wanted)


def keep(samples: Samples, mask: Bool[Array, " K"], slots: int) -> Samples:
    """Packs the samples chosen by a mask into fewer slots."""
    index, valid, stretch, wanted = pack(mask & samples.valid, slots)
    last = samples.ray[-1]
    return Samples(
        jnp.where(valid, samples.ray[index], last),
        samples.t[index],
        jnp.where(valid, samples.length[index] * stretch, 0.0),
        valid,
        wanted,
    )
