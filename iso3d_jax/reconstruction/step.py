"""One iteration of the optimisation, and the compiled program that runs many of them.

Everything a program needs is an argument: the networks, the picture's embedding, the schedule, the
sampled views. Nothing is closed over, so that another picture or other weights do not compile
again. Iterations run in a loop on the device with a number of turns that is an argument too: one
program serves any range of iterations, and a resumed run computes bit by bit what an unbroken one
does.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import FrozenConfigDict

from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.guidance import regularisers, sds
from iso3d_jax.guidance.annealing import draw_timestep, ramp
from iso3d_jax.nerf import field, occupancy, render, shading
from iso3d_jax.reconstruction import cameras
from iso3d_jax.reconstruction.settings import field_spec, render_spec
from iso3d_jax.reconstruction.state import State, optimiser

LOSSES = (
    "guidance", "reference_l2", "photometric", "mask", "orientation", "sparsity", "opaque"
)  # fmt: skip


class Prior(NamedTuple):
    """What SDS asks: the denoiser, the autoencoder, the picture's embedding and the schedule.

    The prepared picture itself, on white, is only for the ablation `loss.reference_l2`.
    """

    unet: Any
    vae: Any
    context: Float[Array, "1 L D"]
    alphas_cumprod: Float[Array, " T"]
    picture: Float[Array, "H W 3"] | None = None
    mask: Float[Array, "H W"] | None = None


class Pictures(NamedTuple):
    """What a draft is fitted to: rays and the colours and masks seen along them."""

    rays_o: Float[Array, "R 3"]
    rays_d: Float[Array, "R 3"]
    rgb: Float[Array, "R 3"]
    mask: Float[Array, " R"]


class PriorSpec(NamedTuple):
    """Static facts about the prior, from the model's config."""

    resolution: int
    scale_factor: float
    parameterization: str
    camera_encoding: str


def encode(
    vae, images: Float[Array, "N H W 3"], key: jax.Array, scale: float, memory: str
) -> Float[Array, "N h w C"]:
    """Scaled latents: a sample of the posterior, with gradient (reference 4.4)."""

    def moments(images):
        return vae.encode(images * 2.0 - 1.0)

    if memory == "low":
        mean, logvar = jax.lax.map(
            lambda x: jax.tree.map(lambda y: y[0], jax.checkpoint(moments)(x[None])), images
        )
    else:
        mean, logvar = moments(images)
    mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
    std = jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))
    return (mean + std * jax.random.normal(key, mean.shape)) * scale


def _orientation(key, params, rays_o, rays_d, samples, weights, opacity, cfg):
    """Orientation loss on evenly spread samples that stand for all."""
    slots = min(round(cfg.render.normals * rays_o.shape[0]), samples.ray.shape[0])
    index, stretch = render.subset(key, samples, slots)

    def away(ray, t):
        direction = rays_d[ray]
        normal = field.normal(params, rays_o[ray] + t[:, None] * direction, field_spec(cfg))
        return regularisers.facing_away(normal, direction)

    # gradients of second order hold far more per sample than the render does: never all at once
    terms = render.chunked(away, render_spec(cfg).chunk, samples.ray[index], samples.t[index])
    hit = jnp.sum((opacity > 0).astype(jnp.float32))
    return regularisers.orientation_loss(weights[index] * stretch, terms, hit)


def active(weight) -> bool:
    """Whether a loss's weight, a number or a ramp, is ever other than zero."""
    return any(weight[1:3]) if isinstance(weight, tuple) else bool(weight)


def _regularise(key, params, rays_o, rays_d, samples, weights, opacity, weight, cfg) -> dict:
    """The losses on the scene alone whose weight is not the constant zero."""
    losses = {}
    if active(weight.orientation):
        losses["orientation"] = _orientation(
            key, params, rays_o, rays_d, samples, weights, opacity, cfg
        )
    if active(weight.sparsity):
        losses["sparsity"] = regularisers.sparsity_loss(opacity)
    if active(weight.opaque):
        losses["opaque"] = regularisers.opaque_loss(opacity)
    return losses


def reference_loss(
    params: dict, prior: Prior, key: jax.Array, occupied: Array, resolution: int,
    cfg: FrozenConfigDict,
) -> Float[Array, ""]:  # fmt: skip
    """Squared error of the scene seen from the picture's side against the picture (an ablation).

    The camera is assumed, as Zero123's users do: azimuth 0 and what `cfg.reference` says. The mean
    over pixels and channels, plus `cfg.reference.mask` times that of opacity against the mask.
    """
    if prior.picture is None or prior.mask is None:
        raise ValueError("loss.reference_l2 needs a Prior with the picture and its mask")
    r = cfg.reference
    rays_o, rays_d, _ = cameras.ring(1, r.elevation_deg, r.fov_deg, r.distance).rays(resolution)
    rendering, _, _ = render.render(
        key, params, rays_o, rays_d, occupied, render_spec(cfg), field_spec(cfg)
    )
    wanted = jnp.concatenate([prior.picture, prior.mask[..., None]], -1)
    wanted = jax.image.resize(wanted, (resolution, resolution, 4), "linear").reshape(-1, 4)
    rgb = jnp.mean(jnp.square(rendering.rgb - wanted[:, :3]))
    return rgb + r.mask * jnp.mean(jnp.square(rendering.opacity - wanted[:, 3]))


def sds_losses(
    params: dict, prior: Prior, key: jax.Array, step: Array, occupied: Array, *,
    cfg: FrozenConfigDict, spec: PriorSpec, phase: int,
) -> tuple[dict, dict]:  # fmt: skip
    """Losses of one SDS iteration, unweighted, and what else is worth reporting."""
    k_camera, k_render, k_encode, k_noise, k_t, k_light, k_normal = jax.random.split(key, 7)
    _, resolution, groups = cfg.phases[phase]
    views = cameras.draw(k_camera, groups, cfg.views, **cfg.camera.to_dict())
    rays_o, rays_d, position = views.rays(resolution)
    light = None
    if cfg.shading.probability > 0 and phase_end(cfg, phase) > cfg.shading.start_step:
        kind, ambient, source = shading.draw(
            k_light, position, step, start_step=cfg.shading.start_step,
            probability=cfg.shading.probability,
        )  # fmt: skip
        light = kind, ambient, jnp.repeat(source, resolution**2, 0)
    rendering, samples, weights = render.render(
        k_render, params, rays_o, rays_d, occupied, render_spec(cfg), field_spec(cfg), light=light
    )
    images = rendering.rgb.reshape(-1, resolution, resolution, 3)  # [G*V, H, W, 3]
    shape = (images.shape[0], spec.resolution, spec.resolution, 3)
    images = jax.image.resize(images, shape, "linear", antialias=False)
    latents = encode(prior.vae, images, k_encode, spec.scale_factor, cfg.memory)
    latents = latents.reshape(groups, cfg.views, *latents.shape[1:])

    g = cfg.guidance
    t = draw_timestep(k_t, step, g.low, g.high, prior.alphas_cumprod.shape[0])
    camera = camera_condition(views.elevation_deg, views.azimuth_deg, spec.camera_encoding)
    context = jnp.broadcast_to(prior.context, (groups, *prior.context.shape[1:]))
    guidance, _ = sds.score_distillation(
        prior.unet, latents, jax.random.normal(k_noise, latents.shape), t, prior.alphas_cumprod[t],
        context, camera, parameterization=spec.parameterization, scale=g.scale,
        rescale=g.rescale, kind=g.loss,
    )  # fmt: skip
    losses = {"guidance": guidance} | _regularise(
        k_normal, params, rays_o, rays_d, samples, weights, rendering.opacity, cfg.loss, cfg
    )
    if active(cfg.loss.get("reference_l2", 0.0)):
        # Folded in, not split off: without this loss a run draws what it drew before.
        losses["reference_l2"] = reference_loss(
            params, prior, jax.random.fold_in(key, 7), occupied, resolution, cfg
        )
    facts = {"opacity": jnp.mean(rendering.opacity), "t": t, "slots": jnp.max(rendering.wanted)}
    return losses, facts


def views_losses(
    params: dict, pictures: Pictures, key: jax.Array, step: Array, occupied: Array, *,
    cfg: FrozenConfigDict, spec: PriorSpec, phase: int,
) -> tuple[dict, dict]:  # fmt: skip
    """Losses of one iteration of fitting given views, unweighted, and what else to report."""
    del step, spec, phase
    k_rays, k_render, k_normal = jax.random.split(key, 3)
    index = jax.random.randint(k_rays, (cfg.draft.rays,), 0, pictures.rgb.shape[0])
    rays_o, rays_d, rgb, mask = (x[index] for x in pictures)
    rendering, samples, weights = render.render(
        k_render, params, rays_o, rays_d, occupied, render_spec(cfg), field_spec(cfg)
    )
    opacity = jnp.clip(rendering.opacity, 1e-3, 1 - 1e-3)
    losses = {
        "photometric": jnp.mean(jnp.square(rendering.rgb - rgb)),
        "mask": -jnp.mean(mask * jnp.log(opacity) + (1 - mask) * jnp.log1p(-opacity)),
    }
    losses |= _regularise(
        k_normal, params, rays_o, rays_d, samples, weights, rendering.opacity, cfg.draft, cfg
    )
    facts = {"opacity": jnp.mean(rendering.opacity), "slots": jnp.max(rendering.wanted)}
    return losses, facts


def phase_of(cfg, step: int) -> int:
    """Index of the phase that iteration `step` (counted from 0) belongs to."""
    return next(i for i, (until, *_) in enumerate(cfg.phases) if step < until)


def phase_end(cfg, phase: int) -> int:
    """The iteration at which a phase ends."""
    return min(cfg.phases[phase][0], cfg.steps)


def loss_weights(cfg, step: Array) -> dict[str, Array]:
    """Weight of each loss at this iteration."""
    if cfg.mode == "views":
        weights = {"photometric": 1.0, **{k: cfg.draft[k] for k in LOSSES if k in cfg.draft}}
    else:
        weights = {k: cfg.loss[k] for k in LOSSES if k in cfg.loss}
    return {name: ramp(value, step) for name, value in weights.items()}


def update_occupancy(state: State, key: jax.Array, cfg) -> State:
    """Measures the occupancy grid when it is time to."""
    o, spec = cfg.occupancy, field_spec(cfg)

    def measure(occs):
        return occupancy.update(
            key, occs, lambda x: field.density(state.params, x, spec), state.step,
            resolution=o.resolution, radius=spec.radius, step_size=cfg.render.step_size,
            decay=o.decay, threshold=o.threshold, warmup=o.warmup,
        )  # fmt: skip

    occs = jax.lax.cond(state.step % o.every == 0, measure, lambda occs: occs, state.occs)
    return state._replace(occs=occs)


def train_step(
    state: State, source: Prior | Pictures, *, cfg: FrozenConfigDict, spec: PriorSpec, phase: int
) -> tuple[State, dict[str, Array]]:
    """One iteration: occupancy, losses, AdamW. A step that is not finite leaves the state alone.

    Args:
      source: what to follow, a `Prior` (SDS) or `Pictures` (a draft).
      phase: index into `cfg.phases`.

    Returns:
      The new state and scalars: every loss unweighted, the total, opacity, t.
    """
    key = jax.random.fold_in(jax.random.key(cfg.seed), state.step)
    k_occupancy, k_losses = jax.random.split(key)
    state = update_occupancy(state, k_occupancy, cfg)
    occupied = occupancy.occupied(state.occs, cfg.occupancy.threshold)
    weights = loss_weights(cfg, state.step)
    losses_of = sds_losses if cfg.mode == "sds" else views_losses

    def total(params):
        losses, facts = losses_of(
            params, source, k_losses, state.step, occupied, cfg=cfg, spec=spec, phase=phase
        )
        value = sum(weights[name] * loss for name, loss in losses.items())
        return value, losses | facts | {"total": value}

    grads, metrics = jax.grad(total, has_aux=True)(state.params)
    square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    metrics["gradient"] = jnp.sqrt(square)
    updates, opt_state = optimiser(cfg).update(grads, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    finite = jnp.isfinite(metrics["total"]) & jnp.isfinite(square)
    new = State(state.step + 1, params, opt_state, state.occs)
    state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    return state, {name: jnp.float32(value) for name, value in metrics.items()}


@functools.partial(
    jax.jit, static_argnames=("capacity", "cfg", "spec", "phase"), donate_argnames="state"
)
def run_steps(
    state: State,
    source: Prior | Pictures,
    count: Array,
    *,
    capacity: int,
    cfg: FrozenConfigDict,
    spec: PriorSpec,
    phase: int,
) -> tuple[State, dict[str, Array]]:
    """Runs `count` iterations on the device.

    Args:
      count: number of iterations, at most `capacity`.

    Returns:
      The new state, and `train_step`'s scalars as arrays [capacity], zero beyond `count`.
    """
    step = functools.partial(train_step, cfg=cfg, spec=spec, phase=phase)
    shapes = jax.eval_shape(step, state, source)[1]
    record = {name: jnp.zeros(capacity, jnp.float32) for name in shapes}

    def body(index, carry):
        state, record = carry
        state, metrics = step(state, source)
        return state, {name: record[name].at[index].set(metrics[name]) for name in record}

    return jax.lax.fori_loop(0, count, body, (state, record))
