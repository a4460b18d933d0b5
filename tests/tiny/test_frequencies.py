"""Pictures as cosines, and back."""

import numpy as np

from iso3d_jax.tiny.frequencies import to_frequencies, to_pictures


def test_there_and_back():
    pictures = np.random.default_rng(0).random((2, 5, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(to_pictures(to_frequencies(pictures)), pictures, atol=1e-5)


def test_one_wave_is_one_number():
    """A wave across the columns, three half turns, stands at [0, 3] alone."""
    x = (np.arange(16) + 0.5) / 16
    wave = np.broadcast_to(np.cos(3 * np.pi * x), (16, 16))[None, ..., None].astype(np.float32)
    found = np.array(to_frequencies(wave))[0, ..., 0]
    assert abs(found[0, 3]) > 1.0
    found[0, 3] = 0.0
    np.testing.assert_allclose(found, 0.0, atol=1e-4)


def test_edges_are_raised_beside_the_whole():
    """A half-black picture: without the rise its 15th cosine is a fifteenth of its first."""
    picture = np.zeros((1, 32, 32, 1), np.float32)
    picture[:, :, 16:] = 1.0
    row = np.abs(np.asarray(to_frequencies(picture))[0, 0, :, 0])
    assert row[15] > 0.4 * row[1]


def test_any_number_of_leading_axes():
    picture = np.random.default_rng(1).random((8, 8, 1)).astype(np.float32)
    alone = to_frequencies(picture)
    np.testing.assert_allclose(to_frequencies(picture[None, None])[0, 0], alone, atol=1e-5)
