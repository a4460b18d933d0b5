"""Training of a small image tower (full-size models use a converted CLIP).

The embedding has to say what the object looks like from every side, as seen from the picture's
own side. So the tower is trained to let a decoder draw a coarse picture (RGBA) of any view
from the embedding and that view's camera, with azimuths counted from the picture. The picture's
side is that of the UNet's layout, twice that of its latents: 32 of a model of 128 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.colour import change_colours, on_white
from iso3d_jax.data.grids import tile
from iso3d_jax.data.prepared_views import prepare_views
from iso3d_jax.data.table import THREADS, MultiViewTable, join, shrink
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models.clip import ImageTower
from iso3d_jax.models.params import FlatParams, InitialKeys, merge_params, split_params
from iso3d_jax.tiny import spatial_prior
from iso3d_jax.tiny.dense_tower import FEATURES, feature_weights, load_encoder
from iso3d_jax.tiny.spatial_prior import Drawing
from iso3d_jax.training.spec import TrainingSpec, make_spec
from iso3d_jax.training.state import TrainState, apply_gradients, step_key
from iso3d_jax.training.tasks import base
from iso3d_jax.training.tasks.mixtures import check_weights
from iso3d_jax.training.tasks.task import PREVIEW_OBJECTS, BaseTask
from iso3d_jax.weights import bundle

COARSE = 16  # side of the pictures that the decoder draws for a UNet without a layout
MOST_PICTURES = 4000  # that the components of the tower's features are of


@dataclass(frozen=True, kw_only=True)
class ImageTowerSpec(TrainingSpec):
    """`presets/image_tower.py` says what each value means."""

    data_weights: tuple[float, ...]
    pictures: tuple[str, ...]
    embedding_noise: float
    drawn_views: int
    colour_strength: float
    photo_strength: float
    edge_weight: float
    size_weight: float
    front_share: float


class TowerWithDecoder(nnx.Module):
    """The tower and the decoder, which becomes the UNet's layout (`tiny/spatial_prior.py`)."""

    def __init__(self, tower: ImageTower, decoder: Drawing):
        self.tower, self.decoder = tower, decoder


def disturb(key, images, strength: float):
    """What photos of one object may differ by: light, contrast, blur, grain.

    Half of the pictures have no grain at all, as drawings and renders have none: to a network that
    never saw an even white, that is further from what it knows than any grain.
    """
    keys = jax.random.split(key, 5)
    shape = (images.shape[0], 1, 1, 1)
    gain = jnp.exp(strength * jax.random.uniform(keys[0], shape, minval=-0.2, maxval=0.2))
    bend = jnp.exp(strength * jax.random.uniform(keys[1], shape, minval=-0.25, maxval=0.25))
    ink = jnp.clip((1.0 - images) * gain, 0.0, 1.0)  # white stays white
    images = (1.0 - ink) ** bend
    soft = sum(jnp.roll(images, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9.0
    mix = jax.random.uniform(keys[2], shape)  # half of the pictures stay sharp
    images = images + strength * jnp.where(mix < 0.5, mix, 0.0) * (soft - images)
    grain = jnp.maximum(jax.random.uniform(keys[4], shape, minval=-0.04, maxval=0.04), 0.0)
    images = images + grain * strength * jax.random.normal(keys[3], images.shape)
    return jnp.clip(images, 0.0, 1.0)


def drawing_losses(drawn, target):
    """Mean squared errors of pictures [B, V, h, w, 4], and of their differences between neighbours.

    Both have the same best answer, the mean of what is possible; the second cares for outlines.
    """
    error = drawn - target
    edges = (jnp.diff(error, axis=-3) ** 2).mean() + (jnp.diff(error, axis=-2) ** 2).mean()
    return (error**2).mean(), edges


def train_step(
    state: TrainState, batch: dict, *, graphdef, tx, cfg: ImageTowerSpec
) -> tuple[TrainState, dict]:
    """One step.

    Batch, straight RGBA bytes: `reference` [B, H, H, 4], a prepared picture of each object;
    `views` [B, V, h, h, 4]; `camera` [B, V, 16], the views as seen from the picture.
    """
    key_colour, key_photo, key_noise = jax.random.split(step_key(state), 3)
    n, size = batch["reference"].shape[:2]
    reference = batch["reference"].astype(jnp.float32) / 255.0
    views = batch["views"].astype(jnp.float32) / 255.0
    both = [x[..., :3].reshape(n, -1, 3) for x in (reference, views)]
    rgb = change_colours(key_colour, jnp.concatenate(both, 1), cfg.colour_strength)
    rgb, view_rgb = rgb[:, : size**2], rgb[:, size**2 :].reshape(*views.shape[:-1], 3)
    picture = on_white(jnp.concatenate([rgb.reshape(n, size, size, 3), reference[..., 3:]], -1))
    picture = disturb(key_photo, picture, cfg.photo_strength)
    target = jnp.concatenate([view_rgb * views[..., 3:], views[..., 3:]], -1)

    def loss_fn(trained):
        model = merge_params(graphdef, {**state.params, **trained})
        embedding = model.tower.embed(picture)
        power = (embedding**2).mean()
        noise = cfg.embedding_noise * jax.random.normal(key_noise, embedding.shape)
        drawn = model.decoder(embedding + noise, batch["camera"])
        drawing, edges = drawing_losses(drawn, target)
        loss = drawing + cfg.edge_weight * edges + cfg.size_weight * (power - 1.0) ** 2
        return loss, {"drawing": drawing, "edges": edges, "embedding_size": power}

    trained = {path: state.params[path] for path in state.ema_params}
    (loss, extra), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, **extra, **norms}


def _is_feature(path: str) -> bool:
    return path.startswith(tuple(f"tower/{part}" for part in FEATURES))


class Batches:
    """A picture and some views of each drawn object; a pure function of (seed, step)."""

    def __init__(
        self,
        cfg: ImageTowerSpec,
        table: MultiViewTable,
        lengths: Sequence[int],
        size: int = COARSE,
    ):
        """
        Args:
          table: the objects of all sets.
          lengths: how many each set has, for `cfg.data_weights`.
          size: side of the views that are to be drawn.
        """
        self.cfg, self.table = cfg, table
        shares = np.asarray(cfg.data_weights or lengths, float) / np.asarray(lengths)
        self._upto = np.cumsum(np.repeat(shares, lengths))  # of the chances of objects
        self.views = shrink(table.images, size)
        self._pool = ThreadPoolExecutor(THREADS, "pictures")  # no step of a GPU waits for one core
        facing = np.abs((table.azimuth_deg + 180.0) % 360.0 - 180.0) <= 90.0
        facing[~facing.any(1)] = True
        self.facing = facing

    def branch(self, step: int) -> str:
        return "views"

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.cfg.seed, step])
        table, batch, num_views = self.table, self.cfg.batch_size, self.views.shape[1]
        drawn = rng.random(batch) * self._upto[-1]
        obj = np.minimum(np.searchsorted(self._upto, drawn, side="right"), len(table) - 1)
        front = rng.random(batch) < self.cfg.front_share
        score = rng.random((batch, num_views)) + (front[:, None] & self.facing[obj])
        reference = score.argmax(1)  # any view, or with `front` one of those that face the camera
        modes = rng.choice(self.cfg.pictures, size=batch)
        shown = table.images[obj, reference][:, None]
        pictures = np.concatenate(list(self._pool.map(prepare_views, shown, modes)))
        count = min(self.cfg.drawn_views, num_views)
        views = rng.random((batch, num_views)).argsort(1)[:, :count]
        images, obj = self.views[obj[:, None], views], obj[:, None]
        azimuth = table.azimuth_deg[obj, views] - table.azimuth_deg[obj, reference[:, None]]
        flip = rng.random(batch) < 0.5
        azimuth = np.where(flip[:, None], -azimuth, azimuth)
        camera = camera_condition(
            table.elevation_deg[obj, views], azimuth, self.cfg.model.camera_encoding,
            fov_deg=table.fov_deg[obj, views], distance=table.distance[obj, views],
        )  # fmt: skip
        wide = flip[:, None, None, None]
        return {
            "reference": np.where(wide, pictures[:, :, ::-1], pictures),
            "views": np.where(wide[:, None], images[:, :, :, ::-1], images),
            "camera": np.asarray(camera, np.float32),
        }


class ImageTowerTask(BaseTask):
    """The image tower, with the decoder that its training needs; from scratch, or `init_from`."""

    label = "image tower"
    train_step = staticmethod(train_step)

    @classmethod
    def from_config(cls, config: ConfigDict, encoder: FlatParams | None = None) -> Self:
        """
        Args:
          encoder: weights of the network whose features the tower sees; those of the installed
            package if None.
        """
        cfg, inherited = base.settle(make_spec(ImageTowerSpec, config))
        inherited.announce(cls.label)
        return cls(cfg, encoder)

    def __init__(self, cfg: ImageTowerSpec, encoder: FlatParams | None = None):
        if not cfg.pictures:
            raise UserError(
                "--config.pictures: an image tower is trained on references that are fitted to the "
                "frame in some way: give one or more, as in --config.pictures=\"('framed',)\""
            )
        self.cfg, self._encoder = cfg, encoder
        size = 2 * getattr(cfg.model.network("unet"), "layout_size", 0) or COARSE
        sets = cfg.data.split(",")
        check_weights(cfg.data_weights, len(sets))
        tables = [MultiViewTable.load(path, "train") for path in sets]
        self.batches = Batches(cfg, join(tables), [len(table) for table in tables], size)
        held_out = [MultiViewTable.load(path, "validation") for path in sets]
        self.held_out = Batches(cfg, join(held_out), [len(table) for table in held_out], size)
        tower = bundle.build_network("clip", cfg.model, cfg.seed)
        decoder = Drawing(
            size,
            cfg.model.network("clip").output_dim,
            cfg.model.network("unet").camera_dim,
            rngs=InitialKeys(cfg.seed + 1),
        )
        module = TowerWithDecoder(tower, decoder)
        self.graphdef, self.init_params = split_params(module)
        if cfg.init_from:
            self.init_params = self._load(cfg.init_from)
        elif any(map(_is_feature, self.init_params)):
            self.init_params |= self._features()

    def _features(self) -> FlatParams:
        """The weights of the tower that are not trained here."""
        encoder, table = self._encoder or load_encoder(), self.batches.table
        views = table.images.reshape(-1, *table.images.shape[2:])
        chosen = np.random.default_rng([self.cfg.seed, 3]).permutation(len(views))[:MOST_PICTURES]
        pictures = on_white(views[np.sort(chosen)].astype(np.float32) / 255)
        found = feature_weights(self.cfg.model.network("clip"), encoder, np.asarray(pictures))
        return {f"tower/{path}": weight for path, weight in found.items()}

    def trained(self, params: Iterable[str]) -> list[str] | None:
        """All weights but those of the tower's features."""
        return sorted(path for path in params if not _is_feature(path))

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
        drawn = model.decoder(model.tower.embed(references), jnp.asarray(batch["camera"]))
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
