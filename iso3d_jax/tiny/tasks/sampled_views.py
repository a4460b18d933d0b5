"""The last step of a small model: its decoder learns to draw the latents that its UNet samples.

The autoencoder saw latents of true pictures alone. Sampled ones are softer; decoded, they leave
haze around the object and marks in the frame's corners. So views of training objects are sampled
once and the decoder, and nothing else, goes on with those latents and the true views: squared
error, colour weighed more than brightness; that of the differences between neighbours, without
which the patches of an encoder of principal components show as a grid; one minus the overlap of
what is not white, without which the outlines come out soft and too large; that of ink, without
which they fade into the ground; and the error of how colourful an object is, whatever its hue,
without which it comes out pale: where the latents leave the colour in doubt, the squared error is
least for a mean colour, which is greyer than any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.core.colour import TO_YIQ
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.core.progress import Progress
from iso3d_jax.data.colour import change_colours, on_white, weighed_axes
from iso3d_jax.data.grids import tile
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.table import MultiViewTable, join, prepare_references
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.metrics.pixels import MASK_THRESHOLD, find_mask
from iso3d_jax.models.params import FlatParams, merge_params, split_params
from iso3d_jax.models.vae import Autoencoder, decode_pictures
from iso3d_jax.tiny.tasks.autoencoder import decoder_paths
from iso3d_jax.training.spec import TrainingSpec, make_spec
from iso3d_jax.training.state import TrainState, apply_gradients
from iso3d_jax.training.tasks.task import PREVIEW_OBJECTS, BaseTask
from iso3d_jax.weights import bundle
from iso3d_jax.weights.bundle import Model

STEEP = 60.0  # of the soft mask's edge


@dataclass(frozen=True, kw_only=True)
class SampledViewsSpec(TrainingSpec):
    """`presets/decoder.py` says what each value means."""

    objects: int
    pictures: tuple[str, ...]
    colour_strength: float
    mask_weight: float
    ink_weight: float
    edge_weight: float
    chroma_weight: float
    vividness_weight: float


def mask_overlap(pictures, truth):
    """Soft intersection over union of what is not white; pictures [N, H, W, 3] in [0, 1] -> [N].

    Of the drawn pictures it is the mean ink that counts: with the largest channel's, the cheapest
    way to make a pale object not white was to tint it.
    """
    true = find_mask(truth).astype(jnp.float32)
    soft = jax.nn.sigmoid(((1.0 - pictures).mean(-1) - MASK_THRESHOLD) * STEEP)
    both = soft * true
    return both.sum((1, 2)) / jnp.maximum((soft + true - both).sum((1, 2)), 1.0)


def ink_overlap(pictures, truth):
    """The smaller ink of each pixel over the larger, both summed; [N, H, W, 3] x 2 -> [N].

    1 for equal pictures. An absolute error, relative to the object's ink: where an outline is in
    doubt it is least for all of the ink or none, where the squared error asks for half.
    """
    ink, true = (jnp.maximum(1.0 - x.mean(-1), 0.0) for x in (pictures, truth))
    either = jnp.maximum(ink, true).sum((1, 2))
    return jnp.minimum(ink, true).sum((1, 2)) / jnp.maximum(either, MASK_THRESHOLD)


def chroma(pictures, truth):
    """How colourful each object is: its mean colour's squared distance from grey -> [N].

    Of pictures [N, H, W, 3], over what is not white in the truth. Squared, so that it
    hardly counts near grey: with the distance itself, white objects came out in pastels.
    """
    mask = find_mask(truth).astype(jnp.float32)[..., None]
    mean = (pictures * mask).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1.0)
    return ((mean @ TO_YIQ[1:].T) ** 2).sum(-1)


def draw_samples(
    model: Model, table: MultiViewTable, cfg: SampledViewsSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Sampled latents of one set of views of `cfg.objects` training objects, and the true views.

    Returns:
      Unscaled latents [N, h, w, C] and pictures on white [N, H, W, 3], bytes.
    """
    settings = sampling.settings(model.config)
    encoding = model.config.sampling_cameras
    rng = np.random.default_rng([cfg.seed, 7])
    objects = rng.permutation(len(table))[: cfg.objects]
    progress = Progress(len(objects), "sampling views", unit="object")

    @jax.jit
    def one(unet, clip, key, reference, views, camera):
        key_colour, key_sample = jax.random.split(key)
        rgba = jnp.concatenate([reference[None], views]).astype(jnp.float32) / 255.0
        rgb = change_colours(key_colour, rgba[None, ..., :3], cfg.colour_strength)[0]
        pictures = on_white(jnp.concatenate([rgb, rgba[..., 3:]], -1))
        latents = sampling.sample_latents(
            unet, clip.embed(pictures[:1])[:, None], camera, model.alphas_cumprod, key_sample,
            **settings,
        )  # fmt: skip
        return latents[0] / model.config.scale_factor, pictures[1:]

    latents, truth = [], []
    for done, i in enumerate(objects):
        start = rng.integers(table.images.shape[1] // SET) * SET
        views, picture = slice(start, start + SET), rng.integers(table.images.shape[1])
        shown = table.images[i : i + 1, picture : picture + 1]
        reference = prepare_references(shown, str(rng.choice(cfg.pictures)))[0, 0]
        azimuth = table.azimuth_deg[i, views] - table.azimuth_deg[i, picture]
        camera = camera_condition(
            table.elevation_deg[i, views], azimuth, encoding,
            fov_deg=table.fov_deg[i, views], distance=table.distance[i, views],
        )  # fmt: skip
        key = jax.random.fold_in(jax.random.key(cfg.seed), i)
        with contextlib.nullcontext() if latents else progress.compiling():
            z, pictures = jax.device_get(
                one(model.unet, model.clip, key, reference, table.images[i, views],
                    np.asarray(camera))
            )  # fmt: skip
        latents.append(np.asarray(z))
        truth.append(to_uint8(pictures))
        progress.update(done + 1)
    progress.close()
    return np.concatenate(latents), np.concatenate(truth)


def train_step(
    state: TrainState, batch: dict, *, graphdef, tx, cfg: SampledViewsSpec
) -> tuple[TrainState, dict]:
    """One step. Batch: `latents` [N, h, w, C], unscaled; `views` uint8 [N, H, W, 3]."""
    truth = batch["views"].astype(jnp.float32) / 255.0

    def loss_fn(trained):
        vae = merge_params(graphdef, {**state.params, **trained})
        drawn = jnp.clip(decode_pictures(vae, batch["latents"]), -0.2, 1.2)
        error = drawn - truth
        weighed = error @ weighed_axes(cfg.chroma_weight).T
        loss = (weighed**2).mean()
        for axis in (1, 2):
            loss += cfg.edge_weight * (jnp.diff(weighed, axis=axis) ** 2).mean()
        colourful, should_be = chroma(drawn, truth), chroma(truth, truth)
        loss += cfg.vividness_weight * ((colourful - should_be) ** 2).mean()
        overlap = mask_overlap(drawn, truth).mean()
        loss += cfg.mask_weight * (1.0 - overlap)
        loss += cfg.ink_weight * (1.0 - ink_overlap(drawn, truth).mean())
        vividness = jnp.sqrt(colourful).mean() / jnp.maximum(jnp.sqrt(should_be).mean(), 1e-3)
        return loss, {
            "psnr": -10 * jnp.log10((error**2).mean()),
            "mask_overlap": overlap,
            "vividness": vividness,
        }

    trained = {path: state.params[path] for path in state.ema_params}
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, **metrics, **norms}


class Batches:
    """Random views among the sampled ones; a pure function of (seed, step)."""

    def __init__(self, cfg: SampledViewsSpec, latents: np.ndarray, views: np.ndarray):
        self.cfg, self.latents, self.views = cfg, latents, views

    def branch(self, step: int) -> str:
        return "views"

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.cfg.seed, step])
        rows = rng.integers(len(self.views), size=self.cfg.batch_size)
        return {"latents": self.latents[rows], "views": self.views[rows]}


class SampledViewsTask(BaseTask):
    """A trained model's decoder, tuned on the views that the model samples; exports the model."""

    label = "decoder of sampled views"
    train_step = staticmethod(train_step)

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        return cls(make_spec(SampledViewsSpec, config))

    def __init__(self, cfg: SampledViewsSpec):
        if not cfg.init_from:
            raise UserError(
                "the decoder of sampled views needs --config.init_from=DIR, the workdir of a "
                "finished stage 2"
            )
        if not cfg.pictures:
            raise UserError(
                "--config.pictures: views are sampled of references that are fitted to the frame "
                "in some way: give one or more, as in --config.pictures=\"('framed',)\""
            )
        self.cfg, self.model = cfg, bundle.load_model(cfg.init_from)
        table = join([MultiViewTable.load(path, "train") for path in cfg.data.split(",")])
        self.batches = Batches(cfg, *draw_samples(self.model, table, cfg))
        self.graphdef, self.init_params = split_params(cast(Autoencoder, self.model.vae))

    def trained(self, params: Iterable[str]) -> list[str] | None:
        return decoder_paths(params)

    def preview(self, params: FlatParams) -> np.ndarray:
        vae, count = merge_params(self.graphdef, params), 2 * PREVIEW_OBJECTS
        drawn = jax.jit(decode_pictures)(vae, self.batches.latents[:count])
        truth = self.batches.views[:count].astype(np.float32) / 255
        return np.asarray(tile([list(np.asarray(drawn)), list(truth)]), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        others = {name: split_params(getattr(self.model, name))[1] for name in ("unet", "clip")}
        bundle.save_bundle(folder, self.model.config, {**others, "vae": params})
