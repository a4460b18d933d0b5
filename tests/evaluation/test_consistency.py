"""One object explains its own views better than views of several objects."""

import numpy as np
import pytest

from iso3d_jax import command_line
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import consistency


@pytest.mark.slow
def test_views_of_one_object_score_higher_than_shuffled_ones():
    table = MultiViewTable.load("samples", "train")
    images = np.asarray(on_white(table.images[:4, :4].astype(np.float32) / 255))
    images = images.reshape(4, 4, 32, 2, 32, 2, 3).mean((3, 5))
    base = command_line.load_config("configs/reconstruct.py:tiny")
    cfg = consistency.fit_config(base, 32, steps=120)
    cameras = consistency.cameras_of(
        table.azimuth_deg[0, :4], table.elevation_deg[0, :4], cfg, table.fov_deg[0, :4],
        table.distance[0, :4],
    )  # fmt: skip
    right, shown = consistency.explain(images[0], cameras, cfg)
    mixed, _ = consistency.explain(images[np.arange(4), np.arange(4)], cameras, cfg)
    blank, _ = consistency.explain(np.ones_like(images[0]), cameras, cfg)
    assert shown.shape == images[0].shape
    assert right > mixed + 2 and blank > right
    # The cameras a model's views are assumed to have, unless others are given.
    default = consistency.cameras_of(np.zeros(4), np.full(4, 15.0), cfg)
    assert float(default.distance[0, 0] * np.tan(np.radians(20))) == pytest.approx(1.075, rel=1e-4)
