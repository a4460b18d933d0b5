"""Generated views against true ones, beside two baselines, on a rendered data set.

Protocol: of each object, the view nearest to azimuth +30 degrees is the picture, prepared as a
user's would be; the first orthogonal set that does not hold it is the target, drawn at its true
cameras (azimuths counted from the picture's). Scores are means over objects of means over 4 views.

Baselines: the mean training picture; and the training view whose embedding is nearest to the
picture's (cosine), answered with that object's own views nearest to the wanted cameras.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from iso3d_jax import sampling
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.table import SET, MultiViewTable, prepare_references
from iso3d_jax.diffusion.schedule import add_noise, to_eps_x0
from iso3d_jax.geometry.cameras import camera_condition, relative_azimuth
from iso3d_jax.weights.bundle import Model

PICTURE_AZIMUTH_DEG = 30.0
MASK_THRESHOLD = 0.04  # farther from white than this in any channel is object


@dataclasses.dataclass
class ViewTask:
    """What a model is given and what it should answer, for N objects."""

    names: list[str]
    pictures: Float[np.ndarray, "N H W 3"]
    truth: Float[np.ndarray, "N V H W 3"]
    azimuth_deg: Float[np.ndarray, "N V"]  # relative to the picture
    elevation_deg: Float[np.ndarray, "N V"]


def angular_distance(a_deg, b_deg):
    """Degrees between azimuths, in [0, 180]."""
    return np.abs((np.asarray(a_deg) - b_deg + 180.0) % 360.0 - 180.0)


def make_task(table: MultiViewTable, picture: str) -> ViewTask:
    """The fixed protocol applied to a data set's split."""
    rows = np.arange(len(table))
    reference = angular_distance(table.azimuth_deg, PICTURE_AZIMUTH_DEG).argmin(1)
    target_set = np.where(reference // SET == 0, 1, 0)
    views = target_set[:, None] * SET + np.arange(SET)
    prepared = prepare_references(table.images[rows, reference][:, None], picture)[:, 0]
    azimuth = table.azimuth_deg[rows[:, None], views] - table.azimuth_deg[rows, reference][:, None]
    return ViewTask(
        names=table.names,
        pictures=np.asarray(on_white(prepared.astype(np.float32) / 255)),
        truth=np.asarray(on_white(table.images[rows[:, None], views].astype(np.float32) / 255)),
        azimuth_deg=azimuth % 360.0,
        elevation_deg=table.elevation_deg[rows[:, None], views],
    )


def generate(model: Model, task: ViewTask, *, steps: int = 50, seed: int = 0) -> np.ndarray:
    """The model's views at the task's cameras, [N, V, H, W, 3]."""
    config = model.config
    out = []
    for i in range(len(task.names)):
        latents = sampling.sample_latents(
            model.unet,
            sampling.embed_pictures(model, task.pictures[i][None]),
            camera_condition(task.elevation_deg[i], task.azimuth_deg[i], config.camera_encoding),
            model.alphas_cumprod,
            jax.random.fold_in(jax.random.key(seed), i),
            config.guidance_scale,
            config.eta,
            latent_shape=(config.latent_size, config.latent_size, config.latent_channels),
            steps=steps,
            parameterization=config.parameterization,
        )
        out.append(np.asarray(sampling.decode_views(model.vae, latents / config.scale_factor))[0])
    return np.stack(out)


def embed_all(model: Model, pictures: np.ndarray, batch: int = 256) -> np.ndarray:
    """Unit embeddings of [N, H, W, 3] pictures."""
    parts = []
    for start in range(0, len(pictures), batch):
        chunk = pictures[start : start + batch]
        padded = np.concatenate(
            [chunk, np.ones((batch - len(chunk), *chunk.shape[1:]), np.float32)]
        )
        parts.append(np.asarray(sampling.embed_pictures(model, padded))[: len(chunk), 0])
    embedding = np.concatenate(parts)
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def retrieve(model: Model, task: ViewTask, train: MultiViewTable) -> tuple[np.ndarray, list[str]]:
    """The nearest-training-object baseline: its views [N, V, H, W, 3], and the objects' names."""
    references = prepare_references(train.images, model.config.picture)
    objects, views = references.shape[:2]
    flat = references.reshape(-1, *references.shape[2:])
    pictures = np.asarray(on_white(flat.astype(np.float32) / 255))
    similarity = (
        embed_all(model, task.pictures) @ embed_all(model, pictures).T
    )  # [N, objects*views]
    best = similarity.argmax(1)
    obj, ref = best // views, best % views
    azimuth = relative_azimuth(train.azimuth_deg[obj], train.azimuth_deg[obj, ref][:, None])
    out = np.empty_like(task.truth)
    for v in range(task.truth.shape[1]):
        off = angular_distance(azimuth, task.azimuth_deg[:, v : v + 1])
        off = off + np.abs(train.elevation_deg[obj] - task.elevation_deg[:, v : v + 1])
        out[:, v] = on_white(train.images[obj, off.argmin(1)].astype(np.float32) / 255)
    return out, [train.names[i] for i in obj]


def mean_picture(train: MultiViewTable) -> np.ndarray:
    """The training set's mean picture on white, [H, W, 3]."""
    total = np.zeros((*train.images.shape[2:4], 3))
    for images in train.images:
        total += np.asarray(on_white(images.astype(np.float32) / 255)).sum(0)
    return (total / (len(train) * train.images.shape[1])).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Decibels over the last three axes, pictures in [0, 1]."""
    mse = ((a - b) ** 2).mean((-3, -2, -1))
    return -10.0 * np.log10(np.maximum(mse, 1e-10))


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of what is not white, over the last three axes."""
    a, b = ((1.0 - x).max(-1) > MASK_THRESHOLD for x in (a, b))
    return (a & b).sum((-2, -1)) / np.maximum((a | b).sum((-2, -1)), 1)


def scores(views: np.ndarray, task: ViewTask) -> dict[str, float]:
    """PSNR and mask IoU; PSNR apart for views of the picture's side and of the far side."""
    decibels = psnr(views, task.truth)  # [N, V]
    off = angular_distance(task.azimuth_deg, 0.0)
    return {
        "psnr": float(decibels.mean()),
        "mask_iou": float(mask_iou(views, task.truth).mean()),
        "psnr_front": float(decibels[off <= 60].mean()),
        "psnr_back": float(decibels[off >= 120].mean()),
    }


def swap_table(model: Model, task: ViewTask, t: int = 980, seed: int = 0) -> dict[str, float]:
    """PSNR of the one-step x0 latents (against their own variance) from noise level t.

    With the right embedding; another object's; none; and the cameras turned by 90 degrees. A
    model that does not use its embedding or its cameras shows here before its pictures do.
    """
    config = model.config
    n, num_views = task.truth.shape[:2]
    mean, _ = model.vae.encode(jnp.asarray(task.truth.reshape(-1, *task.truth.shape[2:])) * 2 - 1)
    z = mean.reshape(n, num_views, *mean.shape[1:]) * config.scale_factor
    alpha_bar = jnp.full((n,), model.alphas_cumprod[t])
    z_t = add_noise(z, jax.random.normal(jax.random.key(seed), z.shape), alpha_bar)
    embedding = sampling.embed_pictures(model, task.pictures)

    @jax.jit
    def error(unet, context, camera):
        output = unet(z_t, jnp.full((n, num_views), t), context, camera)
        x0 = to_eps_x0(output, z_t, alpha_bar, config.parameterization)[1]
        return -10.0 * jnp.log10(((x0 - z) ** 2).mean((1, 2, 3, 4)) / jnp.var(z)).mean()

    def cameras(turn):
        return camera_condition(task.elevation_deg, task.azimuth_deg + turn, config.camera_encoding)

    cases = {
        "right": (embedding, cameras(0.0)),
        "another object's embedding": (jnp.roll(embedding, 1, 0), cameras(0.0)),
        "no embedding": (jnp.zeros_like(embedding), cameras(0.0)),
        "cameras turned by 90 degrees": (embedding, cameras(90.0)),
    }
    return {name: float(error(model.unet, *case)) for name, case in cases.items()}
