"""One object explains its own views better than views of several objects."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import consistency
from iso3d_jax.reconstruction.spec import make_spec


@pytest.fixture(scope="module")
def base():
    return config_files.load_config("configs/reconstruct.py:tiny")


def test_cameras_are_the_drafts_unless_given(base):
    spec = consistency.fit_spec(make_spec(base), 32)
    azimuth, elevation = np.array([0.0, 90, 200]), np.array([15.0, -5, 30])
    found = consistency.make_cameras(azimuth, elevation, spec.draft)
    np.testing.assert_allclose(found.azimuth_deg, azimuth[None])
    np.testing.assert_allclose(found.elevation_deg, elevation[None])
    np.testing.assert_allclose(found.fov_deg, np.full((1, 3), 40.0))
    want = spec.draft.distance / np.tan(np.radians(20.0))
    np.testing.assert_allclose(found.distance, np.full((1, 3), want), rtol=1e-5)
    given = consistency.make_cameras(azimuth, elevation, spec.draft, np.array([20.0, 30, 60]))
    want = spec.draft.distance / np.tan(np.radians(np.array([[10.0, 15, 30]])))
    np.testing.assert_allclose(given.distance, want, rtol=1e-5)
    given = consistency.make_cameras(azimuth, elevation, spec.draft, 25.0, np.array([2.0, 3, 4]))
    np.testing.assert_allclose(given.fov_deg, np.full((1, 3), 25.0))
    np.testing.assert_allclose(given.distance, [[2.0, 3, 4]])
    assert all(x.dtype == jnp.float32 for x in found)


def test_the_fit_is_the_same_whatever_the_configs_own_settings_are(base):
    other = base.copy_and_resolve_references()
    other.seed, other.optimizer.encoding, other.field.levels = 9, 1.0, 3
    first, second = (consistency.fit_spec(make_spec(cfg), 32, steps=7) for cfg in (base, other))
    assert first == second
    assert (first.steps, first.steps_per_call, first.seed, first.draft.steps) == (7, 7, 0, 7)
    assert base.seed == 22 and base.steps == 200  # the given one is left alone
    for section, values in consistency.FIT.items():
        for key, value in values.items():
            assert getattr(getattr(first, section), key) == value, f"{section}.{key}"


def test_each_object_is_explained_with_its_own_views_and_cameras(base, monkeypatch):
    spec = consistency.fit_spec(make_spec(base), 8)
    views = np.arange(2.0)[:, None, None, None, None] + np.zeros((2, 3, 8, 8, 3))
    azimuth, elevation = np.array([[0.0, 90, 180], [10, 100, 190]]), np.full((2, 3), 7.0)

    def explain(of_one, cameras, cfg):
        assert cameras.azimuth_deg[0, 0] == 10 * of_one.max() and cameras.elevation_deg[0, 0] == 7
        return 20 + of_one.max(), of_one

    monkeypatch.setattr(consistency, "explain", explain)
    np.testing.assert_array_equal(
        consistency.consistency(views, azimuth, elevation, spec), [20.0, 21.0]
    )


@pytest.mark.slow
def test_views_of_one_object_score_higher_than_shuffled_ones(base):
    table = MultiViewTable.load("samples", "train")
    images = np.asarray(on_white(table.images[:4, :4].astype(np.float32) / 255))
    images = images.reshape(4, 4, 32, 2, 32, 2, 3).mean((3, 5))
    spec = consistency.fit_spec(make_spec(base), 32, steps=120)
    cameras = consistency.make_cameras(
        table.azimuth_deg[0, :4], table.elevation_deg[0, :4], spec.draft, table.fov_deg[0, :4],
        table.distance[0, :4],
    )  # fmt: skip
    right, shown = consistency.explain(images[0], cameras, spec)
    mixed, _ = consistency.explain(images[np.arange(4), np.arange(4)], cameras, spec)
    blank, _ = consistency.explain(np.ones_like(images[0]), cameras, spec)
    assert shown.shape == images[0].shape
    assert right > mixed + 2 and blank > right
    # The cameras a model's views are assumed to have, unless others are given.
    default = consistency.make_cameras(np.zeros(4), np.full(4, 15.0), spec.draft)
    assert float(default.distance[0, 0] * np.tan(np.radians(20))) == pytest.approx(1.075, rel=1e-4)
