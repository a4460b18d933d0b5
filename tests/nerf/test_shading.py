"""Shading: the colour of a point under its light, and where the light is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.nerf import shading


def test_shading():
    albedo = jnp.array([[0.5, 0.25, 1.0]])
    up, at, light = jnp.array([[0, 0, 1.0]]), jnp.zeros((1, 3)), jnp.array([[0, 0, 2.0]])
    half = jnp.float32(0.5)
    np.testing.assert_allclose(shading.shade(albedo, up, at, light, half, shading.ALBEDO), albedo)
    np.testing.assert_allclose(
        shading.shade(albedo, -up, at, light, half, shading.DIFFUSE), albedo * 0.5
    )
    np.testing.assert_allclose(shading.shade(albedo, up, at, light, half, shading.TEXTURELESS), 1.0)
    keys = jax.random.split(jax.random.key(0), 400)
    kinds = jax.vmap(lambda k: shading.draw(k, jnp.ones((1, 4, 3)), 10, start_step=10)[0])(keys)
    assert 0.15 < np.mean(kinds == shading.ALBEDO) < 0.35
    before, *_ = shading.draw(jax.random.key(1), jnp.ones((1, 4, 3)), 9, start_step=10)
    assert int(before) == shading.ALBEDO


def test_views_of_a_group_share_the_offset_and_the_distance_of_their_light():
    """normalize(own camera + the group's offset) * the group's distance, in two groups of three."""
    rng = np.random.default_rng(0)
    camera = rng.normal(size=(2, 3, 3)).astype(np.float32)
    _, _, light = shading.draw(jax.random.key(3), jnp.asarray(camera), 0, start_step=0)
    light = np.asarray(light, np.float64)
    distance = np.linalg.norm(light, axis=-1)
    np.testing.assert_allclose(distance, distance[:, :1].repeat(3, 1), rtol=1e-6)
    assert (distance >= 0.8).all() and (distance <= 1.5).all()
    assert abs(distance[0, 0] - distance[1, 0]) > 1e-3  # each group draws its own
    offsets = []
    for group in range(2):
        # camera_i + offset = s_i * light_i for three views: 9 equations, 6 unknowns
        matrix, right = np.zeros((9, 6)), np.zeros(9)
        for i in range(3):
            matrix[3 * i : 3 * i + 3, :3] = np.eye(3)
            matrix[3 * i : 3 * i + 3, 3 + i] = -light[group, i]
            right[3 * i : 3 * i + 3] = -camera[group, i]
        solution, residual, *_ = np.linalg.lstsq(matrix, right)
        assert residual[0] < 1e-10, residual
        assert (solution[3:] > 0).all()
        offsets.append(solution[:3])
    assert np.abs(offsets[0] - offsets[1]).max() > 0.1


def test_light_is_a_cosine_and_an_ambient_share():
    """Two points with lights of their own, float64 by hand."""
    rng = np.random.default_rng(0)
    albedo = rng.random((3, 3))
    normal = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    position = rng.normal(size=(3, 3))
    light = position + np.array([[0.0, 0.0, 5.0], [3.0, 4.0, 0.0], [0.0, 1.0, 1.0]])
    lit = 0.3 + 0.7 * np.array([0.8, 0.8, 0.0])[:, None]
    given = [jnp.asarray(x) for x in (albedo, normal, position, light)]
    for kind, want in ((shading.ALBEDO, albedo), (shading.DIFFUSE, albedo * lit),
                       (shading.TEXTURELESS, lit + 0 * albedo)):  # fmt: skip
        got = shading.shade(*given, jnp.float32(0.3), jnp.int32(kind))
        np.testing.assert_allclose(got, want, rtol=1e-5)
    at_the_light = shading.shade(*given[:3], given[2], jnp.float32(0.3), jnp.int32(shading.DIFFUSE))
    np.testing.assert_allclose(at_the_light, 0.3 * albedo, rtol=1e-5)


@jax.jit
def draws(keys, camera, step, given):
    return jax.vmap(lambda key: shading.draw(key, camera, step, **given))(keys)


def many(camera, step=5, **changes):
    """3,000 draws of kind, ambient and light, of two groups of two views."""
    keys = jax.random.split(jax.random.key(1), 3000)
    camera = jnp.broadcast_to(jnp.asarray(camera, jnp.float32), (2, 2, 3))
    given = dict(start_step=5, probability=0.75, light_distance=(0.8, 1.5))
    return draws(keys, camera, step, given | changes)


def test_what_is_drawn_for_an_iteration():
    """Cameras so far away that the noise about them hardly turns the light."""
    camera = jnp.array([[[200.0, 0, 0], [0, 300.0, 0]], [[0, 0, 100.0], [-90.0, 0, 0]]])
    kind, ambient, light = map(np.asarray, many(camera))
    shares = np.bincount(kind, minlength=3) / 3000
    want = np.array([0.25, 0.375, 0.375])  # probability .75, half of it without texture
    np.testing.assert_allclose(shares[[shading.ALBEDO, shading.DIFFUSE, shading.TEXTURELESS]],
                               want, atol=0.035)  # fmt: skip
    assert ambient.min() >= 0 and ambient.max() <= 1 and abs(ambient.mean() - 0.5) < 0.03
    assert abs(np.std(ambient) - 12**-0.5) < 0.02
    distance = np.linalg.norm(light, axis=-1)  # [3000, G, V]
    assert 0.8 <= distance.min() < 0.81 and 1.49 < distance.max() <= 1.5001
    assert abs(distance.mean() - 1.15) < 0.02
    direction = light / distance[..., None]
    own = np.asarray(camera / np.linalg.norm(camera, axis=-1, keepdims=True))
    assert (np.sum(direction * own, -1) > 0.99).all()  # each view's light is at its own camera
    # no two numbers of an iteration follow from one another
    drawn = np.stack([kind == shading.ALBEDO, kind == shading.DIFFUSE, ambient, distance[:, 0, 0],
                      distance[:, 1, 0], direction[:, 0, 0, 1], direction[:, 1, 0, 0]])  # fmt: skip
    apart = np.corrcoef(drawn) - np.eye(7)
    apart[0, 1] = apart[1, 0] = 0.0
    assert np.abs(apart).max() < 0.08, apart


def test_the_noise_about_the_camera_is_normal():
    """With cameras at the origin the light is where the noise is: all round."""
    _, _, light = many(jnp.zeros(3), light_distance=(1.0, 1.0))
    light = np.asarray(light)[:, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(light, axis=-1), 1.0, rtol=1e-5)
    assert np.abs(light.mean(0)).max() < 0.05
    np.testing.assert_allclose(np.cov(light.T), np.eye(3) / 3, atol=0.03)
    # two units away the noise of unit size turns it by about half a radian
    _, _, light = many([2.0, 0.0, 0.0], light_distance=(1.0, 1.0))
    assert 0.35 < np.std(np.asarray(light)[:, 0, 0, 1]) < 0.5


@pytest.mark.parametrize(
    ("step", "probability", "share"), [(4, 1.0, 0), (5, 1.0, 1), (9, 0.25, 0.25)]
)
def test_shading_begins_at_its_iteration(step, probability, share):
    kind, *_ = many(jnp.ones(3), step, probability=probability)
    assert np.mean(np.asarray(kind) != shading.ALBEDO) == pytest.approx(share, abs=0.03)
