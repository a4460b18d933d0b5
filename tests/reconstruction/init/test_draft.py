"""A draft: its config, the cameras of its sets, how it is fitted and what begins from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import loop, state
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.losses import DenoiserSpec
from iso3d_jax.reconstruction.spec import make_spec

SETS = ((20.0, 10.0), (50.0, -5.0))
SPEC = DenoiserSpec(24, 1.0, "v", "mvdream")


@pytest.fixture
def cfg(small_config):
    small_config.draft.update(steps=7, networks=0.125, sets=SETS, fov_deg=50.0, distance=1.3,
                              white=(0.1, 0.3), hull_resolution=6)  # fmt: skip
    return small_config


def drawn(size=8):
    """Two sets of three views that all differ: white, with a box of a grey of its own."""
    views = np.ones((2, 3, size, size, 3), np.float32)
    for k in range(6):
        views[k // 3, k % 3, 2 : 3 + k % 4, 1 : 4 + k % 3] = 0.1 + 0.1 * k
    return views


def test_the_config_of_a_draft(cfg):
    before = cfg.to_dict()
    of = draft.draft_spec(make_spec(cfg), 24)
    assert cfg.to_dict() == before  # a copy
    assert (of.mode, of.steps, of.phases) == ("views", 7, ((7, 24, 1),))
    assert of.occupancy.warmup == 7 and of.optimizer.networks == 0.125
    whole = make_spec(cfg)
    kept = {name: getattr(whole, name) for name in ("mode", "steps", "phases", "occupancy")}
    rates = dataclasses.replace(of.optimizer, networks=cfg.optimizer.networks)
    grid = dataclasses.replace(of.occupancy, warmup=cfg.occupancy.warmup)
    assert grid == whole.occupancy
    assert dataclasses.replace(of, **kept, optimizer=rates) == whole  # and nothing else


def test_the_cameras_of_the_sets_are_what_the_sampling_assumed(cfg):
    sides = draft.sampled_cameras(3, make_spec(cfg))
    np.testing.assert_allclose(sides.azimuth_deg, [[20, 140, 260], [50, 170, 290]], atol=1e-4)
    np.testing.assert_allclose(sides.elevation_deg, [[10] * 3, [-5] * 3])
    np.testing.assert_allclose(sides.fov_deg, np.full((2, 3), 50.0))
    distance = 1.3 / np.tan(np.radians(25.0))
    np.testing.assert_allclose(sides.distance, np.full((2, 3), distance), rtol=1e-6)


def test_masks_have_the_config_s_white(cfg):
    views = np.ones((1, 1, 1, 4, 3), np.float32)
    views[0, 0, 0, :, 1] = [1.0, 0.85, 0.8, 0.6]
    np.testing.assert_allclose(
        draft.outlines(views, make_spec(cfg))[0, 0], [0, 0.25, 0.5, 1], atol=1e-5
    )


def test_the_source_has_a_ray_and_a_colour_for_each_pixel_in_order(cfg):
    cfg.draft.hull = 0.0
    views = drawn()
    source = draft.make_source(views, make_spec(cfg))
    assert source.hull is None
    np.testing.assert_array_equal(source.rgb, views.reshape(-1, 3))
    np.testing.assert_array_equal(source.mask, draft.outlines(views, make_spec(cfg)).reshape(-1))
    places = np.asarray(source.rays_o).reshape(6, 64, 3)[:, 0]
    azimuth = np.degrees(np.arctan2(places[:, 1], places[:, 0])) % 360
    np.testing.assert_allclose(azimuth, [20, 140, 260, 50, 170, 290], atol=1e-3)
    cfg.draft.hull = 1.0
    hull = draft.make_source(views, make_spec(cfg)).hull
    assert hull.shape == (6, 6, 6)
    np.testing.assert_array_equal(hull, draft.sampled_hull(views, make_spec(cfg)))


def test_the_hull_is_asked_for_by_the_surface(cfg):
    for threshold, surface, want in ((0.0, "hull", True), (0.0, "outline", False),
                                     (25.0, "hull", False)):  # fmt: skip
        cfg.mesh.threshold, cfg.show.surface = threshold, surface
        assert draft.wants_hull(make_spec(cfg)) == want


def test_views_of_a_run_are_read_or_refused(tmp_path):
    file = tmp_path / "views.npz"
    np.savez(file, views=drawn(), prepared=drawn()[0, 0])
    np.testing.assert_array_equal(draft.load_views(file), drawn())
    np.testing.assert_array_equal(draft.load_prepared(file), drawn()[0, 0])
    np.savez(file, pictures=drawn())
    with pytest.raises(UserError, match=r"views\.npz is damaged; delete it"):
        draft.load_views(file)


@pytest.fixture
def optimize(monkeypatch):
    """Stands for the optimisation: keeps what it is given, and adds seven iterations."""
    kept = {}

    def optimize(current, source, spec, denoiser_spec, folder, metadata, **given):
        kept.update(given, step=int(current.step), source=source, spec=spec,
                    denoiser_spec=denoiser_spec,
                    folder=folder, metadata=metadata)  # fmt: skip
        end = current._replace(step=jnp.int32(7), skipped=jnp.int32(2))
        state.save(folder, end, metadata)
        history = {"wanted_candidates": [0.5, 1.5], "wanted_samples": [0.25]}
        return end, history, {"compile": 1.234, "iterations": 2.0}

    monkeypatch.setattr(loop, "optimize", optimize)
    return kept


def test_a_draft_is_fitted_in_a_folder_of_its_own_and_goes_on_there(cfg, tmp_path, optimize):
    assert not draft.is_begun(tmp_path)
    programs, metadata = {}, {"picture": "p", "config": cfg.to_dict()}
    current, seconds, facts = draft.fit(
        "source", make_spec(cfg), SPEC, tmp_path, metadata, programs
    )
    assert draft.is_begun(tmp_path) and optimize["folder"] == tmp_path / "draft"
    assert optimize["source"] == "source" and optimize["programs"] is programs
    assert optimize["step"] == 0 and optimize["denoiser_spec"] is SPEC
    assert optimize["spec"] == draft.draft_spec(make_spec(cfg), 24)
    assert optimize["metadata"]["picture"] == "p" and metadata["config"]["mode"] == "sds"
    assert optimize["metadata"]["config"] == draft.draft_spec(make_spec(cfg), 24).to_dict()
    assert seconds == {"draft_compile": 1.23, "draft_iterations": 2.0}
    assert facts == {"seed": 22, "skipped_iterations": 2, "changes": [],
                     "wanted": {"candidates": 1.5, "samples": 0.25}}  # fmt: skip
    assert int(current.step) == 7

    state.save(tmp_path / "draft", current._replace(step=jnp.int32(3)), optimize["metadata"])
    cfg.seed = 5
    _, _, facts = draft.fit("source", make_spec(cfg), SPEC, tmp_path, metadata, programs)
    assert optimize["step"] == 3 and facts["seed"] == 5
    assert [(c["key"], c["iteration"]) for c in facts["changes"]] == [("seed", 3)]


def test_a_draft_is_shown_while_it_grows_and_not_when_distillation_takes_it_on(
    cfg, tmp_path, optimize
):
    shown, of = [], make_spec(cfg)
    draft.fit("source", of, SPEC, tmp_path, {"config": cfg.to_dict()}, {}, preview=lambda current,
              step: shown.append(step))  # fmt: skip
    for step in (2, of.draft.steps - 1, of.draft.steps):
        optimize["preview"](None, step)
    assert shown == [2, of.draft.steps - 1]


def test_distillation_begins_after_its_part_of_the_schedules(cfg):
    """With the scene and the grid of the draft, and an optimizer that knows nothing."""
    end = state.start(make_spec(cfg))
    end = end._replace(
        step=jnp.int32(7), occs=end.occs + 0.5, skipped=jnp.int32(2), in_a_row=jnp.int32(1),
        params=jax.tree.map(lambda x: x + 1.0, end.params),
        opt_state=jax.tree.map(lambda x: x + 1, end.opt_state),
    )  # fmt: skip
    cfg.init_skip, cfg.steps = 0.39, 20
    begin = draft.begin_from(end, make_spec(cfg))
    assert int(begin.step) == 8 and begin.step.dtype == jnp.int32
    assert (int(begin.skipped), int(begin.in_a_row)) == (0, 0)
    np.testing.assert_array_equal(begin.occs, end.occs)
    for a, b in zip(*(jax.tree.leaves(x.params) for x in (begin, end)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.any(x) for x in jax.tree.leaves(begin.opt_state))
