"""Losses on the scene alone, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.guidance import regularizers


def test_orientation_loss_counts_only_what_faces_away():
    direction = jnp.array([[0, 0, 1.0]] * 3)
    normal = jnp.array([[0, 0, -1.0], [0, 0, 1.0], [1.0, 0, 0]])
    weights = jnp.array([0.9, 0.5, 0.7])
    away = regularizers.facing_away(normal, direction)
    loss = regularizers.orientation_loss(
        regularizers.orientation_sum(weights, away), jnp.float32(2)
    )
    np.testing.assert_allclose(loss, 0.25)
    slope = jax.grad(regularizers.orientation_sum)(weights, away)
    assert jnp.all(slope == 0)
    assert regularizers.opaque_loss(jnp.array([0.0, 1.0])) < regularizers.opaque_loss(
        jnp.array([0.5, 0.5])
    )
    assert regularizers.sparsity_loss(jnp.zeros(3)) < regularizers.sparsity_loss(jnp.ones(3))


def test_how_much_a_normal_faces_away_is_the_cosine_squared():
    normal = jnp.array([[0.6, 0.0, 0.8], [0.6, 0.0, -0.8], [0.0, 0.6, 0.8]])
    direction = jnp.array([[0.0, 0.6, 0.8], [0.0, 0.6, 0.8], [0.0, 1.0, 0.0]])
    away = regularizers.facing_away(normal, direction)
    np.testing.assert_allclose(away, [0.64**2, 0.0, 0.36], rtol=1e-5)
    total = regularizers.orientation_sum(jnp.array([0.5, 9.0, 2.0]), away)
    np.testing.assert_allclose(total, 0.5 * 0.64**2 + 0.72, rtol=1e-5)
    slope = jax.grad(regularizers.orientation_sum, 1)(jnp.array([0.5, 9.0, 2.0]), away)
    np.testing.assert_allclose(slope, [0.5, 9.0, 2.0])


@pytest.mark.parametrize(("hit", "want"), [(0, 3.0), (1, 3.0), (2, 1.5), (6, 0.5)])
def test_orientation_is_a_mean_over_the_rays_that_hit(hit, want):
    assert regularizers.orientation_loss(jnp.float32(3.0), jnp.float32(hit)) == want


def test_sparsity_and_opacity_by_hand():
    opacity = np.array([0.0, 0.3, 0.9, 1.0])
    want = np.mean(np.sqrt(opacity**2 + 0.01))
    np.testing.assert_allclose(regularizers.sparsity_loss(jnp.asarray(opacity)), want, rtol=1e-5)
    held = np.array([0.001, 0.3, 0.9, 0.999])
    want = np.mean(-held * np.log(held) - (1 - held) * np.log(1 - held))
    np.testing.assert_allclose(regularizers.opaque_loss(jnp.asarray(opacity)), want, rtol=1e-4)


def test_cross_entropy_by_hand():
    """Opacities of 0 and 1 are held away from infinity, and have no slope there."""
    opacity, wanted = np.array([0.0, 0.2, 0.7, 1.0]), np.array([0.25, 1.0, 0.5, 0.0])
    held = np.array([0.001, 0.2, 0.7, 0.999])
    want = -np.mean(wanted * np.log(held) + (1 - wanted) * np.log(1 - held))
    value, slope = jax.value_and_grad(regularizers.cross_entropy)(
        jnp.asarray(opacity), jnp.asarray(wanted)
    )
    np.testing.assert_allclose(value, want, rtol=1e-4)
    np.testing.assert_allclose(slope[1:3], [-5 / 4, (0.5 / 0.3 - 0.5 / 0.7) / 4], rtol=1e-4)
    assert slope[0] == slope[3] == 0
