"""Stages 1 and 2: training of the multi-view UNet.

Stage 1 (paper, section 3): the context is one image embedding instead of text tokens. Branch
`1-a` sees a single view, branch `1-b` four orthogonal ones.

Stage 2 (paper, Figures 2 and 4): Explicit Multi-view Attention. The noise-free reference view
joins the noisy views as the first view, at timestep 0, so that its tokens take part in every
joint self-attention; its output is not in the loss. Branch `2-a` (one view and the reference) is
drawn in 30% of the steps, `2-b` (four and the reference) in 70%. No training code was released:
that the reference comes with its own true elevation, at azimuth 0 of the relative frame, and that
a share of the steps goes without it (`reference_dropout`), so that inference without it stays in
distribution, are choices of ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.data.encode import EncodedTable
from iso3d_jax.data.table import SET, draw_views
from iso3d_jax.diffusion.schedule import add_noise, make_schedule, training_target
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models.params import merge_params
from iso3d_jax.models.vae import sample_posterior
from iso3d_jax.training.state import TrainState, apply_gradients, step_key


def to_latents(key: jax.Array, moments, scale_factor: float):
    """Scaled posterior samples from [..., 2C] means and log-variances."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
    return sample_posterior(mean, logvar, jax.random.normal(key, mean.shape)) * scale_factor


def denoising_loss(unet, batch: dict, key: jax.Array, cfg, scale_factor: float):
    """The diffusion loss of one batch, and its parts by noise level.

    Args:
      unet: `unet(z_t, t, context, camera)`.
      batch: `moments` [B, V, h, w, 2C], `camera` [B, V, 16], `embedding` [B, D]; in stage 2 also
        `reference_moments` [B, 1, h, w, 2C] and `reference_camera` [B, 1, 16].
      key: of this step.

    Returns:
      The mean squared error over the noisy views, and a dict of metrics.
    """
    keys = jax.random.split(key, 5)
    z = to_latents(keys[0], batch["moments"], scale_factor)
    size, num_views = z.shape[:2]
    alphas_cumprod = jnp.asarray(make_schedule())
    t = jax.random.randint(keys[1], (size, 1), 0, alphas_cumprod.shape[0])
    alpha_bar = alphas_cumprod[t]  # [B, 1]: one t for all views of an object
    noise = jax.random.normal(keys[2], z.shape)
    z_t = add_noise(z, noise, alpha_bar)
    target = training_target(z, noise, alpha_bar, cfg.model.parameterization)

    kept = jax.random.bernoulli(keys[3], 1.0 - cfg.embedding_dropout, (size, 1))
    context = (batch["embedding"].astype(jnp.float32) * kept)[:, None]  # [B, 1, D]
    camera = batch["camera"]
    t = jnp.broadcast_to(t, (size, num_views))
    if "reference_moments" in batch:
        reference = to_latents(keys[4], batch["reference_moments"], scale_factor)
        z_t = jnp.concatenate([reference, z_t], 1)
        t = jnp.concatenate([jnp.zeros_like(t[:, :1]), t], 1)
        camera = jnp.concatenate([batch["reference_camera"], camera], 1)
        output = unet(z_t, t, context, camera)[:, 1:]
    else:
        output = unet(z_t, t, context, camera)
    error = ((output - target) ** 2).mean((1, 2, 3, 4))  # [B]
    late = (t[:, -1] >= 800).astype(jnp.float32)
    return error.mean(), {"loss_high_noise": (error * late).sum() / jnp.maximum(late.sum(), 1.0)}


def train_step(state: TrainState, batch: dict, *, graphdef, tx, cfg) -> tuple[TrainState, dict]:
    """One optimiser step of stage 1 or 2; which branch it is, the batch's entries say."""
    key = step_key(state)

    def loss_fn(params):
        return denoising_loss(
            merge_params(graphdef, params), batch, key, cfg, cfg.model.scale_factor
        )

    (loss, extra), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, **extra, **norms}


class Batches:
    """Encoded views, cameras and embeddings of drawn objects; a pure function of (seed, step)."""

    def __init__(self, cfg, table: EncodedTable):
        self.cfg, self.table = cfg, table

    def branch(self, step: int) -> str:
        """'1-a', '1-b', '2-a' or '2-b'; in stage 2 a '1-' step is one without the reference."""
        cfg = self.cfg
        single, with_reference = np.random.default_rng([cfg.seed, step, 1]).random(2)
        stage = "2" if cfg.stage == 2 and with_reference >= cfg.reference_dropout else "1"
        return f"{stage}-{'a' if single < cfg.single_view_share else 'b'}"

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        cfg, table = self.cfg, self.table
        stage, views_kind = self.branch(step).split("-")
        rng = np.random.default_rng([cfg.seed, step])
        variants, objects, num_views = table.embedding.shape[:3]
        obj, target, ref = draw_views(
            rng, objects, num_views // SET, table.azimuth_deg, cfg.batch_size, cfg.front_share
        )
        variant = rng.integers(variants, size=cfg.batch_size)
        order = rng.integers(SET, size=cfg.batch_size)[:, None] + np.arange(SET)
        views = target[:, None] * SET + order % SET  # which view of the set comes first varies
        if views_kind == "a":
            views = views[:, :1]
        sign = np.where(table.mirrored[variant], -1.0, 1.0)[:, None]
        azimuth = sign * (
            table.azimuth_deg[obj[:, None], views] - table.azimuth_deg[obj, ref][:, None]
        )
        elevation = table.elevation_deg[obj[:, None], views]
        encoding = cfg.model.camera_encoding
        batch = {
            "moments": table.moments[variant[:, None], obj[:, None], views],
            "camera": np.asarray(camera_condition(elevation, azimuth, encoding)),
            "embedding": table.embedding[variant, obj, ref],
        }
        if stage == "2":
            batch["reference_moments"] = table.moments[variant, obj, ref][:, None]
            elevation = table.elevation_deg[obj, ref][:, None]
            batch["reference_camera"] = np.asarray(
                camera_condition(elevation, np.zeros_like(elevation), encoding)
            )
        return batch
