"""Stages 1 and 2: training of the multi-view UNet.

Stage 1 (paper, section 3): the context is one image embedding instead of text tokens. Branch
`1-a` sees a single view, branch `1-b` four orthogonal ones.

Stage 2 (paper, Figures 2 and 4): Explicit Multi-view Attention. The noise-free reference view
joins the noisy views as the first view, at timestep 0, so that its tokens take part in every
joint self-attention; its output is not in the loss. Of the steps with the reference 30% are of
branch `2-a` (one view and the reference) and 70% of `2-b` (four and the reference).

No training code was released, and these are choices of ours: that the reference comes with its own
true elevation, at azimuth 0 of the relative frame, and that a quarter of the steps of stage 2 goes
without it (`reference_dropout`), so that inference without it stays in distribution. So of all
steps 22.5% are 2-a, 52.5% 2-b, 7.5% 1-a and 17.5% 1-b; with `reference_dropout` 0 they are the
paper's 30% and 70%.

Branch `0-a` (`picture_share` of all steps, none by default) is of plain pictures, as MVDream's 30%
of 2-D data: one view, so that no attention joins views, its own embedding as the context, and no
camera, whose part of the time embedding is left out.

Where a row's embedding is dropped its reference stays, unless `reference_dropped_with_embedding`:
then its reference latent is zeros, as ImageDream's branch without conditions has a zero embedding
and a zero `ip_img`. Zeros and no mask: rows of a batch share one program; the steps without a
reference are what teaches the network to do without.

Ablations (`cfg.reference`): "attention" is the method; "channels" hands the reference to every
noisy view as further input channels instead (the project page's CCR).
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp

from iso3d_jax.core.errors import UserError
from iso3d_jax.diffusion.schedule import add_noise, make_schedule, training_target
from iso3d_jax.models.params import merge_params, split_shapes
from iso3d_jax.models.unet import MultiViewUNet, NoCamera
from iso3d_jax.models.vae import sample_posterior
from iso3d_jax.training import sharding
from iso3d_jax.training.gradients import value_and_gradients
from iso3d_jax.training.spec import StageSpec
from iso3d_jax.training.state import TrainState, apply_gradients, step_key
from iso3d_jax.training.tasks import trainable

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_unet(cfg: StageSpec):
    """The UNet as a config trains it: its compute type and what it keeps for the backward pass."""
    from iso3d_jax.weights import bundle

    dtype = DTYPES[cfg.dtype]
    unet = bundle.build_network("unet", cfg.model, cfg.seed, dtype=dtype)
    unet.remat = cfg.remat
    return unet


def abstract_unet(cfg: StageSpec):
    """(graphdef, {path: ShapeDtypeStruct}) of `build_unet`, without allocating anything."""
    from iso3d_jax.weights import bundle

    graphdef, shapes = bundle.abstract_network("unet", cfg.model, DTYPES[cfg.dtype])
    unet = cast(MultiViewUNet, merge_params(graphdef, shapes))
    unet.remat = cfg.remat
    return split_shapes(unet)


def sharding_rules(cfg: StageSpec) -> sharding.Rules:
    """The UNet's path rules; low-rank weights have theirs."""
    return sharding.UNET_RULES + (sharding.LORA_RULES if cfg.trainable == "lora" else ())


def _gather_dtype(cfg: StageSpec):
    """What each weight is gathered in: the type that the network would turn it into anyway."""
    from iso3d_jax.weights import bundle

    # Low-rank changes are added to their kernels in float32, before the network sees them.
    dtype = "float32" if cfg.trainable == "lora" else cfg.dtype
    return lambda path: bundle.param_dtype_for(path, DTYPES[dtype])


def check_options(cfg: StageSpec) -> None:
    """UserError on values that do not go together."""
    if cfg.reference == "channels" and cfg.reference_dropped_with_embedding:
        raise UserError(
            "reference_dropped_with_embedding goes with reference=attention alone: a network with "
            "the reference in its channels is sampled with it in both branches of guidance, so "
            "training has to show it without an embedding"
        )
    if (cfg.picture_share > 0) != bool(cfg.data_pictures):
        raise UserError(
            "picture_share and data_pictures go together: a share of the steps above 0, and the "
            "encoded set of plain pictures that they read"
        )
    if cfg.picture_share and getattr(cfg.model.network("unet"), "layout_size", 0):
        raise UserError(
            "picture_share is for networks without a layout: this one draws from the camera, "
            "which plain pictures have not"
        )


def to_latents(key: jax.Array, moments, scale_factor: float):
    """Scaled posterior samples from [..., 2C] means and log-variances."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
    return sample_posterior(mean, logvar, jax.random.normal(key, mean.shape)) * scale_factor


def make_inputs(batch: dict, key: jax.Array, cfg: StageSpec, scale_factor: float) -> dict:
    """All that is random in a step: noise levels, noise, dropout.

    Args:
      batch: `moments` [B, V, h, w, 2C], `embedding` [B, D], `camera` [B, V, 16] where there are
        cameras; in stage 2 also
        `reference_moments` [B, 1, h, w, 2C] and `reference_camera` [B, 1, 16].
      key: of this step.
      cfg: of the stage.
      scale_factor: the autoencoder's.

    Returns:
      Arrays whose first axis is the batch: `z_t`, `target` [B, V, h, w, C], `t` [B], `context`
      [B, 1, D], `camera` if there is one, and in stage 2 `reference` [B, 1, h, w, C] and
      `reference_camera`.
    """
    keys = jax.random.split(key, 6)
    z = to_latents(keys[0], batch["moments"], scale_factor)
    size, num_views, channels = *z.shape[:2], z.shape[-1]
    alphas_cumprod = jnp.asarray(make_schedule())
    # Density of t proportional to t^bias: high noise is where embedding and cameras are learned.
    t = jax.random.uniform(keys[1], (size, 1)) ** (1.0 / (1.0 + cfg.timestep_bias))
    t = (t * alphas_cumprod.shape[0]).astype(jnp.int32)
    alpha_bar = alphas_cumprod[t]  # [B, 1]: one t for all views of an object
    noise = jax.random.normal(keys[2], z.shape)
    if cfg.noise_offset:  # so that a view's mean brightness is noised as much as its details
        shape = (size, num_views, 1, 1, channels)
        noise += cfg.noise_offset * jax.random.normal(keys[5], shape)
    kept = jax.random.bernoulli(keys[3], 1.0 - cfg.embedding_dropout, (size, 1))
    inputs = {
        "z_t": add_noise(z, noise, alpha_bar),
        "target": training_target(z, noise, alpha_bar, cfg.model.parameterization),
        "t": t[:, 0],
        "context": (batch["embedding"].astype(jnp.float32) * kept)[:, None],  # [B, 1, D]
    }
    if "camera" in batch:
        inputs["camera"] = batch["camera"]
    if "reference_moments" in batch:
        reference = to_latents(keys[4], batch["reference_moments"], scale_factor)
        if cfg.reference_dropped_with_embedding:
            reference *= kept[:, :, None, None, None]  # [B, 1, 1, 1, 1]
        inputs["reference"] = reference
        inputs["reference_camera"] = batch["reference_camera"]
    return inputs


def loss_weight(t, cfg: StageSpec):
    """Each noise level's weight: 1, or min-SNR's (Hang et al. 2023, section 3.4), [B]."""
    if cfg.loss_weighting == "plain":
        return jnp.ones(t.shape)
    alpha_bar = jnp.asarray(make_schedule())[t]
    snr = alpha_bar / (1.0 - alpha_bar)
    clipped = jnp.minimum(snr, cfg.min_snr_gamma)
    return clipped / (snr + 1.0 if cfg.model.parameterization == "v" else snr)


def loss_of_inputs(unet, inputs: dict, cfg: StageSpec):
    """The weighted squared error over the noisy views, and metrics; see `make_inputs`."""
    z_t, context, camera = inputs["z_t"], inputs["context"], inputs.get("camera", NoCamera())
    t = jnp.broadcast_to(inputs["t"][:, None], z_t.shape[:2])
    if cfg.reference == "channels":
        reference = inputs.get("reference", jnp.zeros_like(z_t[:, :1]))
        output = unet(z_t, t, context, camera, reference)
    elif "reference" in inputs:
        z_t = jnp.concatenate([inputs["reference"], z_t], 1)
        t = jnp.concatenate([jnp.zeros_like(t[:, :1]), t], 1)
        camera = jnp.concatenate([inputs["reference_camera"], camera], 1)
        output = unet(z_t, t, context, camera)[:, 1:]
    else:
        output = unet(z_t, t, context, camera)
    error = ((output - inputs["target"]) ** 2).mean((1, 2, 3, 4))  # [B]
    error *= loss_weight(inputs["t"], cfg)
    late = (inputs["t"] >= 800).astype(jnp.float32)
    return error.mean(), {"high_noise_sum": (error * late).sum(), "high_noise_count": late.sum()}


def denoising_loss(unet, batch: dict, key: jax.Array, cfg: StageSpec, scale_factor: float):
    """The diffusion loss of one batch, and its metrics; arguments as `make_inputs` has them."""
    return loss_of_inputs(unet, make_inputs(batch, key, cfg, scale_factor), cfg)


def train_step(
    state: TrainState, batch: dict, *, graphdef, tx, cfg: StageSpec
) -> tuple[TrainState, dict]:
    """One optimizer step of stage 1 or 2; which branch it is, the batch's entries say."""
    inputs = make_inputs(batch, step_key(state), cfg, cfg.model.scale_factor)

    def loss_fn(params, inputs):
        unet = merge_params(graphdef, trainable.merge_lora(params, cfg))
        return loss_of_inputs(unet, inputs, cfg)

    trained = {path: state.params[path] for path in state.ema_params}
    frozen = {path: value for path, value in state.params.items() if path not in trained}
    (loss, extra), grads = value_and_gradients(
        loss_fn, trained, frozen, inputs, sharding_rules(cfg), cfg.accumulate, _gather_dtype(cfg)
    )
    late = extra["high_noise_sum"] / jnp.maximum(extra["high_noise_count"], 1.0)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay, loss)
    return state, {"loss": loss, "loss_high_noise": late, **norms}
