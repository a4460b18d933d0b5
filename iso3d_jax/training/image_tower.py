"""Training of a small image tower (full-size models use a converted CLIP).

The embedding has to say what the object looks like from every side, as seen from the picture's
own side. So the tower is trained to let a small decoder draw a coarse picture (16x16 RGBA) of any
other view from the embedding and that view's camera, with azimuths counted from the picture. A
contrastive term over views of the same object (InfoNCE, as CLIP has it over image and text) acts
on a projection of the embedding, so that it names the object without having to forget its pose.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iso3d_jax.data.colour import change_colours, on_white
from iso3d_jax.data.table import SET, MultiViewTable, draw_views, prepare_references
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models.params import merge_params
from iso3d_jax.training.state import TrainState, apply_gradients, step_key

COARSE = 16  # side of the pictures that the decoder draws


class TowerWithHeads(nnx.Module):
    """The tower and the two heads that exist only while it is trained."""

    def __init__(self, tower: nnx.Module, dim: int, *, width: int = 512, rngs: nnx.Rngs):
        self.tower = tower
        self.camera_in = nnx.Linear(16, width, rngs=rngs)
        self.embedding_in = nnx.Linear(dim, width, rngs=rngs)
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.turns = nnx.List([nnx.Linear(n, 2 * width, rngs=rngs) for n in (16, width)])
        self.out = nnx.Linear(width, COARSE * COARSE * 4, rngs=rngs)
        self.project = nnx.Linear(dim, dim, rngs=rngs)
        self.temperature = nnx.Param(jnp.asarray(np.log(1 / 0.1), jnp.float32))

    def draw(self, embedding, camera):
        """[B, D], [B, V, 16] -> premultiplied RGBA [B, V, 16, 16, 4].

        The camera multiplies what the embedding says: seeing an object from elsewhere is a
        rotation of it, which a sum of the two has to learn by detours (and in 1,000 steps did not).
        """
        h = self.embedding_in(embedding)[:, None]
        scale, shift = jnp.split(self.turns[0](camera), 2, -1)
        h = h * (1.0 + scale) + shift
        scale, shift = jnp.split(self.turns[1](jax.nn.silu(self.camera_in(camera))), 2, -1)
        h = h + self.hidden(jax.nn.silu(h * (1.0 + scale) + shift))
        return self.out(h).reshape(*camera.shape[:2], COARSE, COARSE, 4)


def coarse_views(rgba):
    """Straight RGBA [..., H, W, 4] to premultiplied area means [..., 16, 16, 4]."""
    rgba = jnp.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    *lead, height, width, _ = rgba.shape
    rgba = rgba.reshape(*lead, COARSE, height // COARSE, COARSE, width // COARSE, 4)
    return rgba.mean((-4, -2))


def disturb(key, images, strength: float):
    """What photos of one object may differ by: light, contrast, blur, grain, a small shift."""
    n = images.shape[0]
    keys = jax.random.split(key, 5)
    shape = (n, 1, 1, 1)
    gain = jnp.exp(strength * jax.random.uniform(keys[0], shape, minval=-0.2, maxval=0.2))
    bend = jnp.exp(strength * jax.random.uniform(keys[1], shape, minval=-0.25, maxval=0.25))
    ink = jnp.clip((1.0 - images) * gain, 0.0, 1.0)  # white stays white
    images = (1.0 - ink) ** bend
    soft = sum(jnp.roll(images, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9.0
    mix = strength * jax.random.uniform(keys[2], shape) * jax.random.bernoulli(keys[2], 0.5, shape)
    images = images + mix * (soft - images)
    images = images + 0.02 * strength * jax.random.normal(keys[3], images.shape)
    shift = jax.random.randint(keys[4], (n, 2), -2, 3)
    return jax.vmap(lambda x, s: jnp.roll(x, s, (0, 1)))(jnp.clip(images, 0.0, 1.0), shift)


def train_step(state: TrainState, batch: dict, *, graphdef, tx, cfg) -> tuple[TrainState, dict]:
    """One step.

    Batch: `references` uint8 [B, 2, H, W, 4] (two prepared pictures of an object), `views` uint8
    [B, V, H, W, 4], `camera` [B, 2, V, 16]: the views as seen from each of the two pictures.
    """
    key_colour, key_photo = jax.random.split(step_key(state))
    pictures = jnp.concatenate([batch["references"], batch["views"]], 1).astype(jnp.float32) / 255.0
    rgb = change_colours(key_colour, pictures[..., :3], cfg.colour_strength)
    pictures = jnp.concatenate([rgb, pictures[..., 3:]], -1)
    references = on_white(pictures[:, :2])
    references = disturb(
        key_photo, references.reshape(-1, *references.shape[2:]), cfg.photo_strength
    )
    target = coarse_views(pictures[:, 2:])

    def loss_fn(params):
        model = merge_params(graphdef, params)
        embedding = model.tower.embed(references).reshape(-1, 2, cfg.model.clip.output_dim)
        camera = batch["camera"].reshape(-1, *batch["camera"].shape[2:])
        drawn = model.draw(embedding.reshape(-1, embedding.shape[-1]), camera)
        drawing = ((drawn - jnp.repeat(target, 2, 0)) ** 2).mean()
        unit = model.project(embedding)
        unit = unit / jnp.linalg.norm(unit, axis=-1, keepdims=True)
        logits = unit[:, 0] @ unit[:, 1].T * jnp.exp(jnp.minimum(model.temperature[...], 4.6))
        labels = batch["object"]
        same = (labels[:, None] == labels[None, :]).astype(jnp.float32)
        same = same / same.sum(-1, keepdims=True)
        contrast = -(same * jax.nn.log_softmax(logits)).sum(-1).mean()
        size = (embedding**2).mean()
        loss = drawing + cfg.contrast_weight * contrast + cfg.size_weight * (size - 1.0) ** 2
        return loss, {"drawing": drawing, "contrast": contrast, "embedding_size": size}

    (loss, extra), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state, norms = apply_gradients(state, grads, tx, cfg.ema_decay)
    return state, {"loss": loss, **extra, **norms}


class Batches:
    """Two pictures and one orthogonal set of each drawn object; a pure function of (seed, step)."""

    def __init__(self, cfg, table: MultiViewTable):
        self.cfg, self.table = cfg, table
        self.references = {mode: prepare_references(table.images, mode) for mode in cfg.pictures}

    def branch(self, step: int) -> str:
        return "views"

    def _prepared(self, modes, objects, views):
        rows = zip(modes, objects, views, strict=True)
        return np.stack([self.references[mode][i, view] for mode, i, view in rows])

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.cfg.seed, step])
        table, batch = self.table, self.cfg.batch_size
        num_sets = table.images.shape[1] // SET
        obj, target, ref = draw_views(
            rng, len(table), num_sets, table.azimuth_deg, batch, self.cfg.front_share
        )
        other = rng.integers(table.images.shape[1], size=batch)
        modes = rng.choice(self.cfg.pictures, size=(batch, 2))
        views = target[:, None] * SET + np.arange(SET)
        images = table.images[obj[:, None], views]
        pairs = zip(modes.T, (ref, other), strict=True)
        references = np.stack([self._prepared(mode, obj, view) for mode, view in pairs], 1)
        own = table.azimuth_deg[obj[:, None], np.stack([ref, other], 1)]  # [B, 2]
        azimuth = table.azimuth_deg[obj[:, None], views][:, None] - own[..., None]  # [B, 2, V]
        flip = rng.random(batch) < 0.5
        azimuth = np.where(flip[:, None, None], -azimuth, azimuth)
        wide = flip[:, None, None, None, None]
        camera = camera_condition(
            table.elevation_deg[obj[:, None], views][:, None], azimuth,
            self.cfg.model.camera_encoding,
        )  # fmt: skip
        return {
            "references": np.where(wide, references[..., ::-1, :], references),
            "views": np.where(wide, images[..., ::-1, :], images),
            "camera": np.asarray(camera, np.float32),
            "object": obj.astype(np.int32),
        }
