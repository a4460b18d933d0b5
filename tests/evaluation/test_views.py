"""Scores against independent implementations and closed forms."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import views


def test_psnr_is_scikit_images():
    a, b = np.random.default_rng(0).random((2, 3, 2, 8, 8, 3))
    ours = views.psnr(a, b)
    for index in np.ndindex(3, 2):
        assert ours[index] == pytest.approx(
            peak_signal_noise_ratio(a[index], b[index], data_range=1.0)
        )


def test_mask_iou_of_shifted_squares():
    a, b = np.ones((2, 1, 8, 8, 3))
    a[0, :4, :4], b[0, :4, 2:6] = 0.0, 0.5
    assert views.mask_iou(a, b)[0] == pytest.approx(8 / 24)
    assert views.mask_iou(a, a)[0] == 1.0


def test_angular_distance_goes_the_short_way():
    np.testing.assert_allclose(
        views.angular_distance([350.0, 90.0, 180.0], [10.0, -90.0, 180.0]), [20, 180, 0]
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
    perfect = views.scores(task.truth, task)
    assert perfect["psnr"] >= 99 and perfect["mask_iou"] == 1.0
    blank = views.scores(np.ones_like(task.truth), task)
    assert blank["psnr"] < 25 and blank["mask_iou"] == 0.0


def test_mean_picture_is_the_mean(test_split):
    from iso3d_jax.data.colour import on_white

    want = on_white(test_split.images.reshape(-1, 64, 64, 4) / 255.0).mean(0)
    np.testing.assert_allclose(views.mean_picture(test_split), want, atol=1e-5)


def test_an_object_of_the_training_set_is_retrieved_as_itself(test_split):
    from iso3d_jax.weights.bundle import load_model

    task = views.make_task(test_split, "centred")
    _, names = views.retrieve(load_model(), task, test_split)
    assert names == test_split.names
