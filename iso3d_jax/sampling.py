"""Views of one object from one picture, by DDIM with classifier-free guidance (paper, section 3).

The picture's image embedding is the only context token. The unconditional branch gets zeros, and
both branches go through the network in one batch, unconditional first (the released
guidance, isotropic/ldm: `generate`). The loop over timesteps is one `lax.scan` in one program,
which depends only on the number of pictures, views and steps: other pictures, seeds, cameras,
guidance scales and weights do not compile again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.pictures import prepare_picture
from iso3d_jax.diffusion import classifier_free, ddim
from iso3d_jax.geometry import cameras
from iso3d_jax.models.unet import MultiViewUNet, UNetWithReference
from iso3d_jax.models.vae import decode_pictures, encode_pictures

if TYPE_CHECKING:
    from iso3d_jax.weights.bundle import Model
    from iso3d_jax.weights.model_spec import ModelSpec

ELEVATION_DEG = 15.0  # this and the following: the released script's
DEFAULTS = dict(guidance_scale=10.0, eta=1.0, temperature=1.0, steps=50, spacing="leading")
# How views may be drawn in place of the model's own way. Few steps without noise end near the mean
# of what a picture may show, which scores best pixel by pixel and is a blur; `sharp` is one of the
# things that it may show, drawn with all of the noise.
LOOKS = {"own": {}, "sharp": dict(steps=25, eta=1.0, temperature=1.0)}


def settings(config: ModelSpec, look: str = "own", **given) -> dict[str, Any]:
    """How a model's views are drawn: arguments of `sample_latents`.

    Args:
      config: the model's; may have its own guidance_scale, eta, temperature, steps and spacing.
      look: a name of `LOOKS`, whose values come before those.
      given: values that come before both, where they are not None.

    Raises:
      UserError: there is no such look.
    """
    if look not in LOOKS:
        raise UserError(f"the look '{look}' is not one of {', '.join(LOOKS)}")
    own = DEFAULTS | {name: getattr(config, name) for name in DEFAULTS if config.has(name)}
    own |= LOOKS[look]
    own |= {name: value for name, value in given.items() if value is not None}
    return own | {
        "latent_shape": config.latent_shape, "parameterization": config.parameterization,
    }  # fmt: skip


def sample_views(
    model: Model,
    pictures: Sequence[np.ndarray],
    *,
    num_views: int = 4,
    elevation_deg: float = ELEVATION_DEG,
    azimuth_deg: float = 0.0,
    fov_deg: float = cameras.FOV_DEG,
    scale: float = cameras.SCALE,
    look: str = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    prepare: str | None = None,
) -> Float[np.ndarray, "B V H W 3"]:
    """Draws views evenly round the object for each picture.

    Args:
      model: from `load_model`.
      pictures: RGBA uint8 [H, W, 4] from `load_picture`, or pictures already prepared, float
        [resolution, resolution, 3] in [0, 1] on white.
      num_views: views of one object, which look at each other while they are drawn.
      elevation_deg: of all views, degrees above the horizon.
      azimuth_deg: of the first view; 0 is the picture's own side, and the others follow
        counter-clockwise seen from above, 360 / num_views apart.
      fov_deg, scale: field of view, and distance in units of 1 / tan(fov / 2), for models that are
        told them (`geometry.cameras.WITH_LENS`); the others draw the average over their training.
      look: a name of `LOOKS`: `own` as the model says, or `sharp`.
      steps: DDIM steps; the look's number if None.
      guidance_scale: 1 follows the embedding alone, more exaggerates it; the model's own if None.
      eta: 0 is deterministic DDIM, 1 adds DDPM's noise; the look's if None.
      temperature: of eta's noise; below 1 views are smoother and nearer to what is likeliest; the
        look's if None.
      seed: of the noise. The same seed and picture give the same views, alone or in a batch.
      prepare: how pictures are fitted to the frame, a name of `data.pictures.MODES`; the model's
        own if None.

    Returns:
      float32 in [0, 1], on white.
    """
    config = model.config
    prepared = prepare_all(model, pictures, prepare)
    if needs_reference(model) and len(prepared) > 1:  # each with its own reference beside the views
        sample_one = functools.partial(
            sample_views, model,
            num_views=num_views, elevation_deg=elevation_deg, azimuth_deg=azimuth_deg,
            fov_deg=fov_deg, scale=scale, look=look, steps=steps, guidance_scale=guidance_scale,
            eta=eta, temperature=temperature, seed=seed,
        )  # fmt: skip
        return np.concatenate([sample_one([picture]) for picture in prepared])
    context = embed_pictures(model, prepared)  # [B, 1, D]
    latents = sample_latents(
        network_for(model, prepared[0]),
        context,
        camera_conditions(
            config.sampling_cameras, num_views, elevation_deg, azimuth_deg, fov_deg, scale
        ),
        model.alphas_cumprod,
        jax.random.key(seed),
        **settings(
            config,
            look,
            steps=steps,
            guidance_scale=guidance_scale,
            eta=eta,
            temperature=temperature,
        ),
    )
    return np.asarray(decode_views(model.vae, latents / config.scale_factor))


def prepare_all(
    model: Model, pictures: Sequence[np.ndarray], prepare: str | None = None
) -> Float[np.ndarray, "B H W 3"]:
    """The pictures as the model's image encoder wants them, or as `prepare` says."""
    resolution, mode = model.config.resolution, prepare or model.config.picture
    return np.stack(
        [
            prepare_picture(picture, resolution, mode)
            if picture.dtype == np.uint8
            else np.asarray(picture, np.float32)
            for picture in pictures
        ]
    )


def embed_pictures(
    model: Model, prepared: Float[Array | np.ndarray, "B H W 3"]
) -> Float[Array, "B 1 D"]:
    """The context of each prepared picture: its image embedding, one token."""
    return _embed(model.clip, jnp.asarray(prepared))[:, None]


def _unet(model: Model) -> MultiViewUNet:
    if model.unet is None:
        raise ValueError("the model was loaded without its denoiser")
    return model.unet


def needs_reference(model: Model) -> bool:
    """Whether the model sees the picture's latents beside every view (the ablation CCR)."""
    return bool(_unet(model).config.reference_channels)


def network_for(model: Model, prepared: Float[Array | np.ndarray, "H W 3"]):
    """The UNet that draws from this picture: the model's own, with its reference where it has one.

    Args:
      prepared: the prepared picture in [0, 1].
    """
    if not needs_reference(model):
        return _unet(model)
    latent = _encode(model.vae, jnp.asarray(prepared, jnp.float32)) * model.config.scale_factor
    return UNetWithReference(_unet(model), latent)


def camera_conditions(
    encoding: str,
    num_views: int,
    elevation_deg: float,
    azimuth_deg: float,
    fov_deg: float = cameras.FOV_DEG,
    scale: float = cameras.SCALE,
) -> Float[Array, "V 16"]:
    """Camera vectors of evenly spaced views.

    Args:
      encoding: a model's `sampling_cameras`.
      fov_deg, scale: as of `sample_views`.
    """
    azimuths = cameras.orthogonal_azimuths(azimuth_deg, num_views)
    return cameras.camera_condition(
        jnp.full(num_views, elevation_deg, jnp.float32),
        azimuths,
        encoding,
        fov_deg=fov_deg,
        distance=cameras.distance_of(fov_deg, scale),
    )


@functools.partial(
    jax.jit, static_argnames=("latent_shape", "steps", "parameterization", "spacing")
)
def sample_latents(
    unet,
    context: Float[Array, "B 1 D"],
    camera: Float[Array, "V 16"],
    alphas_cumprod: Float[Array, " T"],
    key: jax.Array,
    guidance_scale: Float[Array, ""],
    eta: Float[Array, ""],
    *,
    latent_shape: tuple[int, int, int],
    steps: int,
    parameterization: str,
    temperature: float | Float[Array, ""] = 1.0,
    spacing: str = "leading",
) -> Float[Array, "B V h w C"]:
    """Runs the whole DDIM loop; latents come out as the network saw them (scaled).

    Each object is drawn with the same noise, whatever else is in the batch.
    """
    num_views = camera.shape[0]
    start_key, loop_key = jax.random.split(key)
    z_T = jax.random.normal(start_key, (1, num_views, *latent_shape))

    def one_object(token):  # token [1, D]
        contexts = classifier_free.without_and_with(token[None])
        folded = unet.fold_context(contexts)  # once a picture, not once a step

        def denoise(z_t, t):
            outputs = classifier_free.predict_both(unet, z_t, t, folded, camera[None])
            return classifier_free.guide(*outputs, guidance_scale)

        return ddim.sample(
            denoise, z_T, loop_key, alphas_cumprod,
            steps=steps, eta=eta, parameterization=parameterization, temperature=temperature,
            spacing=spacing,
        )[0]  # fmt: skip

    if context.shape[0] == 1:
        return one_object(context[0])[None]
    return jax.vmap(one_object)(context)


@jax.jit
def decode_views(vae, latents: Float[Array, "B V h w C"]) -> Float[Array, "B V H W 3"]:
    """Unscaled latents to pictures in [0, 1]."""
    flat = latents.reshape(-1, *latents.shape[2:])  # [B*V, h, w, C]
    images = jnp.clip(decode_pictures(vae, flat), 0.0, 1.0).astype(jnp.float32)
    return images.reshape(*latents.shape[:2], *images.shape[1:])


@jax.jit
def _encode(vae, image: Float[Array, "H W 3"]) -> Float[Array, "1 1 h w C"]:
    return encode_pictures(vae, image[None])[0][None]


@jax.jit
def _embed(clip, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
    return clip(clip.preprocess(images))


def check_options(num_views: int, elevation_deg: float, steps: int | None) -> None:
    """Refuses numbers of the sampling commands that make no sense."""
    if not 1 <= num_views <= 64:
        raise UserError(f"the number of views is between 1 and 64, not {num_views}")
    if not -90 < elevation_deg < 90:
        raise UserError(f"the elevation is between -90 and 90 degrees, not {elevation_deg:g}")
    if steps is not None and not 1 <= steps <= 999:
        raise UserError(f"the number of steps is between 1 and 999, not {steps}")
