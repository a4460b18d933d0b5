"""Plain pictures as objects of one view."""

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.encode import Encoder, encode_shards
from iso3d_jax.data.encoded import EncodedSet
from iso3d_jax.data.pictures import prepare_picture
from iso3d_jax.data.plain_pictures import PlainPictures
from tests.data.test_encode import Clip, Vae, embedding_of, moments_of


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k, size in enumerate([(40, 40), (60, 20)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(
            tmp_path / f"photo {k}.png"
        )
    return tmp_path


def test_a_picture_is_one_view_on_white(folder):
    pictures = PlainPictures(folder, 8)
    assert len(pictures) == 2
    record = pictures[1]
    rgba = np.asarray(Image.open(folder / "photo 1.png").convert("RGBA"))
    want = prepare_picture(rgba, 8, "framed")
    assert record["name"] == "photo 1.png" and record["images"].shape == (1, 8, 8, 4)
    np.testing.assert_allclose(record["images"][0, ..., :3] / 255, want, atol=0.5 / 255)
    assert (record["images"][..., 3] == 255).all() and (record["images"][0, :, 0, :3] == 255).all()
    (folder / "photo 0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="photo 0.png"):
        pictures[0]
    (folder / "none").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        PlainPictures(folder / "none", 8)


def test_they_are_encoded_with_their_own_embeddings(folder, tmp_path):
    pictures = PlainPictures(folder, 8)
    encoder = Encoder(Vae(), Clip(), variants=1, pictures=["framed"])
    assert encode_shards(pictures, tmp_path / "out", encoder, facts={})
    found = EncodedSet(tmp_path / "out")
    assert (len(found), found.num_views, found.camera_range) == (2, 1, "")
    for i in range(2):
        for variant in range(2):
            views = pictures[i]["images"][:, :, :: -1 if variant else 1]
            row = found.record(i).read(variant, 0, np.array([0]), False)
            np.testing.assert_allclose(row["moments"], moments_of(views), atol=2e-3)
            np.testing.assert_allclose(row["embedding"], embedding_of(views)[0], atol=2e-3)
