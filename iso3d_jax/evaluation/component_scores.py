"""Scores of networks that are no whole model yet: what an autoencoder keeps of a picture, and what
the decoder that an image tower was trained with makes of its embedding (`models/registry.py`).

Both bound what a denoiser trained on them can reach, and are measured in a minute.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.table import MultiViewTable, prepare_references, shrink
from iso3d_jax.evaluation.views import picture_views
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.metrics import pixels
from iso3d_jax.models import registry
from iso3d_jax.models.params import merge_params, split_params
from iso3d_jax.models.vae import decode_pictures, encode_pictures
from iso3d_jax.weights import bundle
from iso3d_jax.weights.folders import check_model

DRAWN_ALPHA = 0.4  # of an enlarged drawing: from here on it is object


def coarse_iou(alpha: Float[np.ndarray, "N V h w"], table: MultiViewTable) -> float:
    """Mask IoU of coarse pictures, enlarged, with a table's views; the mean over all views."""
    size = table.images.shape[2]
    large = jax.image.resize(jnp.asarray(alpha), (*alpha.shape[:2], size, size), "cubic")
    return float(pixels.overlap(np.asarray(large) > DRAWN_ALPHA, table.images[..., 3] > 127).mean())


def tower_scores(
    path: str | None, table: MultiViewTable, picture: str, dtype: str | None = None
) -> dict[str, dict[str, float]]:
    """Mask IoU of the drawings of a table's views from one picture of each object.

    Args:
      path: the folder of an image tower, or of a whole model with a layout.
      table: the objects.
      picture: how their pictures are fitted to the frame.
      dtype: of the tower, as of `load_model`.

    Returns:
      {"drawings of the image tower": scores, "true pictures as coarse": scores}.
    """
    config = bundle.load_config(path)
    tower = bundle.load_model(path, dtype, networks=("clip",)).clip
    numbers = config.network("unet")
    prior = registry.find_by_numbers("unet", numbers).prior
    weights = prior.load(path) if prior else {}
    if prior is None or not weights:
        raise UserError(
            f"the image tower in {path} has no drawing decoder beside it, so there is nothing to "
            "score: it has to be the workdir of an image tower's training"
        )
    graphdef, shapes = split_params(prior.build(numbers, config.network("clip").output_dim))
    drawing = merge_params(graphdef, {k: jnp.asarray(weights[k], jnp.float32) for k in shapes})
    rows, reference = np.arange(len(table)), picture_views(table)
    shown = prepare_references(table.images[rows, reference][:, None], picture)[:, 0]
    azimuth_deg = table.azimuth_deg - table.azimuth_deg[rows, reference][:, None]
    camera = camera_condition(
        table.elevation_deg, azimuth_deg, config.cameras,
        fov_deg=table.fov_deg, distance=table.distance,
    )  # fmt: skip
    pictures = on_white(shown.astype(np.float32) / 255)
    drawn = jax.jit(lambda t, d, x, c: d(t.embed(x), c))(tower, drawing, pictures, camera)
    size = drawn.shape[2]
    true = shrink(table.images, size)[..., 3] / np.float32(255)
    return {
        "drawings of the image tower": {"mask_iou": coarse_iou(np.asarray(drawn[..., 3]), table)},
        f"true pictures as coarse, {size}x{size}": {"mask_iou": coarse_iou(true, table)},
    }


def autoencoder_scores(
    path: str | None, table: MultiViewTable, dtype: str | None = None
) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and mask IoU of a table's views, encoded and decoded again."""
    vae = bundle.load_model(path, dtype, networks=("vae",)).vae
    again = jax.jit(lambda v, x: jnp.clip(decode_pictures(v, encode_pictures(v, x)[0]), 0, 1))
    scores: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "mask_iou": []}
    for views in table.images:
        images = on_white(views.astype(np.float32) / 255)
        decoded = np.asarray(again(vae, images))
        for name, found in scores.items():
            found.append(getattr(pixels, name)(decoded, images))
    return {"autoencoder": {name: float(np.mean(found)) for name, found in scores.items()}}


def score(
    path: str | None, table: MultiViewTable, picture: str, dtype: str | None = None
) -> dict[str, dict[str, float]]:
    """Scores of all parts that a folder holds; UserError where they do not fit the table."""
    held, size = check_model(path), bundle.load_config(path).resolution
    if table.images.shape[2] != size:
        raise UserError(
            f"the data set has pictures of {table.images.shape[2]} pixels and the model in {path} "
            f"is for {size}: give a data set of its size with --data"
        )
    found = autoencoder_scores(path, table, dtype) if "vae" in held else {}
    return found | (tower_scores(path, table, picture, dtype) if "clip" in held else {})
