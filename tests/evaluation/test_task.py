"""Which view is the picture, which are the targets, and what the two baselines answer; by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from iso3d_jax import sampling
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import views
from iso3d_jax.geometry import cameras

# Two objects of two sets; the picture of the first is view 5 (28 degrees), of the second view 2.
AZIMUTH = np.array(
    [
        [90.0, 180.0, 270.0, 0.0, 298.0, 28.0, 118.0, 208.0],
        [200.0, 290.0, 20.0, 110.0, 50.0, 140.0, 230.0, 320.0],
    ]
)
ELEVATION = np.arange(16.0).reshape(2, 8)
FOV = 20 + np.arange(16.0).reshape(2, 8)


@pytest.fixture(scope="module")
def table():
    """Every view a colour of its own, half transparent in its lower half."""
    images = np.zeros((2, 8, 8, 8, 4), np.uint8)
    images[..., :3] = (10 * np.arange(16).reshape(2, 8) + 20)[..., None, None, None]
    images[..., :4, :, 3], images[..., 4:, :, 3] = 255, 102  # 0.4
    return MultiViewTable(images, AZIMUTH, ELEVATION, FOV, FOV / 9, ["a", "b"])


def colour_of(obj, view):
    return (10 * (8 * obj + view) + 20) / 255


def test_the_picture_is_the_view_nearest_to_thirty_degrees(table):
    np.testing.assert_array_equal(views.picture_views(table), [5, 2])


def test_targets_are_the_first_set_without_the_picture_at_its_cameras(table):
    task = views.make_task(table, "framed")
    assert task.names == ["a", "b"] and len(task) == 2
    np.testing.assert_allclose(
        task.azimuth_deg[0], np.array([90, 180, 270, 0]) - 28 + [0, 0, 0, 360]
    )
    np.testing.assert_allclose(task.azimuth_deg[1], [30, 120, 210, 300])
    np.testing.assert_array_equal(task.elevation_deg, [[0, 1, 2, 3], [12, 13, 14, 15]])
    np.testing.assert_array_equal(task.fov_deg, [[20, 21, 22, 23], [32, 33, 34, 35]])
    np.testing.assert_array_equal(task.distance, task.fov_deg / 9)
    for i, picture in enumerate((5, 2)):
        np.testing.assert_allclose(task.pictures[i, 0, 0], colour_of(i, picture), atol=1e-6)
        low = 0.4 * colour_of(i, picture) + 0.6  # on white
        np.testing.assert_allclose(task.pictures[i, -1, 0], low, atol=1e-3)
        for k in range(4):
            colour = colour_of(i, 4 * i + k)
            np.testing.assert_allclose(task.truth[i, k, 0, 0], colour, atol=1e-6)
            np.testing.assert_allclose(task.truth[i, k, -1, 0], 0.4 * colour + 0.6, atol=1e-3)


def test_parts_of_a_task_stay_together(table):
    assert list(views.spaced(5, 3)) == [0, 2, 4] and list(views.spaced(2, 9)) == [0, 1]
    task = views.make_task(table, "framed")
    assert task.spaced(2) is task
    last = dataclasses.replace(task, truth=None)._take(np.array([1]))
    assert last.names == ["b"] and last.truth is None
    np.testing.assert_array_equal(last.azimuth_deg, task.azimuth_deg[1:])
    np.testing.assert_array_equal(last.pictures, task.pictures[1:])
    first = task.first(1)
    assert first.names == ["a"]
    np.testing.assert_array_equal(first.truth, task.truth[:1])


def test_each_object_and_set_is_drawn_at_its_cameras_with_noise_of_its_own(
    table, random_model, monkeypatch
):
    task = views.make_task(table, "framed")
    double = dataclasses.replace(
        task,
        azimuth_deg=np.concatenate([task.azimuth_deg, task.azimuth_deg + 7], 1),
        elevation_deg=np.concatenate([task.elevation_deg, task.elevation_deg + 3], 1),
        fov_deg=np.concatenate([np.full((2, 4), 30.0), np.full((2, 4), 50.0)], 1),
        distance=np.concatenate([np.full((2, 4), 4.0), np.full((2, 4), 2.5)], 1),
    )
    config = dataclasses.replace(random_model.config, camera_encoding="harmonics_lens")
    random_model = dataclasses.replace(random_model, config=config)
    seen = []

    def sample_latents(unet, context, camera, alphas, key, **options):
        seen.append((context, np.asarray(camera), jax.random.key_data(key).tolist(), options))
        return np.full((1, 4, 1, 1, 1), len(seen) / 4, np.float32)

    monkeypatch.setattr(sampling, "embed_pictures", lambda model, pictures: pictures.mean())
    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    monkeypatch.setattr(sampling, "decode_views", lambda vae, z: z)
    drawn = views.generate(random_model, double, steps=3, seed=5)
    assert drawn.shape == (2, 8, 1, 1, 1)  # latents 1/4, ... over the model's scale of 0.5
    np.testing.assert_allclose(drawn[..., 0, 0, 0], np.repeat([[0.5, 1.0], [1.5, 2.0]], 4, 1))
    encoding = random_model.config.sampling_cameras
    keys = []
    for n, (context, camera, key, options) in enumerate(seen):
        i, s = divmod(n, 2)
        where = slice(4 * s, 4 * s + 4)
        want = cameras.camera_condition(
            double.elevation_deg[i, where], double.azimuth_deg[i, where], encoding,
            double.fov_deg[i, where], double.distance[i, where],
        )  # fmt: skip
        np.testing.assert_array_equal(camera, want)
        assert context == task.pictures[i].mean() and options["steps"] == 3
        keys.append(key)
    assert len({tuple(key) for key in keys}) == 4
    seen.clear()
    views.generate(random_model, task, steps=3, seed=5)  # the first set alone: the same noise
    assert [one[2] for one in seen] == keys[::2]
    seen.clear()
    views.generate(random_model, task, steps=3, seed=6)
    assert seen[0][2] not in keys


def test_the_nearest_object_answers_with_its_views_nearest_to_the_wanted_cameras(
    table, random_model, monkeypatch, capsys
):
    """Pictures are told apart by their colour; the task's is the second object's view 2."""
    monkeypatch.setattr(views, "EMBEDDED_TOGETHER", 9)  # an object at a time
    task = dataclasses.replace(
        views.make_task(table, "framed")._take(np.array([1])),
        azimuth_deg=np.array([[31.0, 359.0, 120.0, 180.0]]),
        elevation_deg=np.array([[12.0, 10.0, 13.0, 8.0]]),
    )

    def embed_all(model, pictures):
        angle = np.asarray(pictures)[:, 0, 0, 0] * np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle)], -1)

    monkeypatch.setattr(views, "embed_all", embed_all)
    out, names = views.retrieve(random_model, task, table, "framed")
    assert names == ["b"]
    assert "looking for the nearest training objects: 2/2" in capsys.readouterr().err
    # From view 2's 20 degrees: 31 is nearest to 50 (view 4), 359 to 20 (view 2), 120 to 140
    # (view 5), 180 to 200 (view 0).
    for k, view in enumerate((4, 2, 5, 0)):
        np.testing.assert_allclose(out[0, k, 0, 0], colour_of(1, view), atol=1e-6)
        np.testing.assert_allclose(out[0, k, -1, 0], 0.4 * colour_of(1, view) + 0.6, atol=1e-3)
    # Elevation counts as much as azimuth: 20 degrees away in height is worse than 10 round.
    both = dataclasses.replace(table, azimuth_deg=table.azimuth_deg.copy())
    both.azimuth_deg[1, 3] = 60.0
    both.elevation_deg = table.elevation_deg.copy()
    both.elevation_deg[1, 4] = 40.0
    out, _ = views.retrieve(random_model, task, both, "framed")
    np.testing.assert_allclose(out[0, 0, 0, 0], colour_of(1, 3), atol=1e-6)
