"""Fixtures of the renderer's tests."""

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.rasterizer import Rasterizer


@pytest.fixture(scope="module")
def machine(request):
    """A rasterizer of the test module's RESOLUTION."""
    try:
        made = Rasterizer(request.module.RESOLUTION)
    except UserError as e:
        pytest.skip(f"rendering tests need moderngl and EGL: {e}")
    with made:
        yield made
