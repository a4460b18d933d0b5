"""What each row of a batch is of: its views, its reference, and their cameras as defined."""

import dataclasses

import numpy as np
import pytest

from iso3d_jax.data.encoded import EncodedTable
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.training.tasks import batches

OBJECTS, SETS = 5, 4
BRANCHES = dict(single_view_share=0.0, reference_dropout=0.0)  # every step is 2-b


def labelled_table(sets=SETS, objects=OBJECTS):
    """Moments and embeddings that say which variant, object and view they are of."""
    rng = np.random.default_rng(1)
    views = sets * SET
    label = np.stack(np.meshgrid(range(4), range(objects), range(views), indexing="ij"), -1)
    base = rng.uniform(0, 360, (objects, sets, 1)) + np.arange(SET) * 90
    return EncodedTable(
        moments=np.tile(label[:, :, :, None, None], (1, 1, 1, 1, 2, 2)).astype(np.float16),
        embedding=label.astype(np.float16),
        mirrored=np.array([False, True, False, True]),
        azimuth_deg=(base % 360).reshape(objects, views),
        elevation_deg=np.repeat(rng.uniform(0, 30, (objects, sets)), SET, 1),
        fov_deg=np.repeat(rng.uniform(15, 60, (objects, sets)), SET, 1),
        distance=np.repeat(rng.uniform(2, 8, (objects, sets)), SET, 1),
        names=[f"chair {i}" for i in range(objects)],
    )


def camera(elevation, azimuth):
    """A camera on the unit sphere that looks at the middle, azimuth 0 on -y; row by row."""
    e, a = np.radians(elevation), np.radians(azimuth)
    position = np.array([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)])
    right = np.cross([0.0, 0.0, 1.0], position)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(position, right), position, position], 1)
    return matrix.reshape(16)


def labels(batch):
    """Variant [B], object [B], reference view [B] and views [B, V] of a batch."""
    variant, item, reference = batch["embedding"].astype(int).T
    return variant, item, reference, batch["moments"][:, :, 0, 0, 2].astype(int)


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_every_row_has_the_cameras_of_its_views_counted_from_its_reference(make_stage, loader):
    """Azimuths the other way round where the pictures are mirrored; elevations as they are."""
    table = labelled_table()
    cfg = make_stage(loader=loader, batch_size=16, **BRANCHES)
    loaded = batches.make_batches(cfg, table)
    signs = set()
    for step in range(4):
        batch = loaded(step)
        variant, item, reference, views = labels(batch)
        assert loaded.names(step) == [f"chair {i}" for i in item]
        for row in range(16):
            v, i, r = variant[row], item[row], reference[row]
            sign = -1.0 if table.mirrored[v] else 1.0
            signs.add(sign)
            for k, m in enumerate(views[row]):
                want = camera(
                    table.elevation_deg[i, m],
                    sign * (table.azimuth_deg[i, m] - table.azimuth_deg[i, r]),
                )
                np.testing.assert_allclose(batch["camera"][row, k], want, atol=1e-5)
                # All of a row is of one variant of one object.
                assert (batch["moments"][row, k, ..., :2] == [v, i]).all()
            np.testing.assert_allclose(
                batch["reference_camera"][row, 0], camera(table.elevation_deg[i, r], 0.0), atol=1e-5
            )
            assert (batch["reference_moments"][row, 0, ..., :3] == [v, i, r]).all()
            # One orthogonal set, in the order of its azimuths, begun anywhere; not the reference's.
            assert len(set(views[row] // SET)) == 1 and r // SET != views[row, 0] // SET
            assert (np.diff(views[row] % SET) % SET == 1).all()
    assert signs == {-1.0, 1.0}


def lens(table, i, m):
    """The last two numbers of `harmonics_lens`."""
    tangent = np.tan(np.radians(table.fov_deg[i, m]) / 2)
    return (tangent - 0.35) / 0.13, (np.log(table.distance[i, m] * tangent) - 0.07) / 0.04


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_every_row_has_the_lenses_of_its_views_and_of_its_reference(make_stage, loader):
    table = labelled_table()
    cfg = make_stage(loader=loader, batch_size=8, **BRANCHES)
    model = dataclasses.replace(cfg.model, camera_encoding="harmonics_lens")
    batch = batches.make_batches(dataclasses.replace(cfg, model=model), table)(0)
    _, item, reference, views = labels(batch)
    for row, (i, r) in enumerate(zip(item, reference, strict=True)):
        for k, m in enumerate(views[row]):
            np.testing.assert_allclose(batch["camera"][row, k, -2:], lens(table, i, m), rtol=1e-4)
        np.testing.assert_allclose(
            batch["reference_camera"][row, 0, -2:], lens(table, i, r), rtol=1e-4
        )
    blind = dataclasses.replace(table, fov_deg=None, distance=None)
    with pytest.raises(batches.UserError, match="told fields of view and distances"):
        batches.make_batches(dataclasses.replace(cfg, model=model), blind)
    batches.make_batches(cfg, blind)(0)


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_rows_and_steps_and_seeds_draw_apart(make_stage, loader):
    table = labelled_table()
    drawn = {}
    for seed in (3, 4):
        loaded = batches.make_batches(
            make_stage(loader=loader, batch_size=32, seed=seed, front_share=0.0, **BRANCHES), table
        )
        for step in (0, 1):
            variant, item, reference, views = labels(loaded(step))
            # Within a batch: every variant, object, set, beginning and reference.
            assert set(variant) == {0, 1, 2, 3} and set(item) == set(range(OBJECTS))
            assert set(views[:, 0] // SET) == set(range(SETS)) == set(reference // SET)
            assert set(views[:, 0] % SET) == set(range(SET))
            drawn[seed, step] = np.stack([variant, reference, views[:, 0]])
            # What one draw says of a row says nothing of the others.
            assert abs(np.corrcoef(variant, views[:, 0] % SET)[0, 1]) < 0.6
    first = drawn.pop((3, 0))
    for key, other in drawn.items():
        assert ((first == other).mean(1) < 0.6).all(), key


def test_a_step_of_one_view_has_any_of_a_set_and_a_step_without_reference_has_none(make_stage):
    table = labelled_table()
    cfg = make_stage(batch_size=64, single_view_share=1.0, reference_dropout=0.0)
    batch = batches.make_batches(cfg, table)(0)
    assert batch["moments"].shape[:2] == batch["camera"].shape[:2] == (64, 1)
    assert set(labels(batch)[3][:, 0] % SET) == set(range(SET))
    cfg = make_stage(batch_size=64, single_view_share=0.0, reference_dropout=1.0)
    assert set(batches.make_batches(cfg, table)(0)) == {"moments", "embedding", "camera"}
    stage1 = make_stage(stage=1, single_view_share=0.0, reference_dropout=0.0)
    assert set(batches.make_batches(stage1, table)(0)) == {"moments", "embedding", "camera"}


@pytest.mark.parametrize("num_views", [3, 4, 6, 8, 12])
def test_more_views_are_further_whole_sets_never_the_references(make_stage, num_views):
    table = labelled_table(sets=5)
    cfg = make_stage(batch_size=32, num_views=num_views, **BRANCHES)
    _, _, reference, views = labels(batches.make_batches(cfg, table)(0))
    assert views.shape == (32, num_views)
    for row, seen in zip(views, reference, strict=True):
        assert len(set(row)) == num_views and seen // SET not in set(row // SET)
        for first in range(SET, num_views, SET):
            further = row[first : first + SET]
            assert (np.diff(further) == 1).all() and further[0] % SET == 0
    if num_views > SET:  # which further sets, is drawn
        assert len(set(views[:, SET] // SET)) == 5


@pytest.mark.parametrize("num_views, sets, enough", [(4, 1, True), (5, 2, False), (8, 3, True),
                                                     (8, 2, False), (9, 4, True)])  # fmt: skip
def test_how_many_sets_are_enough(make_stage, num_views, sets, enough):
    cfg = make_stage(batch_size=4, num_views=num_views, **BRANCHES)
    if enough:
        batches.make_batches(cfg, labelled_table(sets=sets))(0)
    else:
        with pytest.raises(batches.UserError, match=f"num_views {num_views} needs"):
            batches.make_batches(cfg, labelled_table(sets=sets))


def test_references_face_the_front_as_often_as_the_config_says(make_stage):
    table = labelled_table()
    facing = np.abs((table.azimuth_deg + 180) % 360 - 180) <= 90
    for share, low, high in ((0.0, 0.3, 0.7), (1.0, 1.0, 1.0)):
        cfg = make_stage(batch_size=128, front_share=share, **BRANCHES)
        _, item, reference, _ = labels(batches.make_batches(cfg, table)(0))
        assert low <= facing[item, reference].mean() <= high, share


def test_rows_are_picked_by_slice_or_number_and_the_position_says_where(make_stage):
    table = labelled_table()
    for loader, position in (("memory", {}), ("grain", {"next_index": 3})):
        cfg = make_stage(loader=loader, batch_size=6, **BRANCHES)
        loaded = batches.make_batches(cfg, table)
        assert loaded.position() == {}
        whole = loaded(2)
        assert loaded.position() == position
        for rows in (slice(1, 4), np.array([1, 2, 3])):
            part = batches.make_batches(cfg, table)(2, rows)
            for name, value in whole.items():
                np.testing.assert_array_equal(part[name], value[1:4], err_msg=name)


def test_branches_are_drawn_independently(make_stage):
    """One view or several says nothing of with or without the reference; seeds differ."""
    cfg = make_stage(single_view_share=0.5, reference_dropout=0.5)
    loaded = batches.make_batches(cfg, labelled_table())
    names = [loaded.branch(step) for step in range(2000)]
    for name in ("1-a", "1-b", "2-a", "2-b"):
        assert abs(names.count(name) / 2000 - 0.25) < 0.04
    other = batches.make_batches(
        make_stage(seed=9, **dict(single_view_share=0.5)), labelled_table()
    )
    assert [other.branch(step) for step in range(20)] != names[:20]


def test_shares_of_the_branches_are_products_and_those_of_none_are_left_out(make_stage):
    def shares(**changes):
        shares = dict(single_view_share=0.2, reference_dropout=0.4)
        return batches.branch_shares(make_stage(**shares | changes))

    want = {"1-a": 0.08, "1-b": 0.32, "2-a": 0.12, "2-b": 0.48}
    assert shares() == pytest.approx(want) and list(shares()) == list(want)
    assert shares(stage=1) == pytest.approx({"1-a": 0.2, "1-b": 0.8})
    assert shares(reference_dropout=0.0) == pytest.approx({"2-a": 0.2, "2-b": 0.8})
    assert shares(single_view_share=1.0) == pytest.approx({"1-a": 0.4, "2-a": 0.6})
