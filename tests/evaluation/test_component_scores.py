"""Scores of an autoencoder and of an image tower alone."""

import dataclasses

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import component_scores
from iso3d_jax.tiny import spatial_prior
from iso3d_jax.weights import bundle


@pytest.fixture(scope="module")
def table():
    return MultiViewTable.load("samples", "test")


def folder_of(path, *names):
    """Those parts of the shipped model, as a training run leaves them; the drawing too."""
    weights = bundle.load_weights(None, names)
    if "clip" in names:
        weights[spatial_prior.DRAWING] = spatial_prior.load_drawing(None)
    bundle.save_bundle(path, bundle.load_config(None), weights)
    return str(path)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("tower"), "clip")


def test_true_masks_score_one_and_shifted_ones_less(table):
    alpha = (table.images[..., 3] > 127) * 1.0
    assert component_scores.coarse_iou(alpha, table) == 1.0
    assert component_scores.coarse_iou(np.roll(alpha, 8, -1), table) < 0.8


def test_drawings_are_of_the_picture_and_less_than_their_size_allows(tower, table):
    drawn, ceiling = (
        row["mask_iou"] for row in component_scores.score(tower, table, "framed").values()
    )
    assert 0.5 < drawn < ceiling < 1.0
    other = np.roll(table.images, 1, 0)  # each object's views, asked for at another one's place
    swapped = dataclasses.replace(table, images=np.where(_picture(table), other, table.images))
    assert (
        component_scores.score(tower, swapped, "framed")["drawings of the image tower"]["mask_iou"]
        < drawn
    )


def _picture(table):
    """Which views are the pictures that drawings start from, to broadcast over images."""
    views = np.arange(table.images.shape[1])
    return (views == component_scores.picture_views(table)[:, None])[..., None, None, None]


def test_autoencoder_is_scored_by_what_it_keeps(tmp_path, table):
    kept = component_scores.score(folder_of(tmp_path, "vae"), table, "framed")
    assert list(kept) == ["autoencoder"]
    assert kept["autoencoder"]["psnr"] > 20 and kept["autoencoder"]["mask_iou"] > 0.8


def test_a_tower_without_its_decoder_is_one_sentence(tmp_path, table):
    bundle.save_bundle(tmp_path, bundle.load_config(None), bundle.load_weights(None, ("clip",)))
    with pytest.raises(UserError, match="no drawing decoder beside it"):
        component_scores.score(str(tmp_path), table, "framed")


def test_a_data_set_of_another_size_is_one_sentence(tower, table):
    small = dataclasses.replace(table, images=table.images[..., ::2, ::2, :])
    with pytest.raises(UserError, match="pictures of 32 pixels and the model in .* is for 64"):
        component_scores.score(tower, small, "framed")
