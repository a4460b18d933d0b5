"""Every view metric of an answer to a task, and the summary that goes into a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from iso3d_jax.evaluation.embedding import embed_all, embed_views, similarity
from iso3d_jax.evaluation.views import ViewTask
from iso3d_jax.metrics import pixels
from iso3d_jax.metrics.isotropy import BACK_DEG, FRONT_DEG, angular_distance, isotropy
from iso3d_jax.weights.bundle import Model

# name -> (heading, whether larger is better)
METRICS = {
    "psnr": ("PSNR (dB)", True),
    "ssim": ("SSIM", True),
    "lpips": ("LPIPS", False),
    "st_lpips": ("ST-LPIPS", False),
    "mask_iou": ("mask IoU", True),
    "colour_error": ("colour error", False),
    "embedding": ("embedding similarity", True),
    "embedding_to_picture": ("embedding similarity to the picture", True),
    "consistency": ("consistency (dB)", True),
}
SHAPE_METRICS = {  # of `shapes.compare`: name -> heading
    "chamfer": "Chamfer distance",
    "f_score": "F-score at 0.02",
    "volume_iou": "volume IoU",
    "closed_volume_iou": "volume IoU, closed truths",
    "sealed_iou": "sealed volume IoU",
    "normal_consistency": "normal consistency",
}


def score_views(
    views: Float[np.ndarray, "N V H W 3"],
    task: ViewTask,
    model: Model,
    perceptual: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] | None = None,
) -> dict[str, Float[np.ndarray, "N V"]]:
    """Scores of each view.

    Without true views only `embedding_to_picture` can be known: the similarity of each view to
    the picture, whose views from behind are not expected to reach 1.

    Args:
      perceptual: by metric, functions of two batches of pictures [n, H, W, 3] to distances [n].
    """
    embedded = embed_views(model, views)
    picture = embed_all(model, task.pictures)[:, None]
    scores = {}
    if task.truth is not None:
        scores["psnr"] = pixels.psnr(views, task.truth)
        scores["ssim"] = pixels.ssim(views, task.truth)
        flat = [x.reshape(-1, *x.shape[2:]) for x in (np.asarray(views), task.truth)]
        for name, distance in (perceptual or {}).items():
            scores[name] = distance(*flat).reshape(views.shape[:2])
        scores["mask_iou"] = pixels.mask_iou(views, task.truth)
        scores["colour_error"] = pixels.colour_error(views, task.truth)
        scores["embedding"] = similarity(embedded, embed_views(model, task.truth))
    scores["embedding_to_picture"] = similarity(embedded, picture)
    return scores


def summary(
    scores: dict[str, Float[np.ndarray, "N V"]], azimuth_deg: Float[np.ndarray, "N V"]
) -> dict:
    """Means over all views, over those of the picture's side and of the far side; isotropy.

    Where smaller is better (LPIPS, ST-LPIPS, the colour error), isotropy is of 1 less their value.
    """
    off = angular_distance(azimuth_deg, 0.0)
    parts = {"all": off >= 0, "front": off <= FRONT_DEG, "back": off >= BACK_DEG}
    means = {
        part: {k: float(v[where].mean()) for k, v in scores.items()}
        for part, where in parts.items()
        if where.any()
    }
    sides = {k: isotropy(v if METRICS[k][1] else 1.0 - v, azimuth_deg) for k, v in scores.items()}
    return {"mean": means, "isotropy": sides}
