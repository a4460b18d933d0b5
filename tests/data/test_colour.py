"""Colour changes by hand: hue, saturation, brightness, contrast and tint, object by object."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.colour import TO_YIQ
from iso3d_jax.data.colour import change_colours, on_white, weighed_axes

change = jax.jit(change_colours, static_argnums=2)
N = 200


def by_hand(key, rgb, strength):
    """What `change_colours` says, in float64, one object after the other."""
    keys = jax.random.split(key, 8)

    def uniform(i, low, high, *shape):
        drawn = np.asarray(jax.random.uniform(keys[i], (len(rgb), *shape)), np.float64)
        return low + (high - low) * drawn

    whole = uniform(0, 0, 1) < 0.5
    hue = np.where(whole, np.pi, 0.2) * uniform(1, -1.0, 1.0) * strength
    saturation = np.exp(strength * uniform(2, -0.5, 1.0))
    gain = np.exp(strength * uniform(3, -0.4, 0.35))
    gamma = np.exp(strength * uniform(4, -0.3, 0.3))
    tint = np.where(uniform(5, 0, 1, 1) < 0.5 * strength, uniform(6, 0.15, 1.0, 3), 1.0)
    to_yiq = TO_YIQ.astype(np.float64)
    out = np.empty(rgb.shape)
    for n in range(len(rgb)):
        y, i, q = to_yiq @ rgb[n].reshape(-1, 3).T.astype(np.float64)
        c, s = np.cos(hue[n]) * saturation[n], np.sin(hue[n]) * saturation[n]
        turned = np.linalg.inv(to_yiq) @ np.stack([y, c * i - s * q, s * i + c * q])
        bright = np.clip(turned.T * gain[n] * tint[n], 1e-4, 1.0)
        out[n] = (bright ** gamma[n]).reshape(rgb[n].shape)
    return out


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_every_change_is_the_one_that_was_drawn_for_its_object(strength):
    rgb = np.random.default_rng(0).random((N, 2, 3, 3))
    found = change(jax.random.key(5), jnp.asarray(rgb, jnp.float32), strength)
    assert found.shape == rgb.shape
    np.testing.assert_allclose(found, by_hand(jax.random.key(5), rgb, strength), atol=2e-3)


def test_no_strength_is_no_change_and_keys_and_objects_differ():
    rgb = np.broadcast_to([0.3, 0.5, 0.7], (N, 1, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(change(jax.random.key(0), rgb, 0.0), rgb, atol=1e-5)
    one, other = (np.asarray(change(jax.random.key(i), rgb, 1.0))[:, 0, 0] for i in (0, 1))
    assert len(np.unique(one.round(4), axis=0)) > N - 5  # hardly two objects alike
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.3


def test_greys_stay_grey_but_for_a_tint():
    """Hue and saturation turn about the axis of greys, to the YIQ matrix's three digits."""
    grey = np.full((N, 1, 1, 3), 0.5, np.float32)
    found = np.asarray(change(jax.random.key(2), grey, 1.0))[:, 0, 0]
    coloured = np.ptp(found, axis=1) > 0.02
    assert 0.35 < coloured.mean() < 0.65
    assert np.ptp(np.log(found[~coloured, 0])) > 0.5  # brightness and contrast vary all the same


def test_brightness_and_colour_axes():
    want = [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
    np.testing.assert_allclose(TO_YIQ, want, rtol=1e-6)
    np.testing.assert_allclose(weighed_axes(3.0), np.multiply(want, [[1], [3], [3]]), rtol=1e-6)


def test_on_white():
    rgba = np.array([[0.2, 0.4, 0.6, 0.25], [0.1, 0.9, 0.5, 0.0], [0.1, 0.9, 0.5, 1.0]])
    want = [[0.8, 0.85, 0.9], [1.0, 1.0, 1.0], [0.1, 0.9, 0.5]]
    np.testing.assert_allclose(on_white(rgba), want, rtol=1e-6)
