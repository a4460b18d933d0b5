"""PSNR and SSIM against their formulas, mask IoU of shifted squares, errors of known colours."""

import numpy as np
import pytest

from iso3d_jax.metrics import pixels


@pytest.fixture
def pair():
    a, b = np.random.default_rng(0).random((2, 3, 2, 24, 20, 3))
    return a, 0.6 * a + 0.4 * b


def test_psnr_is_the_mean_square_in_decibels(pair):
    ours = pixels.psnr(*pair)
    assert ours.shape == (3, 2)
    for index in np.ndindex(3, 2):
        a, b = (x[index] for x in pair)
        mean = sum((p - q) ** 2 for p, q in zip(a.flat, b.flat, strict=True)) / a.size
        assert ours[index] == pytest.approx(-10 * np.log10(mean), abs=1e-9)
    assert pixels.psnr(pair[0], pair[0]).min() == pixels.LARGEST_PSNR
    assert pixels.psnr(pair[0][0, 0], pair[0][0, 0] + 1e-6) == pixels.LARGEST_PSNR


def ssim_by_hand(a, b):
    """Equation 13 of Wang et al. (2004), a window at a time; a, b [H, W]."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for y, x in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mean_p, mean_q = (window * p).sum(), (window * q).sum()
        var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
        both = (window * (p - mean_p) * (q - mean_q)).sum()
        luminance = (2 * mean_p * mean_q + 0.01**2) / (mean_p**2 + mean_q**2 + 0.01**2)
        values.append(luminance * (2 * both + 0.03**2) / (var_p + var_q + 0.03**2))
    return np.mean(values)


def test_ssim_is_wang_et_als(pair):
    ours = pixels.ssim(*pair)
    assert ours.shape == (3, 2)
    for index in np.ndindex(3, 2):
        channels = [ssim_by_hand(*(x[index][..., c] for x in pair)) for c in range(3)]
        assert ours[index] == pytest.approx(np.mean(channels), abs=1e-9)
    np.testing.assert_allclose(pixels.ssim(pair[0], pair[0]), 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        pixels.ssim(np.ones((8, 8, 3)), np.ones((8, 8, 3)))
    assert pixels.ssim(np.ones((11, 11, 3)), np.ones((11, 11, 3))) == 1.0
    with pytest.raises(ValueError, match="does not fit"):
        pixels.ssim(np.ones((10, 11, 3)), np.ones((10, 11, 3)))


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
