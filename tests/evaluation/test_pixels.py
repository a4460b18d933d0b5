"""PSNR and SSIM against scikit-image, mask IoU of shifted squares, errors of known colours."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from iso3d_jax.evaluation import pixels


@pytest.fixture
def pair():
    a, b = np.random.default_rng(0).random((2, 3, 2, 24, 20, 3))
    return a, 0.6 * a + 0.4 * b


def test_psnr_is_scikit_images(pair):
    ours = pixels.psnr(*pair)
    for index in np.ndindex(3, 2):
        theirs = peak_signal_noise_ratio(*(x[index] for x in pair), data_range=1.0)
        assert ours[index] == pytest.approx(theirs, abs=1e-9)
    assert pixels.psnr(pair[0], pair[0]).min() == pixels.LARGEST_PSNR


def test_ssim_is_scikit_images(pair):
    ours = pixels.ssim(*pair)
    for index in np.ndindex(3, 2):
        theirs = structural_similarity(
            *(x[index] for x in pair), data_range=1.0, channel_axis=-1, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert ours[index] == pytest.approx(theirs, abs=1e-9)
    np.testing.assert_allclose(pixels.ssim(pair[0], pair[0]), 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        pixels.ssim(np.ones((8, 8, 3)), np.ones((8, 8, 3)))


def test_mask_iou_of_shifted_squares():
    a, b = np.ones((2, 1, 8, 8, 3))
    a[0, :4, :4], b[0, :4, 2:6] = 0.0, 0.5
    assert pixels.mask_iou(a, b)[0] == pytest.approx(8 / 24)
    assert pixels.mask_iou(a, a)[0] == 1.0
    white = np.ones_like(a)
    assert pixels.mask_iou(a, white)[0] == 0.0 and pixels.mask_iou(white, white)[0] == 1.0


def test_colour_error_of_known_colours():
    def square(colour):
        picture = np.ones((1, 8, 8, 3))
        picture[:, 2:6, 2:6] = colour
        return picture

    grey, red, cyan = square(0.5), square([1, 0, 0]), square([0, 1, 1])
    assert pixels.colour_error(red, grey)[0] == pytest.approx(0.632, abs=1e-3)
    assert pixels.colour_error(red, cyan)[0] == pytest.approx(2 * 0.632, abs=2e-3)
    assert pixels.colour_error(square(0.9), grey)[0] == pytest.approx(0.0, abs=1e-6)
    assert pixels.colour_error(red, np.ones_like(red))[0] == 0.0  # no object, no colour
    red_ground = np.where(np.arange(8)[:, None, None] < 1, [1.0, 0, 0], grey)
    assert pixels.colour_error(red_ground, grey)[0] == pytest.approx(0.0, abs=1e-6)
