"""Density and colour of a point (threestudio, models/geometry/implicit_volume.py).

Two bias-free networks with one hidden layer read the hash encoding. The density is
softplus(raw + blob), with a blob of density at the origin to start from:
blob = scale * (1 - |x| / std), 10 and 0.5 in the released recipe. Everything is float32.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from iso3d_jax.nerf import hash_grid
from iso3d_jax.nerf.hash_grid import HashGridSpec
from iso3d_jax.nerf.look_up import VALUE_AND_SLOPES, look_up


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """The numbers that define a field; the defaults are the released recipe's.

    Attributes:
      levels, features, log2_table_size, base_resolution, growth: the hash grid's, see
        `HashGridSpec`.
      hidden: width of both networks' hidden layer.
      radius: the scene is the box [-radius, radius]^3.
      blob_scale, blob_std: the initial blob of density.
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    growth: float = 1.447269237440378
    hidden: int = 64
    radius: float = 1.0
    blob_scale: float = 10.0
    blob_std: float = 0.5

    @functools.cached_property
    def grid(self) -> HashGridSpec:
        """The hash grid's numbers alone."""
        return HashGridSpec(
            self.levels, self.features, self.log2_table_size, self.base_resolution, self.growth
        )


def init(key: jax.Array, spec: FieldSpec) -> dict:
    """Parameters: `encoding` (a tuple of levels), `density` and `colour` (in, out matrices).

    Matrices are drawn as torch's Linear draws them, U(-1/sqrt(in), 1/sqrt(in)).
    """
    keys = jax.random.split(key, 5)

    def matrix(key, rows, columns):
        bound = 1.0 / math.sqrt(rows)
        return jax.random.uniform(key, (rows, columns), jnp.float32, -bound, bound)

    width, hidden = spec.grid.width, spec.hidden
    return {
        "encoding": hash_grid.init(keys[0], spec.grid),
        "density": {"in": matrix(keys[1], width, hidden), "out": matrix(keys[2], hidden, 1)},
        "colour": {"in": matrix(keys[3], width, hidden), "out": matrix(keys[4], hidden, 3)},
    }


def sharpen(params: dict, level: float, sharpness: float) -> dict:
    """The field whose density is level * (density / level)^sharpness: steeper, the same surface.

    Where the density is `level`, and on which side of it each point lies, does not change; what is
    thinner vanishes and what is denser becomes solid.

    Args:
      level: density on the surface.
      sharpness: 1 leaves the field as it is.
    """
    edge = {"level": jnp.float32(level), "sharpness": jnp.float32(sharpness)}
    return params | {"edge": edge}


def with_edge(params: dict) -> dict:
    """The field with an edge in its parameters, as it is where it has none yet: a field that is
    shown as it was optimised and a sharpened one are then arguments of one program."""
    return params if "edge" in params else sharpen(params, 1e30, 1.0)


def raw_field(params: dict) -> dict:
    """The parameters of the field before it was sharpened."""
    return {name: value for name, value in params.items() if name != "edge"}


def display_density(value: Array, params: dict) -> Array:
    """The density that a field shows where the one that was optimised has `value`.

    Another one if it is a sharpened field; beyond 20 times the level all is solid, which keeps
    float32 finite.
    """
    if "edge" not in params:
        return value
    edge = params["edge"]
    return edge["level"] * jnp.minimum(value / edge["level"], 20.0) ** edge["sharpness"]


def _network(weights: dict, features: Array) -> Array:
    """ReLU network with one hidden layer and no biases, [D, N] to [C, N]."""
    return weights["out"].T @ jax.nn.relu(weights["in"].T @ features)


def _unit(x: Array, spec: FieldSpec) -> Array:
    """Scene coordinates to the grid's [0, 1]^3; points outside go to the border."""
    return jnp.clip((x + spec.radius) / (2.0 * spec.radius), 0.0, 1.0)


def _norm(x: Array) -> Array:
    """|x| along the last axis, with gradient zero at the origin."""
    square = jnp.sum(x * x, -1)
    safe = jnp.where(square > 0, square, 1.0)
    return jnp.where(square > 0, jnp.sqrt(safe), 0.0)


def _density(
    params: dict, features: Float[Array, "D N"], x: Float[Array, "N 3"], spec: FieldSpec
) -> Float[Array, " N"]:
    """Density of points whose features are looked up."""
    raw = _network(params["density"], features)[0]
    blob = spec.blob_scale * (1.0 - _norm(x) / spec.blob_std)
    return display_density(jax.nn.softplus(raw + blob), params)


def _albedo(params: dict, features: Float[Array, "D N"]) -> Float[Array, "N 3"]:
    return jax.nn.sigmoid(_network(params["colour"], features).T)


def _normal(
    params: dict,
    features: Float[Array, "D N"],
    slopes: Sequence[Float[Array, "D N"]],
    x: Float[Array, "N 3"],
    spec: FieldSpec,
) -> Float[Array, "N 3"]:
    """Normals of points whose features, and their slopes in the grid's [0, 1]^3, are looked up."""
    params = raw_field(params)
    by_features, by_x = jax.grad(
        lambda features, x: jnp.sum(_density(params, features, x, spec)), (0, 1)
    )(features, x)
    by_unit = jnp.stack([jnp.sum(by_features * slope, 0) for slope in slopes], -1)
    _, to_x = jax.vjp(lambda x: _unit(x, spec), x)
    gradient = by_x + to_x(by_unit)[0]
    square = jnp.sum(gradient * gradient, -1, keepdims=True)
    valid = square > 1e-24
    return jnp.where(valid, -gradient * jax.lax.rsqrt(jnp.where(valid, square, 1.0)), 0.0)


def density(params: dict, x: Float[Array, "N 3"], spec: FieldSpec) -> Float[Array, " N"]:
    """Density of points in the scene's box, per unit length."""
    (features,) = look_up(params["encoding"], _unit(x, spec), spec.grid)
    return _density(params, features, x, spec)


def density_and_albedo(
    params: dict, x: Float[Array, "N 3"], spec: FieldSpec
) -> tuple[Float[Array, " N"], Float[Array, "N 3"]]:
    """Density and albedo (sRGB values in [0, 1]) of points in the scene's box."""
    (features,) = look_up(params["encoding"], _unit(x, spec), spec.grid)
    return _density(params, features, x, spec), _albedo(params, features)


def normal(params: dict, x: Float[Array, "N 3"], spec: FieldSpec) -> Float[Array, "N 3"]:
    """Outward unit normals, -grad density / |grad density|; differentiable again.

    Where the gradient vanishes the normal is zero and so is its gradient. A sharpened field has the
    normals of the field that it was made from.
    """
    features, *slopes = look_up(params["encoding"], _unit(x, spec), spec.grid, VALUE_AND_SLOPES)
    return _normal(params, features, slopes, x, spec)


def density_albedo_and_normal(
    params: dict, x: Float[Array, "N 3"], spec: FieldSpec
) -> tuple[Float[Array, " N"], Float[Array, "N 3"], Float[Array, "N 3"]]:
    """What `density_and_albedo` and `normal` give, of one look-up."""
    features, *slopes = look_up(params["encoding"], _unit(x, spec), spec.grid, VALUE_AND_SLOPES)
    return (
        _density(params, features, x, spec),
        _albedo(params, features),
        _normal(params, features, slopes, x, spec),
    )
