"""Lights of objects, and the skies that stand for them."""

import numpy as np
import pytest

from iso3d_jax.data.lights import EVEN, Light, paint_sky, sample_light
from iso3d_jax.data.textures import srgb_to_linear


def irradiance(sky, normal):
    """What a white matt surface shows of a sky, by adding up all directions."""
    rows, columns = sky.shape[:2]
    elevation = (0.5 - (np.arange(rows)[:, None] + 0.5) / rows) * np.pi
    azimuth = (0.5 - (np.arange(columns) + 0.5) / columns) * 2 * np.pi
    towards = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                        np.sin(elevation) + 0 * azimuth], -1)  # fmt: skip
    weight = np.maximum(towards @ normal, 0) * np.cos(elevation) * np.pi / rows * 2 * np.pi
    return (sky[..., 0] * weight).sum() / columns / np.pi


def test_lights_are_of_the_name_and_the_seed_and_never_too_bright():
    lights = [sample_light(f"object{k}", 4) for k in range(200)]
    assert lights[3] == sample_light("object3", 4) != sample_light("object3", 5)
    for light in lights:
        assert np.linalg.norm(light.direction) == pytest.approx(1.0)
        assert np.sin(np.radians(10)) <= light.direction[2] <= np.sin(np.radians(80))
        assert 0.84 <= light.ambient + light.hemisphere + light.head + light.key <= 1.06
        assert min(light[:4]) >= 0
    azimuth = [np.degrees(np.arctan2(light.direction[1], light.direction[0])) for light in lights]
    assert np.histogram(azimuth, 4, (-180, 180))[0].min() > 25
    np.testing.assert_allclose(lights[0].numbers(), [*lights[0][:4], *lights[0].direction])


def test_the_even_sky_is_brighter_above_and_the_same_all_around():
    sky = paint_sky(EVEN)
    assert np.ptp(sky, axis=1).max() == 0 and (np.diff(sky[:, 0, 0]) <= 0).all()
    up, side, down = (irradiance(sky, np.array(n, float)) for n in
                      ((0, 0, 1), (1, 0, 0), (0, 0, -1)))  # fmt: skip
    assert 1.0 >= up > side > down > 0.3
    assert irradiance(sky, np.array([0, 1.0, 0])) == pytest.approx(side, rel=1e-3)


@pytest.mark.parametrize("direction", [(1.0, 0, 0), (0, 1.0, 0), (0, -0.6, 0.8)])
def test_the_key_light_comes_from_its_direction_and_is_as_bright_as_it_says(direction):
    dark = Light(0.0, 0.0, 0.0, 0.5, direction)
    towards = np.array(direction)
    facing = irradiance(paint_sky(dark), towards)
    assert facing == pytest.approx(srgb_to_linear(0.5), rel=0.15)  # its round is not a point
    assert irradiance(paint_sky(dark), -towards) < 0.01 * facing
    both = irradiance(paint_sky(dark._replace(ambient=0.3)), towards)
    assert both == pytest.approx(srgb_to_linear(0.8), rel=0.15)
