"""What trains the two networks that stages 1 and 2 use frozen: the autoencoder, the image tower."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.grids import tile
from iso3d_jax.data.table import MultiViewTable, join
from iso3d_jax.models.params import FlatParams, merge_params, split_params
from iso3d_jax.tiny import spatial_prior
from iso3d_jax.tiny.spatial_prior import Drawing
from iso3d_jax.tiny.tasks import autoencoder, image_tower, sampled_views
from iso3d_jax.training import sharding
from iso3d_jax.training.tasks import base, batches
from iso3d_jax.weights import bundle

PREVIEW_OBJECTS = 8


class BaseTask:
    """Batches and steps come from the subclass's module."""

    label: str
    summary = ""
    batches: autoencoder.Batches | image_tower.Batches | batches.Batches | sampled_views.Batches
    init_params: FlatParams | Callable[[], FlatParams]
    sharding_rules = sharding.REPLICATED

    @functools.cached_property
    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.init_params)

    def trained(self, params: FlatParams) -> list[str] | None:
        return None

    def branch(self, step: int) -> str:
        return self.batches.branch(step)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[rows] for name, value in self.batches(step).items()}

    def on_devices(self, batch: dict, mesh) -> dict:
        return batch

    def position(self) -> dict[str, int]:
        return {}

    def go_to(self, position: dict[str, int]) -> None:
        pass

    def names(self, step: int) -> list[str]:
        return []

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        raise UserError(f"ablate_every is for stages 1 and 2, not for the {self.label}")


class AutoencoderTask(BaseTask):
    """A small autoencoder's decoder; or, from `init_from`, that of any autoencoder."""

    label = "autoencoder"
    train_step = staticmethod(autoencoder.train_step)

    def __init__(self, cfg: ConfigDict):
        self.cfg = cfg
        self.table = MultiViewTable.load(cfg.data, "train")
        self.held_out = MultiViewTable.load(cfg.data, "validation").images[:PREVIEW_OBJECTS, :2]
        self.batches = autoencoder.Batches(cfg, self.table)
        if cfg.init_from:  # the latents stay, and with them their scale
            self.config = bundle.load_config(cfg.init_from)
            vae = bundle.load_model(cfg.init_from, networks=("vae",)).vae
        else:
            self.config = bundle.make_config(cfg.model)
            vae = bundle.build_network("vae", cfg.model, cfg.seed)
            autoencoder.find_components(vae, self.table, cfg)
            self.config.scale_factor = self._measure(vae)
        self.graphdef, self.init_params = split_params(vae)

    def _measure(self, vae) -> float:
        """What makes latents of deviation 1."""
        images = on_white(self.table.images[:64, 0].astype(np.float32) / 255)
        mean, logvar = vae.encode(images * 2 - 1)
        return float(1.0 / jnp.sqrt(jnp.var(mean) + jnp.exp(logvar).mean()))

    def trained(self, params: FlatParams) -> list[str] | None:
        return autoencoder.decoder_paths(params)

    def preview(self, params: FlatParams) -> np.ndarray:
        vae = merge_params(self.graphdef, params)
        images = on_white(
            self.held_out.reshape(-1, *self.held_out.shape[2:]).astype(np.float32) / 255
        )
        decoded = jax.jit(lambda v, x: v.decode(v.encode(x * 2 - 1)[0]) * 0.5 + 0.5)(vae, images)
        return np.asarray(tile([list(images), list(np.asarray(decoded))]), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        bundle.save_bundle(folder, self.config, {"vae": params}, dtype=jnp.float32)


class ImageTowerTask(BaseTask):
    """The image tower, with the decoder that its training needs; from scratch, or `init_from`."""

    label = "image tower"
    train_step = staticmethod(image_tower.train_step)

    def __init__(self, cfg: ConfigDict):
        self.cfg = cfg
        base.settle(cfg).announce(self.label)
        sets = cfg.data.split(",")
        self.table = join([MultiViewTable.load(path, "train") for path in sets])
        held_out = join([MultiViewTable.load(path, "validation") for path in sets])
        self.held_out = image_tower.Batches(cfg.copy_and_resolve_references(), held_out)
        self.batches = image_tower.Batches(cfg, self.table)
        tower = bundle.build_network("clip", cfg.model, cfg.seed)
        decoder = Drawing(
            image_tower.COARSE,
            cfg.model.clip.output_dim,
            cfg.model.unet.camera_dim,
            rngs=nnx.Rngs(cfg.seed + 1),
        )
        module = image_tower.TowerWithDecoder(tower, decoder)
        self.graphdef, self.init_params = split_params(module)
        if cfg.init_from:
            self.init_params = self._load(cfg.init_from)

    def _load(self, source: str) -> FlatParams:
        """The weights of a tower that was trained before, or of a whole model; all must fit."""
        tower = bundle.load_weights(source, ("clip",))["clip"]
        parts = {"tower/": tower, "decoder/": spatial_prior.load_drawing(source)}
        found = {part + k: w for part, weights in parts.items() for k, w in weights.items()}
        shapes = {path: w.shape for path, w in found.items()}
        if shapes != {path: w.shape for path, w in self.init_params.items()}:
            raise UserError(
                f"--config.init_from: {source} has no image tower with a drawing decoder of this "
                "config's size; it has to be the workdir of an image tower, or a small model"
            )
        return {path: jnp.asarray(w, jnp.float32) for path, w in found.items()}

    def preview(self, params: FlatParams) -> np.ndarray:
        batch = {k: v[:PREVIEW_OBJECTS] for k, v in self.held_out(0).items()}
        model = merge_params(self.graphdef, params)
        references = on_white(batch["reference"].astype(np.float32) / 255)
        drawn = model.decoder(model.tower.embed(references), batch["camera"])
        drawn = np.asarray(drawn[..., :3] + 1 - drawn[..., 3:])
        truth = on_white(batch["views"].astype(np.float32) / 255)
        rows = [[references[i], *drawn[i], *truth[i]] for i in range(len(references))]
        return np.asarray(tile(rows, self.cfg.model.resolution), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        weights = {}
        for part, name in (("tower/", "clip"), ("decoder/", spatial_prior.DRAWING)):
            weights[name] = {
                k.removeprefix(part): v for k, v in params.items() if k.startswith(part)
            }
        bundle.save_bundle(folder, bundle.make_config(self.cfg.model), weights, dtype=jnp.float32)


class SampledViewsTask(BaseTask):
    """A trained model's decoder, tuned on the views that the model samples; exports the model."""

    label = "decoder of sampled views"
    train_step = staticmethod(sampled_views.train_step)

    def __init__(self, cfg: ConfigDict):
        if not cfg.init_from:
            raise UserError(
                "the decoder of sampled views needs --config.init_from=DIR, the workdir of a "
                "finished stage 2"
            )
        self.cfg, self.model = cfg, bundle.load_model(cfg.init_from)
        table = join([MultiViewTable.load(path, "train") for path in cfg.data.split(",")])
        self.batches = sampled_views.Batches(
            cfg, *sampled_views.draw_samples(self.model, table, cfg)
        )
        self.graphdef, self.init_params = split_params(self.model.vae)

    def trained(self, params: FlatParams) -> list[str] | None:
        return autoencoder.decoder_paths(params)

    def preview(self, params: FlatParams) -> np.ndarray:
        vae, count = merge_params(self.graphdef, params), 2 * PREVIEW_OBJECTS
        drawn = jax.jit(lambda v, z: v.decode(z) * 0.5 + 0.5)(vae, self.batches.latents[:count])
        truth = self.batches.views[:count].astype(np.float32) / 255
        return np.asarray(tile([list(np.asarray(drawn)), list(truth)]), np.float32) / 255

    def export(self, params: FlatParams, folder: Path) -> None:
        others = {name: split_params(getattr(self.model, name))[1] for name in ("unet", "clip")}
        bundle.save_bundle(folder, self.model.config, {**others, "vae": params})
