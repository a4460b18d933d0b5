"""Fixtures of the renderer's tests."""

import pytest

from iso3d_jax.data.rasteriser import Rasteriser
from iso3d_jax.errors import UserError


@pytest.fixture(scope="module")
def machine(request):
    """A rasteriser of the test module's RESOLUTION."""
    try:
        made = Rasteriser(request.module.RESOLUTION)
    except UserError as e:
        pytest.skip(f"rendering tests need moderngl and EGL: {e}")
    with made:
        yield made
