"""Fields that are formulas, for the renderer's tests."""

import jax.numpy as jnp

from iso3d_jax.nerf import field


def use(monkeypatch, density, colour, normal):
    """Puts formulas in the place of the field's networks.

    Args:
      density: (params, x, spec) -> [N].
      colour: x [N, 3] -> [N, 3].
      normal: the one of every point, three numbers.
    """

    def both(params, x, spec):
        return density(params, x, spec), colour(x)

    def normals(params, x, spec):
        return jnp.broadcast_to(jnp.array(normal), x.shape)

    def all_three(params, x, spec):
        return *both(params, x, spec), normals(params, x, spec)

    monkeypatch.setattr(field, "density", density)
    monkeypatch.setattr(field, "density_and_albedo", both)
    monkeypatch.setattr(field, "normal", normals)
    monkeypatch.setattr(field, "density_albedo_and_normal", all_three)
