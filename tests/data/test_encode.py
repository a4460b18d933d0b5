"""Encoding a data set against networks that one can work out, once and within the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.data.colour import change_colours
from iso3d_jax.data.encode import encode_rows, encode_table
from iso3d_jax.data.table import MultiViewTable, prepare_references

SIZE, VIEWS = 8, 4


@jax.tree_util.register_static
class Vae:
    """Every second pixel: means are red and green, log-variances half of blue and minus red."""

    def encode(self, x):
        x = x[:, ::2, 1::2]
        return x[..., :2], jnp.stack([0.5 * x[..., 2], -x[..., 0]], -1)


@jax.tree_util.register_static
class Clip:
    """A pixel's colour, and the whole picture's."""

    def embed(self, pictures):
        return jnp.concatenate([pictures[:, 2, 5], pictures.mean((1, 2))], -1)


def moments_of(rgba):
    """Float64, of straight RGBA bytes [..., H, W, 4]."""
    rgba = rgba / 255.0
    x = (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]) * 2 - 1
    x = x[..., ::2, 1::2, :]
    return np.stack([x[..., 0], x[..., 1], 0.5 * x[..., 2], -x[..., 0]], -1)


def embedding_of(rgba):
    rgba = rgba / 255.0
    x = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    return np.concatenate([x[..., 2, 5, :], x.mean((-3, -2))], -1)


def recoloured(rgba, seed, colour, index):
    """The object's views and references with their variant's colours, bytes or near."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), colour), index)
    rgb = np.asarray(change_colours(key, jnp.asarray(rgba[None, ..., :3] / 255.0, jnp.float32)))[0]
    return np.concatenate([rgb * 255, rgba[..., 3:]], -1)


@pytest.fixture(scope="module")
def table():
    """Objects that fill a part of the frame, in every pixel another colour."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, VIEWS, SIZE, SIZE, 4)).astype(np.uint8)
    images[..., 3] = np.where(rng.random(images.shape[:-1]) < 0.8, images[..., 3] | 128, 0)
    images[:, :, :2, :, 3] = images[:, :, :, 7:, 3] = 0
    return MultiViewTable(
        images=images,
        azimuth_deg=rng.uniform(0, 360, (3, VIEWS)),
        elevation_deg=rng.uniform(0, 30, (3, VIEWS)),
        fov_deg=np.full((3, VIEWS), 30.0),
        distance=np.full((3, VIEWS), 2.0),
        names=["a", "b", "c"],
    )


@pytest.fixture(scope="module")
def encoded(table):
    return encode_table(table, Vae(), Clip(), variants=2, pictures=["framed", "centred"], seed=7)


def test_variants_are_colours_each_as_it_is_and_mirrored(table, encoded):
    assert encoded.mirrored.tolist() == [False, True, False, True]
    assert encoded.moments.shape == (4, 3, VIEWS, 4, 4, 4) and encoded.moments.dtype == np.float16
    assert encoded.embedding.shape == (4, 3, VIEWS, 6) and encoded.embedding.dtype == np.float16
    assert len(encoded) == 3 and encoded.num_views == VIEWS and encoded.name(1) == "b"
    np.testing.assert_array_equal(encoded.azimuth_deg, table.azimuth_deg)
    np.testing.assert_array_equal(encoded.elevation_deg, table.elevation_deg)
    for i in range(3):
        np.testing.assert_allclose(encoded.moments[0, i], moments_of(table.images[i]), atol=2e-3)
        mirrored = table.images[i][:, :, ::-1]
        np.testing.assert_allclose(encoded.moments[1, i], moments_of(mirrored), atol=2e-3)


def test_further_variants_have_their_own_colours(table, encoded):
    for i in range(3):
        views = recoloured(table.images[i], 7, 1, i)
        np.testing.assert_allclose(encoded.moments[2, i], moments_of(views), atol=4e-3)
        flipped = moments_of(views[:, :, ::-1])
        np.testing.assert_allclose(encoded.moments[3, i], flipped, atol=4e-3)


def test_references_take_turns_in_how_they_are_prepared(table, encoded):
    """Which view begins, moves on by one an object and a variant; colours are the views' own."""
    modes = ("framed", "centred")
    for variant in range(4):
        for i in range(3):
            views = table.images[i]
            for view in range(VIEWS):
                mode = modes[(view + i + variant) % 2]
                reference = prepare_references(views[None, [view]], mode)[0, 0]
                if variant > 1:
                    reference = recoloured(reference, 7, 1, i)
                if variant % 2:
                    reference = reference[:, ::-1]
                np.testing.assert_allclose(
                    encoded.embedding[variant, i, view], embedding_of(reference), atol=4e-3
                )


def test_an_object_gives_the_views_that_are_asked_for(encoded):
    record = encoded.record(2)
    np.testing.assert_array_equal(record.azimuth_deg, encoded.azimuth_deg[2])
    np.testing.assert_array_equal(record.elevation_deg, encoded.elevation_deg[2])
    row = record.read(3, 1, np.array([2, 0]), True)
    np.testing.assert_array_equal(row["moments"], encoded.moments[3, 2, [2, 0]])
    np.testing.assert_array_equal(row["embedding"], encoded.embedding[3, 2, 1])
    np.testing.assert_array_equal(row["reference_moments"], encoded.moments[3, 2, 1:2])
    assert set(record.read(3, 1, np.array([2]), False)) == {"moments", "embedding"}


@pytest.mark.parametrize("reference", [True, False])
def test_pictures_of_a_batch_are_encoded_row_by_row(reference):
    rng = np.random.default_rng(3)
    batch = {
        "views": rng.integers(0, 256, (3, 2, SIZE, SIZE, 4)).astype(np.uint8),
        "prepared": rng.integers(0, 256, (3, SIZE, SIZE, 4)).astype(np.uint8),
        "colour": np.array([0, 1, 2], np.int32),
        "object": np.array([5, 5, 9], np.int32),
        "camera": rng.normal(size=(3, 2, 16)),
    }
    if reference:
        batch["reference_view"] = rng.integers(0, 256, (3, 1, SIZE, SIZE, 4)).astype(np.uint8)
    found = encode_rows(Vae(), Clip(), batch, seed=4)
    names = {"moments", "embedding", "camera"} | ({"reference_moments"} if reference else set())
    assert set(found) == names and "views" in batch  # the batch itself is left alone
    np.testing.assert_array_equal(found["camera"], batch["camera"])
    for row, (colour, index) in enumerate([(0, 5), (1, 5), (2, 9)]):

        def coloured(rgba, colour=colour, index=index):
            return recoloured(rgba, 4, colour, index) if colour else rgba

        views = coloured(batch["views"][row])
        np.testing.assert_allclose(found["moments"][row], moments_of(views), atol=4e-3)
        want = embedding_of(coloured(batch["prepared"][row]))
        np.testing.assert_allclose(found["embedding"][row], want, atol=4e-3)
        if reference:
            want = moments_of(coloured(batch["reference_view"][row]))
            np.testing.assert_allclose(found["reference_moments"][row], want, atol=4e-3)
    assert found["moments"].dtype == found["embedding"].dtype == jnp.float16
    again = encode_rows(Vae(), Clip(), batch, seed=5)
    same = [(found["moments"][i] == again["moments"][i]).all() for i in range(3)]
    assert same == [True, False, False]  # the seed is of the colours


def test_one_variant_is_the_objects_own(table):
    plain = encode_table(table, Vae(), Clip(), variants=1, pictures=["framed"])
    assert plain.mirrored.tolist() == [False, True]
    np.testing.assert_allclose(plain.embedding[0], embedding_of(table.images), atol=2e-3)
