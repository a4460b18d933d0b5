"""The task, the baselines' answers, and the summary of scores."""

import numpy as np
import pytest

from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import scores, views
from iso3d_jax.metrics.isotropy import angular_distance


def test_angular_distance_goes_the_short_way():
    np.testing.assert_allclose(
        angular_distance([350.0, 90.0, 180.0], [10.0, -90.0, 180.0]), [20, 180, 0]
    )


@pytest.fixture(scope="module")
def test_split():
    return MultiViewTable.load("samples", "test")


def test_task_follows_the_protocol(test_split):
    task = views.make_task(test_split, "centred")
    assert task.truth.shape == (len(test_split), 4, 64, 64, 3)
    for i in range(len(test_split)):
        order = np.sort(task.azimuth_deg[i])
        np.testing.assert_allclose(np.diff(order), 90.0, atol=1e-2)
    few = task.spaced(2)
    assert few.names == [task.names[0], task.names[-1]] and len(few.truth) == 2


def test_true_views_score_perfectly_and_blank_ones_do_not(test_split, random_model):
    task = views.make_task(test_split, "centred").spaced(2)
    perfect = scores.score_views(task.truth, task, random_model)
    assert perfect["psnr"].min() >= 99
    for name in ("ssim", "mask_iou", "embedding"):
        np.testing.assert_allclose(perfect[name], 1.0, atol=1e-5)
    np.testing.assert_allclose(perfect["colour_error"], 0.0, atol=1e-6)
    blank = scores.score_views(np.ones_like(task.truth), task, random_model)
    assert blank["psnr"].max() < 25 and blank["mask_iou"].max() == 0.0
    assert blank["ssim"].max() < 0.99 and blank["embedding"].max() < 0.99999
    means = scores.summary(perfect, task.azimuth_deg)["mean"]
    assert set(means) == {"all", "front", "back"}


def test_mean_picture_is_the_mean(test_split):
    from iso3d_jax.data.colour import on_white

    want = on_white(test_split.images.reshape(-1, 64, 64, 4) / 255.0).mean(0)
    np.testing.assert_allclose(views.mean_picture(test_split), want, atol=1e-5)


def test_an_object_of_the_training_set_is_retrieved_as_itself(test_split):
    from iso3d_jax.weights.bundle import load_model

    task = views.make_task(test_split, "centred")
    _, names = views.retrieve(load_model(), task, test_split)
    assert names == test_split.names
