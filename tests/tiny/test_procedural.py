"""Objects made by rules: every kind, every number, through the same renderer as files."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources
from iso3d_jax.metrics.shapes import occupancy
from iso3d_jax.tiny import procedural
from iso3d_jax.tiny.procedural import kinds, makers, solids


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_makes_whole_parts_in_the_unit_sphere(kind, monkeypatch):
    monkeypatch.setattr(procedural, "choose_kind", lambda number: kind)
    shapes = []
    for number in range(12):
        parts = procedural.make(number)
        points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
        assert np.linalg.norm(points, axis=-1).max() == pytest.approx(1)
        np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-9)
        for part in parts:
            np.testing.assert_allclose(np.linalg.norm(part.normals, axis=-1), 1, atol=1e-6)
            assert part.positions.shape == part.normals.shape and len(part.positions)
            assert all(0 <= c <= 1 for c in part.colour)
        shapes.append(points.max(0) - points.min(0))
    assert np.std(shapes, axis=0).max() > 0.02  # of other proportions each time


def test_a_number_is_always_the_same_object_and_kinds_take_turns():
    first, again = procedural.make(7), procedural.make(7)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        assert a.colour == b.colour
    counts = {kind: 0 for kind in kinds.KINDS}
    for number in range(3000):
        counts[procedural.choose_kind(number)] += 1
    weights = {kind: weight for kind, (_, weight) in kinds.KINDS.items()}
    for kind, weight in weights.items():
        assert counts[kind] == pytest.approx(3000 * weight / sum(weights.values()), rel=0.5)


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (solids.box([0, 0, 0], [0.5, 0.6, 0.4]), 0.12),
        (solids.lathe([(0, -0.4), (0.3, -0.4), (0.3, 0.4), (0, 0.4)]), np.pi * 0.09 * 0.8),
        (solids.rod([-0.3, -0.2, -0.4], [0.3, 0.2, 0.4], 0.12, sides=16), np.pi * 0.0144 * 1.077),
        (solids.blob([0, 0, 0], [0.5, 0.4, 0.3]), 4 / 3 * np.pi * 0.06),
        (solids.blob([0, 0, 0], [0.5, 0.4, 0.3], 0.1), 8 * 0.06),
        (solids.sheet([(0, -0.4), (0, 0.4)], 0.7, 0.2), 0.8 * 0.7 * 0.2),
        (solids.turned(solids.box([0, 0, 0], [0.5, 0.6, 0.4]), 30, axis=1), 0.12),
    ],
)
def test_solids_are_closed_and_have_their_volume(solid, volume):
    corners = solid.reshape(-1, 3)
    inside = occupancy(corners, np.arange(len(corners)).reshape(-1, 3), 64)
    assert inside.sum() * (2 / 64) ** 3 == pytest.approx(volume, rel=0.13)


def test_mirrored_parts_are_the_same_on_both_sides():
    maker = makers.Maker(np.random.default_rng(0))
    maker.mirror((1.0, 0.0, 0.0), solids.box([0.1, 0.3, 0.2], [0.1, 0.2, 0.3]))
    (left, _), (right, _) = maker.solids
    np.testing.assert_allclose(left.mean((0, 1)) * [1, -1, 1], right.mean((0, 1)))


def test_they_are_assets_like_any_other():
    assets = asset_sources.find_assets(["procedural:3"])
    assert [a.name for a in assets] == [f"procedural-{n:06d}" for n in range(3)]
    assert {a.license for a in assets} == {"Apache-2.0"}
    parts = asset_sources.load_asset(assets[2])
    np.testing.assert_array_equal(parts[0].positions, procedural.make(2)[0].positions)
    assert asset_sources.icon_bytes(assets[0]) is None


@pytest.mark.parametrize("place", ["procedural:", "procedural:0", "procedural:many"])
def test_a_wrong_number_is_one_sentence(place):
    with pytest.raises(UserError, match="number of procedural objects"):
        asset_sources.find_assets([place])
