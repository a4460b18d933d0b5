"""The losses of one iteration: score distillation, or the fit of a draft to sampled views."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from iso3d_jax.diffusion import classifier_free
from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.guidance import regularizers, sds
from iso3d_jax.guidance.annealing import draw_timestep
from iso3d_jax.models.vae import encode_pictures
from iso3d_jax.nerf import field, render, shading
from iso3d_jax.nerf.occupancy import Grid
from iso3d_jax.reconstruction import parallel
from iso3d_jax.reconstruction.init.hull import hull_loss
from iso3d_jax.reconstruction.spec import ReconstructionSpec

LOSSES = (
    "guidance", "reference_l2", "photometric", "mask", "hull", "orientation", "sparsity", "opaque"
)  # fmt: skip

# of `Rendering.wanted`: how full the slots of config.render.candidates and .samples are
WANTED = ("wanted_candidates", "wanted_samples")


class Denoiser(NamedTuple):
    """What SDS asks: the denoiser, the autoencoder, the picture's embedding and the schedule.

    The prepared picture itself, on white, is only for the ablation `loss.reference_l2`. `folded` is
    from `fold`; without it the denoiser looks at the embedding again in every iteration.
    """

    unet: Any
    vae: Any
    context: Float[Array, "1 L D"]
    alphas_cumprod: Float[Array, " T"]
    picture: Float[Array, "H W 3"] | None = None
    mask: Float[Array, "H W"] | None = None
    folded: Any = None


class Pictures(NamedTuple):
    """What a draft is fitted to: rays, the colours and masks seen along them, their hull."""

    rays_o: Float[Array, "R 3"]
    rays_d: Float[Array, "R 3"]
    rgb: Float[Array, "R 3"]
    mask: Float[Array, " R"]
    hull: Float[Array, "G G G"] | None = None


class DenoiserSpec(NamedTuple):
    """Static facts: the denoiser's, from the model's config, and the devices that ask it."""

    resolution: int
    scale_factor: float
    parameterization: str
    camera_encoding: str
    device_mesh: Mesh | None = None  # the devices that make one object together, see parallel.py


def fold(denoiser: Denoiser, groups: int) -> Denoiser:
    """The denoiser with all that its network makes of the embedding alone, for loops of iterations.

    Args:
      groups: of views in an iteration.
    """
    if not hasattr(denoiser.unet, "fold_context"):
        return denoiser
    return denoiser._replace(folded=denoiser.unet.fold_context(_contexts(denoiser, groups)))


def _contexts(denoiser: Denoiser, groups: int) -> Float[Array, "2*G 1 D"]:
    context = jnp.broadcast_to(denoiser.context, (groups, *denoiser.context.shape[1:]))
    return classifier_free.without_and_with(context)


def encode(
    vae, images: Float[Array, "N H W 3"], key: jax.Array, scale: float, memory: str
) -> Float[Array, "N h w C"]:
    """Scaled latents: a sample of the posterior, with gradient."""

    moments = functools.partial(encode_pictures, vae)

    if memory == "low":
        mean, logvar = jax.lax.map(
            lambda x: jax.tree.map(lambda y: y[0], jax.checkpoint(moments)(x[None])), images
        )
    else:
        mean, logvar = moments(images)
    mean, logvar = mean.astype(jnp.float32), logvar.astype(jnp.float32)
    std = jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))
    return (mean + std * jax.random.normal(key, mean.shape)) * scale


def white_mask(images: Float[Array, "... 3"], low=0.02, high=0.12) -> Float[Array, "..."]:
    """Soft masks of objects on white: how far the darkest channel is from white."""
    return jnp.clip((1.0 - jnp.min(images, -1) - low) / (high - low), 0.0, 1.0)


def _orientation(key, params, rays_o, rays_d, samples, weights, spec):
    """What the normals that face away add up to, on evenly spread samples."""
    slots = min(round(spec.render.normals * rays_o.shape[0]), samples.ray.shape[0])
    index, stretch = render.subset(key, samples, slots)

    def away(ray, t):
        direction = rays_d[ray]
        x = render.points(rays_o, rays_d, ray, t)
        return regularizers.facing_away(field.normal(params, x, spec.field), direction)

    # gradients of second order hold far more per sample than the render does: never all at once
    terms = render.chunked(
        away, spec.rays.chunk, samples.ray[index], samples.t[index], used=samples.wanted
    )
    return regularizers.orientation_sum(weights[index] * stretch, terms)


def active(weight) -> bool:
    """Whether a loss's weight, a number or a ramp, is ever other than zero."""
    return any(weight[1:3]) if isinstance(weight, tuple) else bool(weight)


def _scene(keys, shared, rays, *, spec: ReconstructionSpec, weight) -> tuple[tuple, dict]:
    """Renders rays and regularizes the scene that they see; a share of them, see `map_rays`.

    Args:
      keys: for the samples and for the normals.
      shared: parameters, occupancy grid, kind of shading and ambient light (or None).
      rays: rays_o, rays_d and, where there is shading, each ray's light.
      weight: of the losses on the scene alone; those that are the constant zero are left out.

    Returns:
      (rgb [R, 3], opacity [R]), and scalars for `_losses_on_scene`.
    """
    params, grid, kind, ambient = shared
    rays_o, rays_d = rays[0], rays[1]
    light = None if kind is None else (kind, ambient, rays[2])
    rendering, samples, weights = render.render(
        keys[0], params, rays_o, rays_d, grid, spec.rays, spec.field, light=light
    )
    opacity = rendering.opacity
    scalars = {"opacity": jnp.mean(opacity)} | dict(zip(WANTED, rendering.wanted, strict=True))
    if active(weight.orientation):
        scalars["orientation"] = _orientation(
            keys[1], params, rays_o, rays_d, samples, weights, spec
        )
        scalars["hit"] = jnp.sum((opacity > 0).astype(jnp.float32))
    if active(weight.sparsity):
        scalars["sparsity"] = regularizers.sparsity_loss(opacity)
    if active(weight.opaque):
        scalars["opaque"] = regularizers.opaque_loss(opacity)
    return (rendering.rgb, opacity), scalars


def _losses_on_scene(scalars: dict) -> tuple[dict, dict]:
    """The losses on the scene alone, and facts, from the scalars of all shares of the rays."""
    scalars = dict(scalars)
    facts = {"opacity": jnp.mean(scalars.pop("opacity"))}
    facts |= {name: jnp.max(scalars.pop(name)) for name in WANTED}
    losses = {}
    if "hit" in scalars:
        total, hit = (jnp.sum(scalars.pop(name)) for name in ("orientation", "hit"))
        losses["orientation"] = regularizers.orientation_loss(total, hit)
    return losses | {name: jnp.mean(value) for name, value in scalars.items()}, facts


def reference_loss(
    params: dict, denoiser: Denoiser, key: jax.Array, grid: Grid, resolution: int,
    spec: ReconstructionSpec,
) -> tuple[Float[Array, ""], Float[Array, " 2"]]:  # fmt: skip
    """Squared error of the scene seen from the picture's side against the picture (an ablation).

    The camera is assumed, as Zero123's users do: azimuth 0 and what `spec.reference` says. The mean
    over pixels and channels, plus `spec.reference.mask` times that of opacity against the mask.

    Returns:
      The loss, and `Rendering.wanted` of its render.
    """
    if denoiser.picture is None or denoiser.mask is None:
        raise ValueError("loss.reference_l2 needs a Denoiser with the picture and its mask")
    r = spec.reference
    rays_o, rays_d, _ = camera_sets.ring(1, r.elevation_deg, r.fov_deg, r.distance).rays(resolution)
    rendering, _, _ = render.render(key, params, rays_o, rays_d, grid, spec.rays, spec.field)
    wanted = jnp.concatenate([denoiser.picture, denoiser.mask[..., None]], -1)
    wanted = jax.image.resize(wanted, (resolution, resolution, 4), "linear").reshape(-1, 4)
    rgb = jnp.mean(jnp.square(rendering.rgb - wanted[:, :3]))
    outline = jnp.mean(jnp.square(rendering.opacity - wanted[:, 3]))
    return rgb + r.mask * outline, rendering.wanted


def sds_losses(
    params: dict, denoiser: Denoiser, key: jax.Array, step: Array, grid: Grid, *,
    spec: ReconstructionSpec, denoiser_spec: DenoiserSpec, phase: int,
) -> tuple[dict, dict]:  # fmt: skip
    """Losses of one SDS iteration, unweighted, and what else is worth reporting."""
    k_camera, k_render, k_encode, k_noise, k_t, k_light, k_normal = jax.random.split(key, 7)
    _, resolution, groups = spec.phases[phase]
    views = camera_sets.sample_cameras(k_camera, groups, spec.views, spec.camera)
    rays_o, rays_d, position = views.rays(resolution)
    kind = ambient = None
    rays = rays_o, rays_d
    if spec.shading.probability > 0 and spec.phase_end(phase) > spec.shading.start_step:
        kind, ambient, source = shading.draw(
            k_light, position.reshape(groups, spec.views, 3), step,
            start_step=spec.shading.start_step, probability=spec.shading.probability,
        )  # fmt: skip
        rays = *rays, jnp.repeat(source.reshape(-1, 3), resolution**2, 0)
    (rgb, opacity), scalars = parallel.map_rays(
        denoiser_spec.device_mesh, functools.partial(_scene, spec=spec, weight=spec.loss),
        (k_render, k_normal), (params, grid, kind, ambient), rays,
    )  # fmt: skip
    rendered = rgb.reshape(-1, resolution, resolution, 3)  # [G*V, H, W, 3]
    shape = (rendered.shape[0], denoiser_spec.resolution, denoiser_spec.resolution, 3)
    images = jax.image.resize(rendered, shape, "linear", antialias=False)
    images = parallel.split(denoiser_spec.device_mesh, images)
    latents = encode(denoiser.vae, images, k_encode, denoiser_spec.scale_factor, spec.memory)
    latents = parallel.gather(denoiser_spec.device_mesh, latents).reshape(
        groups, spec.views, *latents.shape[1:]
    )

    g = spec.guidance
    t = draw_timestep(k_t, step, g.low, g.high, denoiser.alphas_cumprod.shape[0])
    camera = camera_condition(
        views.elevation_deg, views.azimuth_deg, denoiser_spec.camera_encoding,
        fov_deg=views.fov_deg, distance=views.distance,
    )  # fmt: skip
    contexts = _contexts(denoiser, groups) if denoiser.folded is None else denoiser.folded

    def denoise(z_t, t, contexts, camera):
        inputs = jax.tree.map(
            functools.partial(parallel.split, denoiser_spec.device_mesh), (z_t, t, contexts, camera)
        )
        return parallel.gather(denoiser_spec.device_mesh, denoiser.unet(*inputs))

    guidance, _ = sds.score_distillation(
        denoise, latents, jax.random.normal(k_noise, latents.shape), t, denoiser.alphas_cumprod[t],
        contexts, camera, parameterization=denoiser_spec.parameterization, scale=g.scale,
        rescale=g.rescale, kind=g.loss,
    )  # fmt: skip
    on_scene, facts = _losses_on_scene(scalars)
    losses = {"guidance": guidance} | on_scene
    if active(spec.loss.reference_l2):
        # Folded in, not split off: without this loss a run draws what it drew before.
        losses["reference_l2"], wanted = reference_loss(
            params, denoiser, jax.random.fold_in(key, 7), grid, resolution, spec
        )
        for name, value in zip(WANTED, wanted, strict=True):
            facts[name] = jnp.maximum(facts[name], value)
    return losses, facts | {"t": t}


def views_losses(
    params: dict, pictures: Pictures, key: jax.Array, step: Array, grid: Grid, *,
    spec: ReconstructionSpec, denoiser_spec: DenoiserSpec, phase: int,
) -> tuple[dict, dict]:  # fmt: skip
    """Losses of one iteration of fitting given views, unweighted, and what else to report."""
    del step, phase
    k_rays, k_render, k_normal = jax.random.split(key, 3)
    index = jax.random.randint(k_rays, (spec.draft.rays,), 0, pictures.rgb.shape[0])
    rays_o, rays_d, rgb, mask = (x[index] for x in pictures[:4])
    (seen, opacity), scalars = parallel.map_rays(
        denoiser_spec.device_mesh, functools.partial(_scene, spec=spec, weight=spec.draft),
        (k_render, k_normal), (params, grid, None, None), (rays_o, rays_d),
    )  # fmt: skip
    losses = {
        "photometric": jnp.mean(jnp.square(seen - rgb)),
        "mask": regularizers.cross_entropy(opacity, mask),
    }
    if pictures.hull is not None:
        losses["hull"] = hull_loss(
            params, pictures.hull, jax.random.fold_in(key, 3), spec.field,
            points=spec.draft.rays, step_size=spec.render.step_size,
        )  # fmt: skip
    on_scene, facts = _losses_on_scene(scalars)
    return losses | on_scene, facts
