"""Training of the KL autoencoder on single views (tiny models; full-size ones are converted).

Loss: absolute and squared error of the picture, of its horizontal and vertical differences and of
its 8x8 means, plus a small KL term (Rombach et al. 2022, appendix G, without the adversarial part).
Errors are taken in brightness and two colour axes, and those of colour count more: furniture is
mostly grey and brown, and in RGB a small network had learned no colour at all after 1,200 steps.

`cfg.trainable = "decoder"` goes on from another autoencoder with its encoder as it is, so that
whatever was trained on its latents stays valid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.data.colour import TO_YIQ, change_colours, on_white
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.models.params import FlatParams, merge_params
from iso3d_jax.models.vae import sample_posterior
from iso3d_jax.training.optimizer import choose
from iso3d_jax.training.state import TrainState, apply_gradients, step_key

COLOUR_WEIGHT = 6.0
TRAINABLE = {"all": ("",), "decoder": ("decoder/", "post_quant_conv/")}  # prefixes of paths


def trained_paths(params: FlatParams, cfg) -> list[str] | None:
    """The weights that `cfg.trainable` names; None is all."""
    prefixes = TRAINABLE[choose(cfg, "trainable", tuple(TRAINABLE))]
    return None if prefixes == ("",) else sorted(p for p in params if p.startswith(prefixes))


def reconstruction_loss(decoded, images):
    """Picture, edge and mean-colour error; pictures in [-1, 1], sides a multiple of 8."""
    error = (decoded - images) @ (TO_YIQ * np.array([[1.0], [COLOUR_WEIGHT], [COLOUR_WEIGHT]])).T
    n, height, width, c = error.shape
    means = error.reshape(n, height // 8, 8, width // 8, 8, c).mean((2, 4))
    loss = jnp.abs(error).mean() + (error**2).mean()
    loss += 2.0 * jnp.abs(means).mean() + 8.0 * (means**2).mean()
    for axis in (1, 2):
        loss += jnp.abs(jnp.diff(error, axis=axis)).mean()
    return loss


def train_step(state: TrainState, batch: dict, *, graphdef, tx, cfg) -> tuple[TrainState, dict]:
    """One step. `batch["rgba"]`: uint8 [N, H, W, 4] single views."""
    key_colour, key_noise = jax.random.split(step_key(state))
    rgba = batch["rgba"].astype(jnp.float32) / 255.0
    rgb = change_colours(key_colour, rgba[..., :3], cfg.colour_strength)
    images = on_white(jnp.concatenate([rgb, rgba[..., 3:]], -1)) * 2.0 - 1.0
    empty = rgba[..., 3:] == 0.0

    def loss_fn(trained):
        vae = merge_params(graphdef, {**state.params, **trained})
        mean, logvar = vae.encode(images)
        noise = jax.random.normal(key_noise, mean.shape)
        decoded = vae.decode(sample_posterior(mean, logvar, noise))
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar).mean()
        mse = ((decoded - images) ** 2).mean() / 4.0
        loss = reconstruction_loss(decoded, images) + cfg.kl_weight * kl
        # Any shade outside the object is part of its outline for everyone who cuts it out.
        shade = jnp.where(empty, jnp.abs(decoded - images), 0.0).mean()
        return loss + cfg.background_weight * shade, (kl, -10 * jnp.log10(mse))

    trained = {path: state.params[path] for path in state.ema_params}
    (loss, (kl, psnr)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, "kl": kl, "psnr": psnr, **norms}


class Batches:
    """Random single views; a pure function of (seed, step)."""

    def __init__(self, cfg, table: MultiViewTable):
        self.cfg, self.table = cfg, table

    def branch(self, step: int) -> str:
        return "views"

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.cfg.seed, step])
        shape = self.table.images.shape
        obj = rng.integers(shape[0], size=self.cfg.batch_size)
        view = rng.integers(shape[1], size=self.cfg.batch_size)
        rgba = self.table.images[obj, view]
        flip = rng.random(self.cfg.batch_size) < 0.5
        return {"rgba": np.where(flip[:, None, None, None], rgba[:, :, ::-1], rgba)}
