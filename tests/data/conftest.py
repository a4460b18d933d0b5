"""Fixtures of the renderer's tests, and a mode of pictures that not every Pillow reads."""

import PIL
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.rasterizer import Rasterizer

YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.xfail(
        int(PIL.__version__.split(".")[0]) < 13,
        raises=UserError,
        strict=True,
        reason="Pillow below 13 takes an uncompressed TIFF of this mode for cut short",
    ),
)


@pytest.fixture(scope="module")
def machine(request):
    """A rasterizer of the test module's RESOLUTION."""
    try:
        made = Rasterizer(request.module.RESOLUTION)
    except UserError as e:
        pytest.skip(f"rendering tests need moderngl and EGL: {e}")
    with made:
        yield made
