"""Diffuse material under a point light.

As threestudio, models/materials/diffuse_with_point_light_material.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ALBEDO, DIFFUSE, TEXTURELESS = 0, 1, 2


def shade(
    albedo: Float[Array, "N 3"],
    normal: Float[Array, "N 3"],
    position: Float[Array, "N 3"],
    light: Float[Array, "N 3"],
    ambient: Float[Array, ""],
    kind: Array,
) -> Float[Array, "N 3"]:
    """Colour of points: albedo * (ambient + (1 - ambient) * max(n.l, 0)).

    Args:
      albedo: sRGB values in [0, 1].
      normal: unit normals.
      position, light: of the point and of its light, scene coordinates.
      ambient: share of light that comes from everywhere; the rest comes from the point light.
      kind: scalar, `ALBEDO` (no light at all), `DIFFUSE`, or `TEXTURELESS` (albedo taken as 1).
    """
    direction = light - position
    direction = direction / jnp.maximum(jnp.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
    cosine = jnp.maximum(jnp.sum(normal * direction, -1, keepdims=True), 0.0)
    lit = ambient + (1.0 - ambient) * cosine
    colour = jnp.where(kind == TEXTURELESS, 1.0, albedo) * lit
    return jnp.where(kind == ALBEDO, albedo, colour)


def draw(
    key: jax.Array,
    camera_position: Float[Array, "G V 3"],
    step: Array,
    *,
    start_step: int,
    probability: float = 0.75,
    light_distance: tuple[float, float] = (0.8, 1.5),
) -> tuple[Array, Float[Array, ""], Float[Array, "G V 3"]]:
    """Draws how one iteration is shaded and where each view's light is.

    The light is about where the view's own camera is, at normalize(camera + offset) * distance; the
    views of a group share offset and distance (threestudio/data/random_multiview.py:145-170).

    Args:
      camera_position: of G groups of V views that are denoised together.
      step: iteration; before `start_step` the colour is the albedo.
      probability: of shading after `start_step`; one half of it without texture.
      light_distance: range of the light's distance from the origin.

    Returns:
      kind, ambient and light positions [G, V, 3] for `shade`.
    """
    k_on, k_kind, k_ambient, k_light, k_distance = jax.random.split(key, 5)
    shaded = (step >= start_step) & (jax.random.uniform(k_on) < probability)
    kind = jnp.where(jax.random.bernoulli(k_kind), TEXTURELESS, DIFFUSE)
    kind = jnp.where(shaded, kind, ALBEDO)
    diffuse = jax.random.uniform(k_ambient)
    groups = camera_position.shape[0]
    light = camera_position + jax.random.normal(k_light, (groups, 1, 3))
    light = light / jnp.maximum(jnp.linalg.norm(light, axis=-1, keepdims=True), 1e-6)
    low, high = light_distance
    distance = jax.random.uniform(k_distance, (groups, 1, 1), minval=low, maxval=high)
    return kind, 1.0 - diffuse, light * distance
