"""Density, its blob and the normals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.nerf import field
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.hash_grid import HashGridSpec

SPEC = FieldSpec(HashGridSpec(levels=4, log2_table_size=10, base_resolution=4, growth=1.5), 16)


def params(scale=0.3):
    values = field.init(jax.random.key(0), SPEC)
    grid = [jax.random.normal(jax.random.key(i), g.shape) * scale for i, g in
            enumerate(values["encoding"])]  # fmt: skip
    return values | {"encoding": tuple(grid)}


def test_blob_of_the_released_recipe():
    empty = jax.tree.map(jnp.zeros_like, params())
    x = jnp.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 1.0]])
    np.testing.assert_allclose(
        field.density(empty, x, SPEC), [10.0000454, 0.6931472, 4.5398e-5], rtol=1e-4
    )


def test_density_scale_multiplies_the_density_alone():
    x = jax.random.uniform(jax.random.key(6), (20, 3), minval=-0.6, maxval=0.6)
    solid = dataclasses.replace(SPEC, density_scale=4.0)
    density, colour = field.density_and_albedo(params(), x, SPEC)
    denser, same = field.density_and_albedo(params(), x, solid)
    np.testing.assert_allclose(denser, 4.0 * density, rtol=1e-6)
    np.testing.assert_array_equal(colour, same)


def test_a_hardened_field_has_the_same_surface_and_a_steeper_edge():
    x = jax.random.uniform(jax.random.key(6), (500, 3), minval=-0.6, maxval=0.6)
    density, colour = field.density_and_albedo(params(), x, SPEC)
    level = float(jnp.median(density))
    hard = field.harden(params(), level, 3.0)
    harder, same = field.density_and_albedo(hard, x, SPEC)
    np.testing.assert_array_equal(harder > level, density > level)
    near = density < 20 * level  # further inside the density is held where float32 can hold it
    np.testing.assert_allclose(harder[near], (density**3 / level**2)[near], rtol=1e-4)
    assert bool((harder[~near] >= level * 20.0**3 * 0.999).all())
    np.testing.assert_array_equal(colour, same)
    np.testing.assert_array_equal(field.normal(hard, x, SPEC), field.normal(params(), x, SPEC))


def test_normals_match_finite_differences():
    values = params()
    x = jax.random.uniform(jax.random.key(3), (50, 3), minval=-0.6, maxval=0.6)
    got = np.asarray(jax.jit(lambda x: field.normal(values, x, SPEC))(x))
    density = jax.jit(lambda x: field.density(values, x, SPEC))
    step = 2e-3
    slope = [density(x + step * e) - density(x - step * e) for e in jnp.eye(3)]
    want = -np.stack(slope, -1) / np.linalg.norm(np.stack(slope, -1), axis=-1, keepdims=True)
    agree = np.sum(got * want, -1)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1.0, rtol=1e-5)
    assert np.mean(agree > 0.999) > 0.8 and np.median(agree) > 0.9999


def test_normals_have_gradients_and_survive_a_vanishing_slope():
    values = params()
    x = jax.random.uniform(jax.random.key(4), (20, 3), minval=-0.6, maxval=0.6)
    direction = jax.random.normal(jax.random.key(5), x.shape)

    @jax.jit
    def value(scale):
        moved = values | {"encoding": tuple(g * scale for g in values["encoding"])}
        return jnp.sum(field.normal(moved, x, SPEC) * direction)

    slope = jax.jit(jax.grad(value))(1.0)
    np.testing.assert_allclose(slope, (value(1.005) - value(0.995)) / 0.01, rtol=0.02, atol=1e-3)
    flat = jax.tree.map(jnp.zeros_like, values)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(field.normal(p, jnp.zeros((1, 3)), SPEC))))(flat)
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads))
