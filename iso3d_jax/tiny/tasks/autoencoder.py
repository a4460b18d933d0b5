"""Training of a small model's autoencoder on single views (full-size ones are converted).

The encoder is principal components, found at once (`tiny/patch_autoencoder.py`); the decoder
learns to draw pictures from them: absolute and squared error, and any shade on the background,
which is part of the outline for everyone who cuts the object out. With `cfg.init_from` the decoder
of another autoencoder goes on, with its encoder as it is, so that whatever was trained on its
latents stays valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from iso3d_jax.data.colour import change_colours, on_white, weighed_axes
from iso3d_jax.data.grids import tile
from iso3d_jax.data.table import MultiViewTable, join
from iso3d_jax.models.params import FlatParams, merge_params, split_params
from iso3d_jax.models.vae import (
    Autoencoder,
    decode_pictures,
    encode_pictures,
    fold,
    sample_posterior,
)
from iso3d_jax.tiny.patch_autoencoder import PatchAutoencoder
from iso3d_jax.training.spec import TrainingSpec, make_spec
from iso3d_jax.training.state import TrainState, apply_gradients, step_key
from iso3d_jax.training.tasks.task import PREVIEW_OBJECTS, BaseTask
from iso3d_jax.weights import bundle

DECODER = ("decoder/", "post_quant_conv/")  # prefixes of a decoder's weights, of either kind
# Of colour against brightness, in the choice of components: furniture is mostly grey and brown.
COLOUR_WEIGHT = 2.0
MOST_PICTURES = 4000  # that the components are of


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec(TrainingSpec):
    """`presets/autoencoder.py` says what each value means."""

    colour_strength: float
    background_weight: float


def decoder_paths(params: Iterable[str]) -> list[str]:
    """The weights that are trained here."""
    return sorted(path for path in params if path.startswith(DECODER))


def _recoloured(key, rgba, strength: float):
    """Straight RGBA bytes to pictures on white in [-1, 1], colours changed."""
    rgba = rgba.astype(jnp.float32) / 255.0
    rgb = change_colours(key, rgba[..., :3], strength)
    return on_white(jnp.concatenate([rgb, rgba[..., 3:]], -1)) * 2.0 - 1.0


def find_components(vae: PatchAutoencoder, table: MultiViewTable, cfg: AutoencoderSpec) -> None:
    """Sets the encoder and the patches to the principal components of training pictures."""
    count, num_views = table.images.shape[:2]
    chosen = np.random.default_rng([cfg.seed, 3]).permutation(count * num_views)[:MOST_PICTURES]
    rgba = table.images[chosen // num_views, chosen % num_views]
    images = _recoloured(jax.random.key(cfg.seed), rgba, cfg.colour_strength)
    side = vae.config.side
    patches = np.asarray(fold(images, side)).reshape(-1, side**2 * images.shape[-1])
    vae.set_components(patches, weighed_axes(COLOUR_WEIGHT))


def train_step(
    state: TrainState, batch: dict, *, graphdef, tx, cfg: AutoencoderSpec
) -> tuple[TrainState, dict]:
    """One step. `batch["rgba"]`: uint8 [N, H, W, 4] single views."""
    key_colour, key_noise = jax.random.split(step_key(state))
    images = _recoloured(key_colour, batch["rgba"], cfg.colour_strength)
    empty = batch["rgba"][..., 3:] == 0
    mean, logvar = merge_params(graphdef, state.params).encode(images)
    z = sample_posterior(mean, logvar, jax.random.normal(key_noise, mean.shape))

    def loss_fn(trained):
        error = merge_params(graphdef, {**state.params, **trained}).decode(z) - images
        mse = (error**2).mean()
        shade = jnp.where(empty, jnp.abs(error), 0.0).mean()
        loss = jnp.abs(error).mean() + mse + cfg.background_weight * shade
        return loss, -10 * jnp.log10(mse / 4.0)

    trained = {path: state.params[path] for path in state.ema_params}
    (loss, psnr), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, "psnr": psnr, **norms}


class Batches:
    """Random single views; a pure function of (seed, step)."""

    def __init__(self, cfg: AutoencoderSpec, table: MultiViewTable):
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


class AutoencoderTask(BaseTask):
    """A small autoencoder's decoder; or, from `init_from`, that of any"""

    label = "autoencoder"
    train_step = staticmethod(train_step)

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        return cls(make_spec(AutoencoderSpec, config))

    def __init__(self, cfg: AutoencoderSpec):
        self.cfg = cfg
        sets = cfg.data.split(",")
        self.table = join([MultiViewTable.load(path, "train") for path in sets])
        held_out = join([MultiViewTable.load(path, "validation", PREVIEW_OBJECTS) for path in sets])
        self.held_out = held_out.images[:: len(sets), :2]
        self.batches = Batches(cfg, self.table)
        if cfg.init_from:  # the latents stay, and with them their scale
            self.config = bundle.load_config(cfg.init_from)
            model = bundle.load_model(cfg.init_from, networks=("vae",))
            vae = cast(Autoencoder, model.vae)
        else:
            self.config = bundle.make_config(cfg.model)
            vae = cast(PatchAutoencoder, bundle.build_network("vae", cfg.model, cfg.seed))
            find_components(vae, self.table, cfg)
            self.config = dataclasses.replace(self.config, scale_factor=self._measure(vae))
        self.graphdef, self.init_params = split_params(vae)

    def _measure(self, vae) -> float:
        """What makes latents of deviation 1."""
        images = on_white(self.table.images[:64, 0].astype(np.float32) / 255)
        mean, logvar = encode_pictures(vae, jnp.asarray(images))
        return float(1.0 / jnp.sqrt(jnp.var(mean) + jnp.exp(logvar).mean()))

    def trained(self, params: Iterable[str]) -> list[str] | None:
        return decoder_paths(params)

    def preview(self, params: FlatParams) -> np.ndarray:
        vae = merge_params(self.graphdef, params)
        images = on_white(
            self.held_out.reshape(-1, *self.held_out.shape[2:]).astype(np.float32) / 255
        )
        decoded = jax.jit(lambda v, x: decode_pictures(v, encode_pictures(v, x)[0]))(vae, images)
        return np.asarray(tile([list(images), list(np.asarray(decoded))]), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        bundle.save_bundle(folder, self.config, {"vae": params}, dtype=jnp.float32)
