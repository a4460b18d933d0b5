"""The task that a model is scored on, its answer, and the answers of two baselines.

Protocol on a data set: of each object, the view nearest to azimuth +30 degrees is the picture,
prepared as a user's would be; the first orthogonal set that does not hold it is the target, whose
true cameras the model is given (azimuths counted from the picture's). Scores are means over objects
of means over views.

Baselines: the mean training picture; and the training view whose embedding is nearest to the
picture's (cosine), answered with that object's own views nearest to the wanted cameras.
"""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int

from iso3d_jax import sampling
from iso3d_jax.core.progress import Progress
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.table import MultiViewTable, prepare_references
from iso3d_jax.evaluation.embedding import EMBEDDED_TOGETHER, embed_all
from iso3d_jax.geometry.cameras import camera_condition, relative_azimuth
from iso3d_jax.metrics.isotropy import angular_distance
from iso3d_jax.weights.bundle import Model

PICTURE_AZIMUTH_DEG = 30.0


def spaced(total: int, count: int) -> Int[np.ndarray, " N"]:
    """Indices of `count` things evenly spaced in a list of `total`, or of all."""
    return np.linspace(0, total - 1, min(count, total)).astype(int)


@dataclasses.dataclass
class ViewTask:
    """What a model is given and what it should answer, for N objects.

    V is a multiple of 4: each orthogonal set of 4 views is generated on its own.
    """

    names: list[str]
    pictures: Float[np.ndarray, "N H W 3"]
    azimuth_deg: Float[np.ndarray, "N V"]  # relative to the picture
    elevation_deg: Float[np.ndarray, "N V"]
    truth: Float[np.ndarray, "N V H W 3"] | None  # None: nobody knows
    protocol: str  # one sentence for the report
    fov_deg: Float[np.ndarray, "N V"]
    distance: Float[np.ndarray, "N V"]

    def __len__(self) -> int:
        return len(self.names)

    def spaced(self, count: int) -> ViewTask:
        """`count` objects evenly spaced in the list, or all."""
        if count >= len(self):
            return self
        return self._take(spaced(len(self), count))

    def first(self, count: int) -> ViewTask:
        """The first `count` objects."""
        return self._take(np.arange(count))

    def _take(self, chosen: np.ndarray) -> ViewTask:
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in chosen],
            truth=None if self.truth is None else self.truth[chosen],
            **{
                k: getattr(self, k)[chosen]
                for k in ("pictures", "azimuth_deg", "elevation_deg", "fov_deg", "distance")
            },
        )


def picture_views(table: MultiViewTable) -> Int[np.ndarray, " N"]:
    """Which view of each object is the picture: the one nearest to azimuth +30 degrees."""
    return angular_distance(table.azimuth_deg, PICTURE_AZIMUTH_DEG).argmin(1)


def make_task(table: MultiViewTable, picture: str) -> ViewTask:
    """The fixed protocol applied to a data set's split.

    Args:
      picture: how the model wants pictures prepared (`config.picture`).
    """
    rows = np.arange(len(table))
    reference = picture_views(table)
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
        fov_deg=table.fov_deg[rows[:, None], views],
        distance=table.distance[rows[:, None], views],
        protocol="picture: the view nearest to azimuth +30 degrees; target: the first orthogonal "
        "set of 4 views that does not hold it, at its true cameras",
    )


def generate(
    model: Model, task: ViewTask, *, steps: int | None = None, seed: int = 0, look: str = "own"
) -> np.ndarray:
    """The model's views at the task's cameras, [N, V, H, W, 3].

    The noise of object i, set s depends on (seed, i, s) alone.

    Args:
      look, steps: as of `sampling.settings`.
    """
    how = sampling.settings(model.config, look, steps=steps)
    progress = Progress(len(task), "generating views", unit="object")
    out = []
    for i in range(len(task)):
        with contextlib.nullcontext() if out else progress.compiling("and generating the first"):
            out.append(_generate_one(model, task, i, how, seed))
        progress.update(len(out))
    progress.close()
    return np.stack(out)


def _generate_one(model: Model, task: ViewTask, i: int, how: dict, seed: int) -> np.ndarray:
    """Object i's views, [V, H, W, 3]; `how` is of `sampling.settings`."""
    config = model.config
    context = sampling.embed_pictures(model, task.pictures[i][None])
    unet = sampling.network_for(model, task.pictures[i])
    sets = []
    for s in range(task.azimuth_deg.shape[1] // SET):
        views = slice(s * SET, (s + 1) * SET)
        key = jax.random.fold_in(jax.random.key(seed), i)
        latents = sampling.sample_latents(
            unet,
            context,
            camera_condition(
                task.elevation_deg[i, views],
                task.azimuth_deg[i, views],
                config.sampling_cameras,
                fov_deg=task.fov_deg[i, views],
                distance=task.distance[i, views],
            ),
            model.alphas_cumprod,
            jax.random.fold_in(key, s) if s else key,
            **how,
        )
        decoded = sampling.decode_views(model.vae, latents / config.scale_factor)
        sets.append(np.asarray(decoded)[0])
    return np.concatenate(sets)


def retrieve(
    model: Model, task: ViewTask, train: MultiViewTable, picture: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """The nearest-training-object baseline: its views [N, V, H, W, 3], and the objects' names.

    Args:
      picture: how the task's pictures were prepared; as the model wants them if None.
    """
    views = train.images.shape[1]
    known = _embed_references(model, train, picture or model.config.picture)
    best = (embed_all(model, task.pictures) @ known.T).argmax(1)  # of [N, objects * views]
    obj, ref = best // views, best % views
    azimuth = relative_azimuth(train.azimuth_deg[obj], train.azimuth_deg[obj, ref][:, None])
    out = np.empty((*task.azimuth_deg.shape, *train.images.shape[2:4], 3), np.float32)
    for v in range(task.azimuth_deg.shape[1]):
        off = angular_distance(azimuth, task.azimuth_deg[:, v : v + 1])
        off = off + np.abs(train.elevation_deg[obj] - task.elevation_deg[:, v : v + 1])
        out[:, v] = on_white(train.images[obj, off.argmin(1)].astype(np.float32) / 255)
    return out, [train.names[i] for i in obj]


def _embed_references(
    model: Model, train: MultiViewTable, picture: str
) -> Float[np.ndarray, "K D"]:
    """Unit embeddings of all views of all objects, some objects at a time: as floats, the pictures
    of thousands fill the memory."""
    at_a_time = max(1, EMBEDDED_TOGETHER // train.images.shape[1])
    progress = Progress(len(train), "looking for the nearest training objects", unit="object")
    parts = []
    for start in range(0, len(train), at_a_time):
        references = prepare_references(train.images[start : start + at_a_time], picture)
        flat = references.reshape(-1, *references.shape[2:])
        with contextlib.nullcontext() if parts else progress.compiling():
            parts.append(embed_all(model, np.asarray(on_white(flat.astype(np.float32) / 255))))
        progress.update(min(start + at_a_time, len(train)))
    progress.close()
    return np.concatenate(parts)


def mean_picture(train: MultiViewTable) -> np.ndarray:
    """The training set's mean picture on white, [H, W, 3]."""
    total = np.zeros((*train.images.shape[2:4], 3))
    for images in train.images:
        total += np.asarray(on_white(images.astype(np.float32) / 255)).sum(0)
    return (total / (len(train) * train.images.shape[1])).astype(np.float32)
