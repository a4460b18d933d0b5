"""Light on objects: the one that all views of a data set share, or one of each object's own.

The rasterizer multiplies colours by

    ambient + hemisphere (1 + n_z) + head (n . to_eye) + key max(n . direction, 0), at most 1,

of the shading normal n, in the world; a ray tracer is given the same as a picture of a sky, in
which the headlight comes from everywhere and the key light from a soft round.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from iso3d_jax.data.names import hash_name
from iso3d_jax.data.textures import srgb_to_linear

LIGHTS = ("even", "seeded")
_SKY = (64, 128)  # rows and columns of a sky
_SOFT = 12.0  # the key light's round is exp(_SOFT (cos - 1)): half as bright at 20 degrees


class Light(NamedTuple):
    """Shares of light.

    Attributes:
      direction: unit vector towards the key light, Z-up.
      picture: file of a picture of light from all around, in place of all that, for renderers that
        can; its middle is turned to the key light's azimuth.
    """

    ambient: float = 0.42
    hemisphere: float = 0.14
    head: float = 0.40
    key: float = 0.0
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    picture: str = ""

    def numbers(self) -> Float[np.ndarray, " 7"]:
        """As a record carries it: the four shares and the direction."""
        return np.array([*self[:4], *self.direction], np.float32)


EVEN = Light()  # symmetric about the vertical: what is seen depends on no direction of the world


def sample_light(name: str, seed: int) -> Light:
    """The light of an object: a pure function of its name and the seed.

    The key light is anywhere 10 to 80 degrees above the horizon; a surface that faces both it and
    the eye has 0.85 to 1 of its colour.
    """
    rng = np.random.default_rng([seed, hash_name(name), 1])  # apart from the cameras' numbers
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(10, 80))
    across = np.cos(elevation)
    ambient, key, hemisphere = rng.uniform(0.2, 0.4), rng.uniform(0.3, 0.55), rng.uniform(0, 0.1)
    head = max(0.0, rng.uniform(0.85, 1.0) - ambient - key - hemisphere)
    where = across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation)
    x, y, z = (float(value) for value in where)
    return Light(ambient, hemisphere, head, key, (x, y, z))


def paint_sky(light: Light) -> Float[np.ndarray, "h w 3"]:
    """The light as a picture of all directions, linear, row 0 at the top.

    Columns go as Blender's equirectangular ones: the middle is +x, and a quarter left of it +y. The
    shares count sRGB values, which a path tracer does not: they are turned into linear light, so
    that white in even light is as bright as the rasterizer's. Of the headlight there are two
    thirds, the mean over a ball.
    """
    rows, columns = _SKY
    elevation = np.pi / 2 - (np.arange(rows)[:, None] + 0.5) / rows * np.pi
    azimuth = np.pi - (np.arange(columns) + 0.5) / columns * 2 * np.pi
    across = np.cos(elevation)
    towards = np.stack(
        np.broadcast_arrays(across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation)),
        -1,
    )
    even = light.ambient + light.hemisphere + light.head * 2 / 3
    # Matt surfaces see a radiance of a + b d_z as a + 2/3 b n_z.
    shade = srgb_to_linear(even + 1.5 * light.hemisphere * towards[..., 2])
    spot = np.exp(_SOFT * (towards @ np.array(light.direction) - 1))
    area = across * (np.pi / rows) * (2 * np.pi / columns)
    # What the key light adds to a wall that has the rest already: of sRGB values one cannot add up.
    key = srgb_to_linear(even + light.key) - srgb_to_linear(even)
    shade = shade + key * spot * np.pi / (spot * area).sum()
    return np.repeat(shade[..., None], 3, -1).astype(np.float32)
