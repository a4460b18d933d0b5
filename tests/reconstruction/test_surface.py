"""Which density the surface takes, and that a draft's networks learn at a pace of their own."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core import specs
from iso3d_jax.core.errors import EmptySurface, UserError
from iso3d_jax.reconstruction import state, surface
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec


def ball(radius, size=32):
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    return np.clip((radius - np.linalg.norm(grid, axis=0)) * size / 2 + 0.5, 0, 1)


def test_level_like_finds_the_shell_of_a_soft_rim_that_is_asked_for():
    """Density falls linearly from 40 at .3 to nothing at .7; its levels are balls."""
    axis = np.linspace(-1, 1, 80)
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    density = 40.0 * np.clip((0.7 - distance) / 0.4, 0, 1)
    for radius in (0.4, 0.5, 0.65):
        level, overlap = surface.level_like(density, distance < radius, 0.5)
        assert level == pytest.approx(100.0 * (0.7 - radius), rel=0.08) and overlap > 0.95
    level, overlap = surface.level_like(density, distance < 0.69, 4.0)  # no lower than it may be
    assert 4.0 <= level < 4.5 and overlap < 0.95
    assert surface.level_like(0 * density, distance < 0.5, 3.0)[1] == 0


def test_the_lowest_level_may_be_the_best():
    density = np.array([0.1, 1.01, 50.0, 100.0])
    assert surface.level_like(density, density > 1, 1.0) == (pytest.approx(1.0), 1.0)


def test_surface_follows_the_hull_of_the_views_where_the_config_says_so(small_config):
    cfg = small_config
    blob = state.start(make_spec(cfg))  # softplus of a cone: a rim as soft as can be
    blob = blob._replace(occs=jnp.ones_like(blob.occs))
    cfg.show.surface = "outline"
    outer, facts = surface.choose_surface(blob, make_spec(cfg), None)
    assert (outer, facts["silhouette_iou"]) == surface.choose_threshold(blob, make_spec(cfg))
    cfg.show.surface = "hull"
    levels = []
    for radius in (0.4, 0.3):
        hull = ball(radius)
        level, facts = surface.choose_surface(blob, make_spec(cfg), hull)
        inside = (
            surface.visible_density(blob.params, points_of(hull.shape[0]), make_spec(cfg)) > level
        )
        assert inside.sum() == pytest.approx((hull > 0.5).sum(), rel=0.1)
        assert facts["hull_iou"] > 0.85 and level > outer
        levels.append(level)
    assert levels[1] > levels[0]
    assert (
        surface.choose_surface(blob, make_spec(cfg), 0 * ball(0.3))[0] == outer
    )  # views that agree nowhere
    cfg.mesh.threshold = 25.0  # the released one
    assert surface.choose_surface(blob, make_spec(cfg), None) == (
        25.0,
        {},
    ) and not draft.wants_hull(make_spec(cfg))
    cfg.mesh.threshold = 0.0
    assert draft.wants_hull(make_spec(cfg))
    assert surface.choose_surface(blob, make_spec(cfg), None)[0] == outer
    cfg.show.surface = "middle"
    with pytest.raises(UserError, match=r"config\.show\.surface must be one of outline, hull"):
        make_spec(cfg)


def points_of(size):
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def test_an_empty_scene_has_no_surface(small_config):
    small_config.field.blob_scale, small_config.field.blob_std = -30.0, 1e3  # no density anywhere
    spec = specs.make(ReconstructionSpec, small_config)  # of numbers that no config may have
    empty = state.start(spec)
    empty = empty._replace(occs=jnp.ones_like(empty.occs))
    with pytest.raises(EmptySurface):
        surface.choose_surface(empty, spec, ball(0.3))


def test_the_hull_of_a_run_is_that_of_its_views(small_config, red_square, tmp_path):
    cfg = small_config
    cfg.draft.sets, cfg.draft.hull_resolution = ((0.0, 15.0), (45.0, 0.0)), 24
    cfg.show.surface = "outline"
    assert draft.load_hull(tmp_path, make_spec(cfg)) is None
    cfg.show.surface = "hull"
    with pytest.raises(UserError, match=r"views\.npz is missing.*give --threshold"):
        draft.load_hull(tmp_path, make_spec(cfg))
    np.savez(tmp_path / "views.npz", views=np.broadcast_to(red_square, (2, 4, 16, 16, 3)))
    hull = draft.load_hull(tmp_path, make_spec(cfg))
    assert hull.shape == (24,) * 3 and hull[11:13, 11:13, 11:13].min() == 1 == 1 - hull[0].max()
    (tmp_path / "views.npz").write_bytes((tmp_path / "views.npz").read_bytes()[:500])
    with pytest.raises(UserError, match=r"views\.npz is damaged"):
        draft.load_hull(tmp_path, make_spec(cfg))


def test_a_draft_s_networks_have_their_own_learning_rate(small_config):
    small_config.draft.networks, small_config.optimizer.networks = 0.5, 0.25
    cfg = draft.draft_spec(make_spec(small_config), 16)
    assert cfg.optimizer.networks == 0.5 and small_config.optimizer.networks == 0.25
    assert cfg.optimizer.encoding == small_config.optimizer.encoding


def test_white_inside_of_an_outline_is_the_object_where_it_is_filled(small_config):
    """A ring with a white middle, and one that is open on one side."""
    closed = np.ones((16, 16, 3), np.float32)
    closed[3:13, 3:13] = 0.4
    closed[6:10, 6:10] = 1.0
    opened = closed.copy()
    opened[7:9, :8] = 1.0
    views = np.stack([closed, opened])[None]
    small_config.draft.fill = False
    hollow = draft.outlines(views, make_spec(small_config))
    small_config.draft.fill = True
    filled = draft.outlines(views, make_spec(small_config))
    assert filled.shape == (2, 16, 16) and filled.dtype == np.float32
    assert hollow[0].sum() == 100 - 16 and filled[0].sum() == 100
    np.testing.assert_array_equal(filled[1], hollow[1])
    assert filled[0, :3].max() == 0
