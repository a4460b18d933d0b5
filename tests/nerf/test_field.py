"""Density, its blob and the normals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.nerf import field, look_up
from iso3d_jax.nerf.field import FieldSpec

SPEC = FieldSpec(levels=4, log2_table_size=10, base_resolution=4, growth=1.5, hidden=16)


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


def test_a_hardened_field_has_the_same_surface_and_a_steeper_edge():
    x = jax.random.uniform(jax.random.key(6), (500, 3), minval=-0.6, maxval=0.6)
    density, colour = field.density_and_albedo(params(), x, SPEC)
    level = float(jnp.median(density))
    hard = field.sharpen(params(), level, 3.0)
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


def test_initial_weights_have_the_bounds_of_torch_and_of_the_grid():
    """U(-1 / sqrt(in), 1 / sqrt(in)) for the matrices, and all of them drawn apart."""
    spec = FieldSpec(levels=3, features=3, log2_table_size=9, hidden=25)
    values = field.init(jax.random.key(0), spec)
    for name, columns in (("density", 1), ("colour", 3)):
        for side, shape in (("in", (9, 25)), ("out", (25, columns))):
            matrix, bound = np.asarray(values[name][side]), shape[0] ** -0.5
            assert matrix.shape == shape and matrix.dtype == np.float32
            low, high = matrix.min() / bound, matrix.max() / bound
            assert -1 <= low < -0.8 and 0.8 < high <= 1, (name, side)
            assert abs(matrix.mean()) < 2.5 * bound / np.sqrt(3 * matrix.size)
    pairs = [(values["density"]["in"], values["colour"]["in"]),
             (values["density"]["out"], values["colour"]["out"][:, :1])]  # fmt: skip
    pairs.append((values["density"]["out"][:, 0], values["density"]["in"][0]))
    for a, b in pairs:
        assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 0.6
    for level in values["encoding"]:
        level = np.asarray(level)
        assert -1e-4 <= level.min() < -0.99e-4 and 0.99e-4 < level.max() <= 1e-4
    a, b = (np.asarray(level[:400]) for level in values["encoding"][:2])
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    other = field.init(jax.random.key(1), spec)
    assert all(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (values, other)), strict=True))


def test_density_and_colour_by_hand():
    """Two networks without biases on one encoding, float64; a scene of another radius and blob."""
    spec = dataclasses.replace(SPEC, radius=0.5, blob_scale=3.0, blob_std=0.8)
    values = params()
    x = np.random.default_rng(0).uniform(-0.7, 0.7, (30, 3))  # some of them outside of the box
    unit = np.clip((x + 0.5) / 1.0, 0.0, 1.0)
    features = np.asarray(
        look_up.encode(values["encoding"], jnp.asarray(unit), spec.grid), np.float64
    )

    def network(name):
        hidden = np.maximum(features @ np.asarray(values[name]["in"], np.float64), 0.0)
        return hidden @ np.asarray(values[name]["out"], np.float64)

    blob = 3.0 * (1.0 - np.linalg.norm(x, axis=-1) / 0.8)
    want = np.log1p(np.exp(network("density")[:, 0] + blob))
    density, colour = field.density_and_albedo(values, jnp.asarray(x), spec)
    np.testing.assert_allclose(density, want, rtol=2e-4)
    np.testing.assert_allclose(colour, 1 / (1 + np.exp(-network("colour"))), rtol=2e-4)
    np.testing.assert_allclose(field.density(values, jnp.asarray(x), spec), want, rtol=2e-4)


def test_what_a_hardened_field_shows():
    """level * (density / level)^sharpness, held beyond 20 levels."""
    hard = field.sharpen({"colour": 0}, 4.0, 3.0)
    got = field.display_density(jnp.array([2.0, 4.0, 6.0, 80.0, 800.0]), hard)
    np.testing.assert_allclose(got, [0.5, 4.0, 13.5, 32_000.0, 32_000.0], rtol=1e-5)
    np.testing.assert_allclose(field.display_density(jnp.array([3.0]), {}), 3.0)
    assert field.raw_field(hard) == {"colour": 0}
    assert hard["edge"] == {"level": 4.0, "sharpness": 3.0}


def test_normals_point_outwards_of_the_blob():
    empty = jax.tree.map(jnp.zeros_like, params())
    x = jnp.array([[0.3, 0.0, 0.0], [-0.1, 0.2, -0.2], [0.0, 0.0, 0.0]])
    want = [[1, 0, 0], [-1 / 3, 2 / 3, -2 / 3], [0, 0, 0]]
    np.testing.assert_allclose(field.normal(empty, x, SPEC), want, atol=1e-5)
