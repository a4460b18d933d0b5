"""ST-LPIPS' layers against scipy's."""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from iso3d_jax.metrics import st_lpips


def test_blur_is_scipys():
    x = np.random.default_rng(0).random((2, 9, 7, 3)).astype(np.float32)
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None] / 16
    # Borders of two: of the full blur, mirrored, one more row and column on each side.
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    want = ndimage.correlate(padded, kernel)[:, 1:-1, 1:-1][:, ::2, ::2]
    np.testing.assert_allclose(st_lpips._blur(jnp.asarray(x)), want, rtol=1e-5)
