"""Objects held in memory: prepared references, means of areas, and drawn targets."""

import numpy as np
import pytest

from iso3d_jax.commands import paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.data import encode, multiview
from iso3d_jax.data.orthogonal_sets import SET, check_sets
from iso3d_jax.data.picture_table import PictureTable
from iso3d_jax.data.pictures import prepare_picture
from iso3d_jax.data.table import (
    MultiViewTable,
    join,
    mix_references,
    prepare_references,
    sample_targets,
    sample_views,
    shrink,
)
from iso3d_jax.weights import bundle


def some_views(n=2, m=3, size=16):
    """A thing at one side of each frame, its edge half transparent."""
    rng = np.random.default_rng(0)
    images = np.zeros((n, m, size, size, 4), np.uint8)
    images[:, :, 2:9, 1:7] = rng.integers(0, 256, (n, m, 7, 6, 4))
    images[:, :, 2:9, 1:7, 3] = 255
    images[:, :, 2:9, 6, 3] = 128
    return images


def test_a_reference_is_the_prepared_picture_with_its_alpha():
    """On white it is the prepared picture, and on black what a black ground would have shown."""
    images = some_views()
    for mode in ("centred", "launch", "i2i"):
        found = prepare_references(images, mode).astype(np.float64) / 255
        for index in np.ndindex(2, 3):
            rgb, alpha = found[index][..., :3], found[index][..., 3:]
            white = prepare_picture(images[index], 16, mode)
            black = images[index].copy()
            black[..., :3] = 0
            np.testing.assert_allclose(
                1 - alpha, prepare_picture(black, 16, mode)[..., :1], atol=0.6 / 255
            )
            clear = (white < 0.97).all(-1) & (alpha[..., 0] > 0.9)
            np.testing.assert_allclose(
                (rgb * alpha + 1 - alpha)[clear], white[clear], atol=2.0 / 255
            )
            assert clear.sum() > 15


def test_framed_pictures_of_squares_are_as_they_are_and_a_copy():
    images = some_views()
    framed = prepare_references(images, "framed")
    np.testing.assert_array_equal(framed, images)
    framed[:] = 0
    assert images.any()


def test_a_view_of_nothing_stays_nothing():
    images = some_views()
    images[0, 1, ..., 3] = np.minimum(images[0, 1, ..., 3], 127)
    found = prepare_references(images)
    assert not found[0, 1].any() and found[0, 0].any()
    images[0, 1, 5, 3, 3] = 128
    assert prepare_references(images)[0, 1].any()


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_ways_of_preparing_take_turns_from_view_to_view(shift):
    views = some_views(1, 5)[0]
    modes = ("centred", "framed", "launch")
    found = mix_references(views, modes, shift)
    for m in range(5):
        want = prepare_references(views[None, [m]], modes[(m + shift) % 3])[0, 0]
        np.testing.assert_array_equal(found[m], want)


def test_means_of_areas_are_of_what_is_seen():
    """Colours count by their alpha; where nothing is seen there is nothing."""
    rgba = np.zeros((1, 1, 4, 4, 4), np.uint8)
    rgba[0, 0, 0, 0], rgba[0, 0, 0, 1] = (200, 100, 0, 255), (100, 0, 50, 51)
    rgba[0, 0, 2:, 2:] = (30, 60, 90, 102)
    found = shrink(rgba, 2)
    assert found.shape == (1, 1, 2, 2, 4)
    alpha = (1 + 0.2) / 4
    colour = (np.array([200, 100, 0]) + 0.2 * np.array([100, 0, 50])) / 1.2
    np.testing.assert_allclose(found[0, 0, 0, 0], [*colour, 255 * alpha], atol=1)
    np.testing.assert_array_equal(found[0, 0, 1, 1], [30, 60, 90, 102])
    assert not found[0, 0, 0, 1].any() and not found[0, 0, 1, 0].any()


def a_table(n, size=8, name="a"):
    rng = np.random.default_rng(n)
    return MultiViewTable(
        images=rng.integers(0, 256, (n, 4, size, size, 4)).astype(np.uint8),
        azimuth_deg=rng.random((n, 4)), elevation_deg=rng.random((n, 4)),
        fov_deg=rng.random((n, 4)), distance=rng.random((n, 4)),
        names=[f"{name}{i}" for i in range(n)],
    )  # fmt: skip


def test_tables_are_joined_column_by_column():
    one, two = a_table(2), a_table(3, name="b")
    both = join([one, two])
    assert len(both) == 5 and both.names == ["a0", "a1", "b0", "b1", "b2"]
    for name in ("images", "azimuth_deg", "elevation_deg", "fov_deg", "distance"):
        np.testing.assert_array_equal(getattr(both, name)[2:], getattr(two, name))
        np.testing.assert_array_equal(getattr(both, name)[:2], getattr(one, name))
    with pytest.raises(UserError, match=r"\[4, 8, 8, 4\] and \[4, 16, 16, 4\]"):
        join([one, a_table(2, 16)])


def test_a_split_is_read_column_by_column(monkeypatch):
    keys = ("images", "azimuth_deg", "elevation_deg", "fov_deg", "distance")
    table = a_table(3)
    records = [
        {k: getattr(table, k)[i] for k in keys} | {"name": np.str_(table.names[i])}
        for i in range(3)
    ]
    asked = []
    monkeypatch.setattr(multiview, "open_dataset", lambda *a: asked.append(a) or records)
    found = MultiViewTable.load("here", "test")
    assert asked == [("here", "test")] and found.names == table.names
    for key in keys:
        np.testing.assert_array_equal(getattr(found, key), getattr(table, key))
    assert MultiViewTable.load("here", "test", most=2).names == table.names[:2]
    records.insert(0, {"name": "damaged"})  # whose arrays are gone

    class Damaged(list):
        def __getitem__(self, index):
            if index == 0:
                raise OSError("broken PNG")
            return super().__getitem__(index)

    monkeypatch.setattr(multiview, "open_dataset", lambda *a: Damaged(records))
    assert MultiViewTable.load("here", "test", most=2).names == table.names[:2]


def test_targets_are_any_set_and_references_any_view_of_the_others():
    rng = np.random.default_rng(1)
    azimuth = list(rng.uniform(-400, 400, (2000, 3 * SET)))
    sets, references = sample_targets(rng, 3, azimuth, 0.0)
    counts = np.bincount(sets, minlength=3) / 2000
    np.testing.assert_allclose(counts, 1 / 3, atol=0.04)
    assert (references // SET != sets).all()
    np.testing.assert_allclose(np.bincount(references, minlength=12) / 2000, 1 / 12, atol=0.03)


def test_the_share_of_references_from_the_front_half():
    """Within 90 degrees of azimuth 0, either way and whole turns on; any if none is."""
    azimuth = np.array([0.0, 89.0, 91.0, 180.0, -90.0, -91.0, 271.0, 450.0])
    facing = {0, 1, 4, 6, 7}
    rng = np.random.default_rng(2)
    sets, references = sample_targets(rng, 2, [azimuth] * 1000, 1.0)
    assert set(references.tolist()) == facing
    _, references = sample_targets(rng, 2, [azimuth] * 4000, 0.4)
    # Half of the time one of {4, 6, 7} of four, else one of {0, 1} of four.
    share = np.isin(references, list(facing)).mean()
    assert abs(share - (0.4 + 0.6 * (3 / 4 + 2 / 4) / 2)) < 0.03
    behind = np.full(8, 150.0)
    _, references = sample_targets(rng, 2, [behind] * 200, 1.0)
    assert set(references.tolist()) == set(range(8))


def test_of_a_single_set_the_reference_is_one_of_its_views():
    sets, references = sample_targets(np.random.default_rng(0), 1, [np.arange(4.0)] * 100, 0.0)
    assert not sets.any() and set(references.tolist()) == {0, 1, 2, 3}


def test_objects_are_drawn_evenly_with_their_own_azimuths():
    azimuth = np.full((3, 8), 180.0)
    azimuth[1, [0, 4]] = 0.0
    drawn = sample_views(np.random.default_rng(3), 3, 2, azimuth, 600, 1.0)
    objects, sets, references = drawn
    np.testing.assert_allclose(np.bincount(objects) / 600, 1 / 3, atol=0.06)
    mine = objects == 1
    np.testing.assert_array_equal(references[mine], np.where(sets[mine] == 0, 4, 0))


def test_views_that_are_in_no_sets_of_four_are_refused_in_one_sentence(tmp_path, monkeypatch):
    for index in ([0] * 4 + [1] * 4, [0] * 4):
        check_sets({"set_index": np.array(index)}, "d")
    check_sets({}, "d")  # a plain picture
    for index, sizes in (
        ([0, 0, 0, 1, 1, 1], "3"), ([0] * 8, "8"), ([0, 1, 2, 3], "1"), ([0] * 4 + [1] * 3, "3/4"),
        ([0, 1] * 4, "4"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"the data set d has views in sets of {sizes}, and"):
            check_sets({"set_index": np.array(index)}, "d")
    record = multiview.open_dataset("samples", "train")[0]
    keys = ("azimuth_deg", "elevation_deg", "fov_deg", "distance", "images", "set_index")
    other = record | {key: record[key][:6] for key in keys}
    other["set_index"] = np.array([0, 0, 0, 1, 1, 1])
    multiview.write_dataset(tmp_path, [other], {"resolution": 64})
    with pytest.raises(UserError, match="render it with --views_per_set 4"):
        MultiViewTable.load(str(tmp_path), "train")
    with pytest.raises(UserError, match="render it with --views_per_set 4"):
        PictureTable(multiview.open_dataset(tmp_path, "train"), 1, ["framed"])
    monkeypatch.setattr(paths, "model", lambda *a: None)
    monkeypatch.setattr(bundle, "load_model", lambda *a: None)  # no network is asked
    with pytest.raises(UserError, match=f"{tmp_path} has views in sets of 3, and"):
        encode.encode_dataset([str(tmp_path)], tmp_path / "out", split="train", pictures=["framed"])
