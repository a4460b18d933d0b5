"""Data sets in one file: what fits, what comes back, and what is refused."""

import shutil
import zipfile

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import packed
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.multiview import EmptySplit, open_dataset
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.tiny.dense_tower import load_encoder
from iso3d_jax.tiny.quarter_hour import pack
from iso3d_jax.tiny.quarter_hour.run import read_features


def load(*path, split="train", most=None):
    return MultiViewTable.load("/".join(map(str, path)), split, most)


def test_objects_come_back_with_their_cameras_and_nearly_their_colours(rendered, packed_file):
    assert packed.sets_of(packed_file) == ["plain", "mirrored"]
    for folder, name in zip(rendered, ("plain", "mirrored"), strict=True):
        for split in ("train", "validation", "test"):
            found, want = load(packed_file, name, split=split), load(folder, split=split)
            place = [want.names.index(n) for n in found.names]
            assert sorted(place) == list(range(len(want)))
            for column in ("azimuth_deg", "elevation_deg", "fov_deg", "distance"):
                np.testing.assert_array_equal(getattr(found, column), getattr(want, column)[place])
            assert found.images.dtype == np.uint8
            np.testing.assert_array_equal(found.images[..., 3], want.images[place][..., 3])
            assert not found.images[found.images[..., 3] == 0].any()
            seen, true = (on_white(x / np.float32(255)) for x in (found.images, want.images[place]))
            assert -10 * np.log10(((seen - true) ** 2).mean()) > 30
    few = load(packed_file, "plain", most=2)
    assert len(few) == 2 and few.names == load(packed_file, "plain").names[:2]


def test_the_file_has_the_encoders_weights_in_half_precision(packed_file):
    found, want = read_features(packed_file), load_encoder()
    assert set(found) == set(want)
    for path, weight in want.items():
        np.testing.assert_array_equal(found[path], np.asarray(weight).astype(np.float16))


def test_what_is_not_there_is_said(packed_file, rendered, tmp_path):
    with pytest.raises(UserError, match=r"holds plain, mirrored, and no data set 'other'"):
        load(packed_file, "other")
    with pytest.raises(EmptySplit, match="the all split .* is empty"):
        load(packed_file, "plain", split="all")
    with pytest.raises(UserError, match="is packed, and this reads rendered folders"):
        open_dataset(packed_file / "plain", "train")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(packed_file.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken.zip is no packed data"):
        load(broken, "plain")
    holed = tmp_path / "holed.zip"
    with zipfile.ZipFile(packed_file) as old, zipfile.ZipFile(holed, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"I3V1" if name == "plain/train/00001.views" else old.read(name))
    with pytest.raises(UserError, match="holed.zip is damaged: the views' table of contents"):
        load(holed, "plain")
    with pytest.raises(UserError, match="same name"):
        pack.pack([rendered[0], rendered[0]], tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"has to end in \.zip"):
        pack.pack(rendered, tmp_path / "x.tar")


def test_another_file_of_the_same_name_is_read_anew(packed_file, rendered, tmp_path):
    file = tmp_path / "data.zip"
    shutil.copy(packed_file, file)
    before = load(file, "plain")
    pack.pack(rendered, file, megabytes=4.0, held_out=1)
    assert len(load(file, "plain", split="test")) == 1
    assert len(before) == len(load(file, "plain"))


def test_what_does_not_fit_is_left_out_of_both_sets_alike(rendered, tmp_path, capsys):
    file = tmp_path / "small.zip"
    how = pack.pack(rendered, file, megabytes=1.46)
    assert how.share < 1 and file.stat().st_size <= 1.46e6
    plain, mirrored = (len(load(file, name)) for name in ("plain", "mirrored"))
    whole, half = (len(load(folder)) for folder in rendered)
    assert 0 < mirrored < half and abs(plain / whole - mirrored / half) < 0.35
    assert f"plain: {plain} of {whole} training objects" in capsys.readouterr().out
    again = tmp_path / "again.zip"
    pack.pack(rendered, again, megabytes=1.46)
    assert again.read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="hold no training object beside"):
        pack.pack(rendered, tmp_path / "least.zip", megabytes=1.36)


SIZES = {80: 1600.0, 65: 1200.0, 50: 1000.0}


@pytest.mark.parametrize(
    "megabytes, want",
    [
        (44.1, (24, 80)),  # 1,100 objects of 24 x 1,600 + 400 bytes are 42.68 MB, of 42.78
        (43.9, (24, 65)),  # of 42.58
        (33.2, (24, 65)),  # 24 x 1,200 + 400: 32.12 MB of 32.20
        (33.0, (24, 50)),  # 32.01
        (26.0, (16, 65)),  # 16 x 1,600 + 400: 28.6 MB; 16 x 1,200 + 400: 21.56 MB of 25.22
        (9.6, (8, 50)),  # 8 x 1,000 + 400: 9.24 MB of 9.31
    ],
)
def test_views_and_quality_are_the_first_that_fit(megabytes, want):
    found = pack.choose(SIZES, 24, 1000, 100, megabytes * 1e6)
    assert (found.views, found.quality, found.share) == (*want, 1.0)


def test_of_too_many_objects_a_share_is_taken():
    found = pack.choose(SIZES, 24, 1000, 100, 5e6)
    assert (found.views, found.quality) == (8, 50)
    assert found.share == pytest.approx((0.97 * 5e6 / 8400 - 100) / 1000)
