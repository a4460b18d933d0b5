"""Renders a field for people to look at: each ray until no light is left, nothing thinned.

A picture that is looked at needs no gradients, so the number of samples need not be fixed. A few
occupied steps of a ray are looked at together, front to back; as soon as a ray is opaque or at its
end, the next one takes its slot. Colours and normals are asked for where they have a weight. Shapes
are static all the same: one program does for any number of rays, in equal chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from iso3d_jax.nerf import field, sampling
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.occupancy import Grid
from iso3d_jax.nerf.render import RenderSpec

RUN = 8  # occupied steps of a ray that are looked at together
POINTS = 1 << 15  # looked at together
LOWEST_WEIGHT = 1e-5  # below it a sample changes no pixel by a tenth of a level
LARGEST_TABLE = 1 << 22  # steps of all rays of a chunk: bounds the memory


class Shown(NamedTuple):
    """What R rays show on white.

    Attributes:
      rgb: [R, 3]. A field that is shown with a harder edge than it was optimised with has the
        colours that its soft rim and what is behind it have together: the rim alone was hardly
        seen.
      opacity, depth: [R], of the field as it is shown; depth is weighted, 0 where nothing is hit.
      normal: [R, 3], the weighted mean.
      optimised_rgb, optimised_opacity: of the field before its edge was made harder.
      densest: [R], the largest density that counted, before the edge was made harder.
    """

    rgb: Float[Array | np.ndarray, "R 3"]
    opacity: Float[Array | np.ndarray, " R"]
    depth: Float[Array | np.ndarray, " R"]
    normal: Float[Array | np.ndarray, "R 3"]
    optimised_rgb: Float[Array | np.ndarray, "R 3"]
    optimised_opacity: Float[Array | np.ndarray, " R"]
    densest: Float[Array | np.ndarray, " R"]


def rays_at_once(spec: RenderSpec, field_spec: FieldSpec) -> int:
    """How many rays a chunk of bounded memory has; a power of two."""
    steps = sampling.max_steps(spec.step_size, field_spec.radius, spec.bound)
    return 1 << max(8, (LARGEST_TABLE // steps).bit_length() - 1)


def _densities(
    params: dict, rays_o: Array, rays_d: Array, t: Float[Array, "R S"], mask: Bool[Array, "R S"],
    spec: RenderSpec, field_spec: FieldSpec,
) -> Float[Array, "R S"]:  # fmt: skip
    """Density of the masked steps that light reaches; zero of the others."""
    rays, steps = mask.shape
    counts, each = jnp.sum(mask, -1), jnp.arange(steps, dtype=jnp.int32)
    rank = jnp.where(mask, jnp.cumsum(mask, -1) - 1, steps)
    order = jnp.full((rays, steps), steps, jnp.int32)  # of each ray, the steps of its mask
    order = order.at[jnp.arange(rays)[:, None], rank].set(each[None], mode="drop")
    hits = counts > 0
    place = jnp.where(hits, jnp.cumsum(hits) - 1, rays)
    queue = jnp.full(rays, rays).at[place].set(jnp.arange(rays), mode="drop")
    slots = min(POINTS // RUN, rays)

    def go_on(carry):
        return jnp.any(carry[0] < rays)

    def look(carry):
        ray, first, tau, begun, density = carry
        row = ray[:, None]
        step = order.at[row, first[:, None] + jnp.arange(RUN)].get(mode="fill", fill_value=steps)
        at = t.at[row, step].get(mode="fill", fill_value=0.0)[..., None]
        x = rays_o.at[row].get(mode="clip") + at * rays_d.at[row].get(mode="clip")
        found = field.density(params, x.reshape(-1, 3), field_spec).reshape(step.shape)
        found = jnp.where(step < steps, found, 0.0)
        density = density.at[row, step].set(found, mode="drop")
        tau = tau + jnp.sum(found, -1) * spec.step_size
        first = first + RUN
        ended = first >= counts.at[ray].get(mode="fill", fill_value=0)
        ended |= jnp.exp(-tau) < spec.early_stop
        following = queue.at[begun + jnp.cumsum(ended) - 1].get(mode="fill", fill_value=rays)
        return (
            jnp.where(ended, following, ray), jnp.where(ended, 0, first),
            jnp.where(ended, 0.0, tau), begun + jnp.sum(ended), density,
        )  # fmt: skip

    carry = (
        queue[:slots], jnp.zeros(slots, jnp.int32), jnp.zeros(slots),
        jnp.asarray(slots, jnp.int32), jnp.zeros((rays, steps)),
    )  # fmt: skip
    return jax.lax.while_loop(go_on, look, carry)[-1]


def _before(tau: Float[Array, "R S"]) -> Float[Array, "R S"]:
    """Within each ray, the sum of the values before each one."""
    return jnp.pad(jnp.cumsum(tau, -1)[:, :-1], ((0, 0), (1, 0)))


def _weighted_sums(weights: Float[Array, "R S"], values) -> Float[Array, "R 3"]:
    """Per ray the weighted sum of `values(ray, step)` [N, 3], asked where there is a weight."""
    rays, steps = weights.shape
    flat = weights.reshape(-1)
    counts = jnp.cumsum((flat > LOWEST_WEIGHT).astype(jnp.int32))
    total = counts[-1]

    def add(part, sums):
        rank = part * POINTS + jnp.arange(POINTS)
        index = jnp.searchsorted(counts, rank + 1, method="scan")
        ray = jnp.where(rank < total, index // steps, rays)
        found = values(jnp.minimum(ray, rays - 1), index % steps)
        found *= flat.at[index].get(mode="clip")[:, None]
        return sums.at[ray].add(found, mode="drop", indices_are_sorted=True)

    return jax.lax.fori_loop(0, -(-total // POINTS), add, jnp.zeros((rays, 3)))


def render_shown(
    params: dict,
    rays_o: Float[Array, "R 3"],
    rays_d: Float[Array, "R 3"],
    grid: Grid | None,
    spec: RenderSpec,
    field_spec: FieldSpec,
) -> Shown:
    """Renders rays on white; a step counts by the rule of `render.place_samples`.

    Args:
      grid: the occupancy grid, or None to look everywhere.
      spec: of it the step, the bound and the two thresholds.
    """
    soft = field.raw_field(params)
    occupied = None if grid is None else grid.occupied
    t, mask = sampling.find_steps(
        rays_o, rays_d, occupied, step_size=spec.step_size, radius=field_spec.radius,
        bound=spec.bound,
    )  # fmt: skip
    density = _densities(soft, rays_o, rays_d, t, mask, spec, field_spec)
    tau = density * spec.step_size
    lowest = spec.alpha_threshold
    if grid is not None:
        lowest = grid.alpha_threshold(spec.alpha_threshold, spec.step_size)
    kept = (-jnp.expm1(-tau) >= lowest) & (jnp.exp(-_before(tau)) >= spec.early_stop)
    kept &= density > 0

    def weigh(density):
        tau = jnp.where(kept, density * spec.step_size, 0.0)
        return jnp.exp(-_before(tau)) * -jnp.expm1(-tau)

    seen, solid = weigh(density), weigh(field.display_density(density, params))

    def place(ray, step):
        return rays_o[ray] + t[ray, step][:, None] * rays_d[ray]

    def colour(ray, step):
        return field.density_and_albedo(soft, place(ray, step), field_spec)[1]

    def normal(ray, step):
        return field.normal(soft, place(ray, step), field_spec)

    colours = _weighted_sums(seen, colour)
    seen_opacity, opacity = jnp.sum(seen, -1), jnp.sum(solid, -1)
    through = (1.0 - opacity)[:, None]
    rgb = opacity[:, None] * colours / jnp.maximum(seen_opacity, 1e-3)[:, None] + through
    return Shown(
        rgb, opacity, jnp.sum(solid * t, -1), _weighted_sums(solid, normal),
        colours + (1.0 - seen_opacity)[:, None], seen_opacity,
        jnp.max(jnp.where(kept, density, 0.0), -1),
    )  # fmt: skip
