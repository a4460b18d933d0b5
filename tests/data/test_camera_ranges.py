"""Named ranges of cameras: drawn from, and told by what was drawn."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import render
from iso3d_jax.data.camera_ranges import DEFAULT, RANGES, find_range, identify_range
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.presets import reconstruct


def drawn(name, count=48, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([RANGES[name].sample(rng) for _ in range(count)]).T.astype(np.float32)


@pytest.mark.parametrize("name", RANGES)
def test_cameras_are_within_their_range_and_fill_it(name):
    elevation, fov, distance = drawn(name, 4000)
    scale = distance * np.tan(np.radians(fov) / 2)
    for values, (low, high) in zip((elevation, fov, scale), RANGES[name], strict=True):
        near = 0.01 * (high - low)
        assert low - 1e-4 <= values.min() <= low + near
        assert high - near <= values.max() <= high + 1e-4


@pytest.mark.parametrize("name", RANGES)
def test_cameras_tell_their_range(name):
    for seed in range(20):
        assert identify_range(*drawn(name, seed=seed)) == name


def test_cameras_from_elsewhere_are_told_in_numbers():
    elevation, fov, distance = drawn("iso3d")
    assert identify_range(elevation, fov, 0 * distance + 1.5 / np.tan(np.radians(fov) / 2)) == (
        "scale 1.50 to 1.50"
    )
    assert identify_range(elevation + 40, fov, distance).startswith("scale 1.00 to 1.1")


def test_the_shipped_set_and_the_renderer_are_of_the_default():
    table = MultiViewTable.load("samples", "train")
    columns = (table.elevation_deg, table.fov_deg, table.distance)
    assert identify_range(*(column.ravel() for column in columns)) == DEFAULT
    cameras = render.sample_cameras("chair", 0, 12)
    found = identify_range(cameras["elevation_deg"], cameras["fov_deg"], cameras["distance"])
    assert found == DEFAULT


def test_the_released_distillation_is_the_range_of_its_name():
    camera = reconstruct.get_config("isotropic3d").camera
    assert tuple(camera.distance) == RANGES["sds"].scale
    assert tuple(camera.fov_deg) == RANGES["sds"].fov_deg
    assert tuple(camera.elevation_deg) == RANGES["sds"].elevation_deg


def test_an_unknown_name_is_refused_with_the_nearest():
    assert find_range("mvdream").scale == (0.9, 1.1)
    with pytest.raises(UserError, match="no camera range 'mvdraem': did you mean 'mvdream'"):
        find_range("mvdraem")
    with pytest.raises(UserError, match="there are iso3d, mvdream, sds"):
        find_range("")
