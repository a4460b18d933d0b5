"""Which density the surface takes, and that a draft's networks learn at a pace of their own."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.errors import EmptySurface, UserError
from iso3d_jax.reconstruction import run, settings, state, surface


def test_half_maximum_is_where_a_soft_rim_is_half_way_up():
    """A ball whose density falls linearly over a wide rim, in much empty space."""
    axis = np.linspace(-1, 1, 64)
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    density = 40.0 * np.clip((0.6 - distance) / 0.2, 0, 1)  # full within .4, nothing beyond .6
    level = surface.half_maximum(density, 2.0)
    inside = density[density > 2.0]
    assert level == 0.5 * np.median(inside) and 10 < level <= 20
    assert surface.half_maximum(np.pad(density, 64), 2.0) == level  # emptiness does not count
    assert surface.half_maximum(3 * density, 6.0) == pytest.approx(3 * level)
    hard = np.where(distance < 0.5, 40.0, 0.0)
    assert surface.half_maximum(hard, 2.0) == 20.0
    assert surface.half_maximum(density, 39.0) == 39.0  # never outside the outline
    assert surface.half_maximum(density, 99.0) == 99.0  # nothing is as dense


def test_surface_of_a_blob_is_inside_its_outline_where_half_is_asked_for(small_config):
    cfg = small_config
    blob = state.start(cfg)  # softplus of a cone: a rim as soft as can be
    blob = blob._replace(occs=jnp.ones_like(blob.occs))
    cfg.show.surface = "outline"
    outer, overlap = surface.choose_surface(blob, cfg)
    assert (outer, overlap) == surface.choose_threshold(blob, cfg)
    cfg.show.surface = "half"
    half, _ = surface.choose_surface(blob, cfg)
    x = np.random.default_rng(0).uniform(-1, 1, (200_000, 3)).astype(np.float32)
    density = surface.visible_density(blob.params, x, cfg)
    wanted = 0.5 * np.median(density[density > outer])
    assert half == pytest.approx(max(wanted, outer), rel=0.02)
    del cfg.show["surface"]  # as in runs from before there was a choice
    assert surface.choose_surface(blob, cfg)[0] == outer
    cfg.show.surface = "middle"
    with pytest.raises(UserError, match=r"config\.show\.surface is 'outline' or 'half'"):
        settings.check(cfg)


def test_an_empty_scene_has_no_surface(small_config):
    small_config.field.blob_scale, small_config.field.blob_std = -30.0, 1e3  # no density anywhere
    empty = state.start(small_config)
    empty = empty._replace(occs=jnp.ones_like(empty.occs))
    with pytest.raises(EmptySurface):
        surface.choose_surface(empty, small_config)


def test_a_draft_s_networks_have_their_own_learning_rate(small_config):
    small_config.draft.networks, small_config.optimiser.networks = 0.5, 0.25
    draft = run.draft_config(small_config, 16)
    assert draft.optimiser.networks == 0.5 and small_config.optimiser.networks == 0.25
    assert draft.optimiser.encoding == small_config.optimiser.encoding
