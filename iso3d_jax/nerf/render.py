"""Volume rendering of packed samples: weights, pictures, opacity, depth, normals.

For the samples of one ray, front to back, with optical depths tau_i = density_i * length_i:
weight_i = exp(-sum_{j<i} tau_j) * (1 - exp(-tau_i)) (Max 1995). Everything here is float32.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from iso3d_jax.nerf import field, sampling, shading
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.occupancy import Grid
from iso3d_jax.nerf.sampling import Samples

PARTS = 8  # candidates are looked at in so many, or in smaller chunks


@dataclasses.dataclass(frozen=True)
class RenderSpec:
    """How rays are sampled.

    Attributes:
      step_size: length of a step, scene units. Released: 2 * 1.732 / 512.
      bound: 'box' or 'sphere', see `sampling.ray_bounds`.
      candidates: occupied samples a ray (on average) whose density is looked at.
      samples: samples a ray (on average) that are rendered with gradients: the candidates that
        pass the two thresholds.
      normals: samples a ray (on average) whose normal is taken when it is only regularized.
      alpha_threshold, early_stop: a candidate is dropped where its opacity is below the first
        (or the grid's mean, see `occupancy.Grid`) or where less light than the second reaches it.
      chunk: samples evaluated at a time, or 0 for all that have gradients at once; bounds memory,
        not speed.
    """

    step_size: float = 2 * 1.732 / 512
    bound: str = "box"
    candidates: float = 64.0
    samples: float = 16.0
    normals: float = 16.0
    alpha_threshold: float = 0.01
    early_stop: float = 1e-4
    chunk: int = 0


class Rendering(NamedTuple):
    """What a bundle of R rays shows.

    Attributes:
      rgb: [R, 3] on the background.
      opacity: [R], the sum of the weights.
      depth: [R], the weighted distance along the ray (0 where nothing is hit).
      wanted: samples the scene asked for and got slots for, [2] float32 shares of the slots:
        above 1 means that samples were thinned (candidates, rendered samples).
    """

    rgb: Float[Array, "R 3"]
    opacity: Float[Array, " R"]
    depth: Float[Array, " R"]
    wanted: Float[Array, " 2"]


def _exclusive_sums(values: Array, ray: Array, longest: int) -> Array:
    """Within each ray, the sum of the values before this one; rays are contiguous runs.

    Doubling distances (Hillis and Steele): log2(longest) shifts, exact at run borders.
    """

    def before(x, distance):
        return jnp.concatenate([jnp.zeros(distance, x.dtype), x[:-distance]])

    def same(distance):
        return jnp.concatenate([jnp.zeros(distance, bool), ray[distance:] == ray[:-distance]])

    total = jnp.where(same(1), before(values, 1), 0.0)
    distance = 1
    while distance < min(longest, values.shape[0]):
        total = total + jnp.where(same(distance), before(total, distance), 0.0)
        distance *= 2
    return total


def composite_weights(
    density: Float[Array, " K"],
    length: Float[Array, " K"],
    ray: Int[Array, " K"],
    longest: int,
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Weight of each sample and the share of light that reaches it.

    Args:
      density, length, ray: as in `Samples`, sorted by ray and distance.
      longest: at least the number of samples of any ray.
    """
    tau = density * length
    reaches = jnp.exp(-_exclusive_sums(tau, ray, longest))
    return reaches * -jnp.expm1(-tau), reaches


def per_ray(values: Array, ray: Array, num_rays: int) -> Array:
    """Sums values [K] or [K, C] over the samples of each ray, [num_rays] or [num_rays, C].

    A channel at a time: the scatter of [K, C] rows has them 128 wide on a TPU, 6.4 GB for the 12.6
    million samples of an iteration at 256x256.
    """

    def add(column):
        return jax.ops.segment_sum(column, ray, num_rays, indices_are_sorted=True)

    if values.ndim == 1:
        return add(values)
    return jnp.stack([add(values[:, i]) for i in range(values.shape[1])], -1)


def chunked(fn, chunk: int, *arrays, used: Int[Array, ""] | None = None):
    """fn(*arrays), in chunks along the first axis whose activations are computed again.

    A chunk of 0 takes all at once.

    Args:
      fn: of arrays [K, ...] to arrays [K, ...], row by row.
      used: how many rows matter, the first ones. Chunks behind them are not computed and come out
        as zeros: slots are made for the fullest iteration, and most iterations fill a part of them.
    """
    size = arrays[0].shape[0]
    if not chunk or size <= chunk:
        return fn(*arrays)
    padded = -(-size // chunk) * chunk
    parts = [
        jnp.pad(a, [(0, padded - size)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, chunk, *a.shape[1:])
        for a in arrays
    ]

    def one(start, rows):
        if used is None:
            return fn(*rows)
        shapes = jax.eval_shape(fn, *rows)
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        again = jax.checkpoint(lambda rows: fn(*rows))  # so that a branch hands on no activations
        return jax.lax.cond(start < used, again, lambda rows: nothing, rows)

    starts = jnp.arange(0, padded, chunk)
    out = jax.lax.map(jax.checkpoint(lambda each: one(*each)), (starts, tuple(parts)))
    return jax.tree.map(lambda a: a.reshape(padded, *a.shape[2:])[:size], out)


def points(rays_o: Array, rays_d: Array, ray: Array, t: Array) -> Float[Array, "N 3"]:
    """Where samples are; to be called within a chunk, since [N, 3] is wide on a TPU."""
    return rays_o[ray] + t[:, None] * rays_d[ray]


def place_samples(
    key: jax.Array | None,
    params: dict,
    rays_o: Float[Array, "R 3"],
    rays_d: Float[Array, "R 3"],
    grid: Grid | None,
    spec: RenderSpec,
    field_spec: FieldSpec,
) -> tuple[Samples, Float[Array, " 2"]]:
    """Chooses the samples to render, without gradients, and how full the slots are.

    nerfacc 0.5.2's rule (OccGridEstimator.sampling): of the steps in occupied cells those whose
    opacity is at least min(alpha_threshold, mean of the grid) and that light reaches.
    """
    rays = rays_o.shape[0]
    candidates = round(spec.candidates * rays)
    samples = sampling.march(
        key, rays_o, rays_d, None if grid is None else grid.occupied, slots=candidates,
        step_size=spec.step_size, radius=field_spec.radius, bound=spec.bound,
    )  # fmt: skip
    full = samples.wanted / candidates
    params = jax.lax.stop_gradient(params)
    longest = sampling.max_steps(spec.step_size, field_spec.radius, spec.bound)

    def density_at(ray, t):
        return field.density(params, points(rays_o, rays_d, ray, t), field_spec)

    # without gradients parts cost next to nothing, and those that no ray asked for are left out
    part = min(spec.chunk or candidates, -(-candidates // PARTS))
    density = chunked(density_at, part, samples.ray, samples.t, used=samples.wanted)
    _, reaches = composite_weights(density, samples.length, samples.ray, longest)
    alpha = -jnp.expm1(-density * spec.step_size)  # of one step, also where samples were thinned
    lowest = spec.alpha_threshold
    if grid is not None:
        lowest = grid.alpha_threshold(spec.alpha_threshold, spec.step_size)
    useful = (alpha >= lowest) & (reaches >= spec.early_stop)
    slots = round(min(spec.samples, spec.candidates) * rays)
    kept = sampling.keep(samples, useful, slots)
    there = kept.wanted * jnp.maximum(full, 1.0)  # each thinned candidate stands for so many
    return kept, jnp.stack([full, there / slots]).astype(jnp.float32)


def subset(key: jax.Array, samples: Samples, slots: int) -> tuple[Array, Array]:
    """Indices of `slots` used samples spread evenly, and how many samples each stands for."""
    used = jnp.sum(samples.valid).astype(jnp.float32)
    stretch = jnp.maximum(used / slots, 1.0)
    index = jnp.floor((jnp.arange(slots) + jax.random.uniform(key)) * stretch).astype(jnp.int32)
    return jnp.minimum(index, samples.ray.shape[0] - 1), stretch


def render(
    key: jax.Array | None,
    params: dict,
    rays_o: Float[Array, "R 3"],
    rays_d: Float[Array, "R 3"],
    grid: Grid | None,
    spec: RenderSpec,
    field_spec: FieldSpec,
    background: float = 1.0,
    light: tuple[Array, Array, Array] | None = None,
) -> tuple[Rendering, Samples, Array]:
    """Renders rays.

    Args:
      key: for stratified samples (training), or None (evaluation).
      params: the field's.
      grid: the occupancy grid, or None for a dense render.
      background: grey level in [0, 1] behind everything.
      light: `shading.draw`'s kind and ambient, and the light's position for each ray [R, 3];
        None shows the albedo.

    Returns:
      The rendering, the samples it is made of, and their weights [K].
    """
    samples, wanted = place_samples(key, params, rays_o, rays_d, grid, spec, field_spec)
    rays = rays_o.shape[0]

    def evaluate(ray, t):
        x = points(rays_o, rays_d, ray, t)
        if light is None:
            return field.density_and_albedo(params, x, field_spec)
        density, colour, normal = field.density_albedo_and_normal(params, x, field_spec)
        return density, shading.shade(colour, normal, x, light[2][ray], light[1], light[0])

    density, colour = chunked(evaluate, spec.chunk, samples.ray, samples.t, used=samples.wanted)
    longest = sampling.max_steps(spec.step_size, field_spec.radius, spec.bound)
    weights, _ = composite_weights(density, samples.length, samples.ray, longest)
    values = jnp.concatenate([colour, samples.t[:, None], jnp.ones_like(density)[:, None]], -1)
    sums = per_ray(weights[:, None] * values, samples.ray, rays)
    opacity = sums[:, 4]
    rgb = sums[:, :3] + (1.0 - opacity[:, None]) * background
    return Rendering(rgb, opacity, sums[:, 3], wanted), samples, weights
