"""Encoded sets on disk: what is written is read, whatever was stopped, split up or damaged."""

import hashlib
import json
import pickle
import types

import jax
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import encode, encoded_shards, multiview
from iso3d_jax.data.damaged import DamagedRecord, first_readable
from iso3d_jax.data.encode import Encoder, encode_shards, encode_table
from iso3d_jax.data.encoded import EncodedSet, EncodedTable
from iso3d_jax.data.encoded_shards import latents_file, objects_file, ranges
from iso3d_jax.data.orthogonal_sets import CAMERA
from iso3d_jax.data.table import MultiViewTable
from tests.data.test_encode import SIZE, Clip, Vae

VIEWS = 8
WAYS = ["framed", "centred"]


def some_records(count=7, views=VIEWS, size=SIZE):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, views, size, size, 4)).astype(np.uint8)
    images[..., :2, 3] = 0
    return [
        {
            "images": images[i],
            "azimuth_deg": rng.uniform(0, 360, views).astype(np.float32),
            "elevation_deg": rng.uniform(0, 30, views).astype(np.float32),
            "fov_deg": rng.uniform(15, 60, views).astype(np.float32),
            "distance": rng.uniform(2, 8, views).astype(np.float32),
            "name": f"Stühl {i}" * (i + 1),
        }
        for i in range(count)
    ]


def encoded_in_memory(records):
    columns = {k: np.stack([r[k] for r in records]) for k in ("images", *CAMERA)}
    names = [record["name"] for record in records]
    table = MultiViewTable(**columns, names=names)
    return encode_table(table, Vae(), Clip(), variants=2, pictures=WAYS, seed=7)


@pytest.fixture(scope="module")
def records():
    return some_records()


@pytest.fixture(scope="module")
def table(records):
    return encoded_in_memory(records)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(Vae(), Clip(), variants=2, pictures=WAYS, seed=7)


FACTS = {"networks": 5, "split": "train"}


def make(records, folder, encoder, **options):
    how = dict(facts=FACTS, shard_objects=3) | options
    return encode_shards(records, folder, encoder, **how)


@pytest.fixture(scope="module")
def on_disk(records, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    assert make(records, folder, encoder)
    return folder


def assert_same_rows(one, two):
    assert len(one) == len(two) and one.num_views == two.num_views
    assert np.array_equal(one.mirrored, two.mirrored)
    assert (tuple(one.latent), one.width) == (tuple(two.latent), two.width)
    for i in range(len(one)):
        assert one.name(i) == two.name(i)
        a, b = one.record(i), two.record(i)
        np.testing.assert_array_equal(a.azimuth_deg, b.azimuth_deg)
        np.testing.assert_array_equal(a.elevation_deg, b.elevation_deg)
        np.testing.assert_array_equal(a.fov_deg, b.fov_deg)
        np.testing.assert_array_equal(a.distance, b.distance)
        for variant in range(4):
            for reference in range(VIEWS):
                views = (np.array([6, 7, 4, 5]) + i) % VIEWS
                for with_reference in (False, True):
                    row = a.read(variant, reference, views, with_reference)
                    want = b.read(variant, reference, views, with_reference)
                    assert row.keys() == want.keys()
                    for name in row:
                        assert row[name].dtype == want[name].dtype == np.float16
                        np.testing.assert_array_equal(row[name], want[name])


def without_lens(table):
    return EncodedTable(**vars(table) | {"fov_deg": None, "distance": None})


def test_a_set_whose_lenses_nobody_knows_is_read_as_one(table, records, encoder, tmp_path):
    """As sets were before, and as of plain pictures."""
    assert table.has_lens and not without_lens(table).has_lens
    without_lens(table).save(tmp_path / "set")
    bare = [{k: v for k, v in r.items() if k not in ("fov_deg", "distance")} for r in records]
    make(bare, tmp_path / "shards", encoder)
    for name in ("set", "shards"):
        found = EncodedSet(tmp_path / name)
        assert not found.has_lens and found.record(1).fov_deg is found.record(1).distance is None
        assert found.cameras(1).shape == (2, VIEWS)
        np.testing.assert_array_equal(found.record(1).azimuth_deg, table.azimuth_deg[1])
    for path in (tmp_path / "shards").glob("objects-00000-*"):
        path.unlink()
    (tmp_path / "shards" / "encoded.json").unlink()
    with pytest.raises(UserError, match="shards with and without lenses"):
        make(records, tmp_path / "shards", encoder)


def test_a_set_is_saved_and_read_again(table, tmp_path):
    with pytest.raises(UserError, match="no encoded data set in .* --data DIR --out"):
        EncodedSet(tmp_path / "set")
    table.save(tmp_path / "set")
    assert_same_rows(EncodedSet(tmp_path / "set"), table)
    nameless = EncodedTable(**vars(table) | {"names": []})
    assert nameless.name(2) == "object 2"
    with pytest.raises(ValueError, match="every second variant"):
        EncodedTable(**vars(table) | {"mirrored": np.zeros(4, bool)}).save(tmp_path / "other")


def test_shards_hold_what_encoding_in_memory_gives(table, on_disk):
    found = EncodedSet(on_disk)
    assert_same_rows(found, table)
    assert found.shards.sizes.tolist() == [2, 2, 3]
    assert_same_rows(pickle.loads(pickle.dumps(found)), table)  # as another process gets it


def test_many_shards_are_not_open_at_once(table, on_disk, monkeypatch):
    monkeypatch.setattr(encoded_shards, "OPEN_FILES", 1)
    found = EncodedSet(on_disk)
    assert_same_rows(found, table)
    assert len(found.shards._open) == 1


def test_shards_are_even_and_whole():
    assert [len(r) for r in ranges(10, 4)] == [3, 3, 4]
    assert ranges(3, 4) == [range(3)]
    assert sum(map(list, ranges(1001, 10)), []) == list(range(1001))
    assert max(map(len, ranges(1001, 10))) <= 10


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix != ".npz"  # a zip holds the time
    }


class Killed(BaseException):
    """Nothing catches it."""


class Stopping(list):
    """Records that end the process when one is read."""

    at = None

    def __init__(self, *a):
        super().__init__(*a)
        self.read = []

    def __getitem__(self, index):
        if index == self.at:
            raise Killed
        self.read.append(index)
        return super().__getitem__(index)


def test_a_killed_run_goes_on_with_the_shard_it_was_at_to_the_same_bytes(
    records, encoder, on_disk, tmp_path, capsys
):
    stopping = Stopping(records)
    stopping.at = 5  # of the third shard
    with pytest.raises(Killed):
        make(stopping, tmp_path, encoder)
    assert objects_file(tmp_path, 1, 3).exists() and not objects_file(tmp_path, 2, 3).exists()
    with pytest.raises(UserError, match="not complete: run the same data.encode command again"):
        EncodedSet(tmp_path)
    # What SIGKILL leaves behind of the shard that was being written.
    (tmp_path / f".{latents_file(tmp_path, 2, 3).stem}.77.array_record").write_bytes(b"half")
    stopping.at, stopping.read = None, []
    assert make(stopping, tmp_path, encoder)
    assert sorted(stopping.read) == [0, 4, 5, 6]  # the first is looked at for its size
    assert "2 of 3 shards are there already" in capsys.readouterr().err
    assert digests(tmp_path) == digests(on_disk)
    stopping.read = []
    assert make(stopping, tmp_path, encoder) and stopping.read == [0]


def test_several_processes_make_one_set(records, encoder, on_disk, tmp_path):
    assert not make(records, tmp_path, encoder, part=(1, 2))
    assert not (tmp_path / "encoded.json").exists()
    assert make(records, tmp_path, encoder, part=(0, 2))
    assert digests(tmp_path) == digests(on_disk)


def test_objects_of_a_batch_do_not_change_one_another(records, encoder, on_disk, tmp_path):
    """Other shards put other objects beside one another, and the last batch is filled up."""
    make(records, tmp_path, encoder, shard_objects=7)
    assert_same_rows(EncodedSet(tmp_path), EncodedSet(on_disk))


def test_a_folder_of_another_encoding_is_refused(records, encoder, on_disk):
    with pytest.raises(UserError, match="networks was 5, is 6.*give another --out"):
        make(records, on_disk, encoder, facts=FACTS | {"networks": 6})
    with pytest.raises(UserError, match="objects was 7, is 6"):
        make(records[:6], on_disk, encoder)


def test_a_set_of_an_earlier_version_is_to_be_encoded_again(tmp_path):
    (tmp_path / "encoded.json").write_text('{"shape": [2, 1, 4, 4, 4, 8]}')
    np.save(tmp_path / "moments.npy", np.zeros(3))
    with pytest.raises(UserError, match="earlier version.*encode the data set again"):
        EncodedSet(tmp_path)


def test_one_record_may_be_damaged(records, encoder, tmp_path):
    make(records, tmp_path, encoder, shard_objects=7)
    file = latents_file(tmp_path, 0, 1)
    data = bytearray(file.read_bytes())
    whole = EncodedSet(tmp_path).record(3).read(2, 1, np.array([0]), True)["moments"]
    place = bytes(data).index(whole.tobytes())
    data[place : place + 2] = b"\xff\xff"
    file.write_bytes(data)
    found = EncodedSet(tmp_path)
    with pytest.raises(DamagedRecord, match=r"record 28 of .*array_record is damaged \(.*hash"):
        found.record(3).read(2, 1, np.array([0]), True)
    found.record(3).read(2, 5, np.array([4]), True)  # the other set of views
    found.record(4).read(2, 1, np.array([0]), True)
    file.unlink()
    with pytest.raises(DamagedRecord, match="0 records, not 56"):
        EncodedSet(tmp_path).record(4).read(2, 1, np.array([0]), True)


def test_names_and_cameras_that_are_damaged_are_named_with_what_to_do(records, encoder, tmp_path):
    make(records, tmp_path, encoder, shard_objects=7)
    (file,) = tmp_path.glob("objects-*.npz")
    data = bytearray(file.read_bytes())
    place = bytes(data).index(b"NUMPY") + 100  # within an array, behind a header that is whole
    data[place] ^= 0xFF
    file.write_bytes(data)
    (tmp_path / "encoded.json").unlink()
    with pytest.raises(UserError, match=r"objects-.*npz is damaged; delete it, and the same comm"):
        encoded_shards.finish(tmp_path, 1, {})


def test_a_record_of_another_place_is_noticed(on_disk, tmp_path):
    layout = EncodedSet(on_disk).shards.layout
    data = layout.to_bytes(1, 2, 0, np.zeros((8, *layout.latent)), np.ones((8, layout.width)))
    moments, embedding = layout.from_bytes(data, 1, 2, 0)
    assert moments.shape == (4, *layout.latent) and (embedding == 1).all()
    with pytest.raises(ValueError, match="another object"):
        layout.from_bytes(data, 1, 2, 1)
    with pytest.raises(ValueError, match="bytes, not"):
        layout.from_bytes(data[:-2], 1, 2, 0)


class Broken(list):
    """Records of which some cannot be read."""

    bad = ()

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("broken PNG")
        return super().__getitem__(index)


def test_objects_that_cannot_be_read_are_left_out_up_to_a_share(
    records, encoder, table, tmp_path, capsys
):
    broken = Broken(records)
    broken.bad = (2, 6)
    with pytest.raises(UserError, match="1 of 7 objects cannot be read, the last is number 2"):
        make(broken, tmp_path / "few", encoder, max_damaged_share=0.1)
    make(broken, tmp_path / "more", encoder, max_damaged_share=0.3)
    assert "object 2 is left out: broken PNG" in capsys.readouterr().err
    found = EncodedSet(tmp_path / "more")
    assert len(found) == 5 and found.shards.sizes.tolist() == [2, 1, 2]
    kept = [0, 1, 3, 4, 5]
    for i, number in enumerate(kept):  # with the colours of their own numbers
        assert found.name(i) == table.name(number)
        row = found.record(i).read(2, 1, np.array([3]), False)
        np.testing.assert_array_equal(row["moments"], table.moments[2, number, [3]])


def test_the_first_objects_are_those_that_can_be_read(records):
    broken = Broken(records)
    broken.bad = (0, 2)
    assert [r["name"] for r in first_readable(broken, 2)] == [records[k]["name"] for k in (1, 3)]
    assert len(first_readable(broken, 9)) == 5
    broken.bad = range(7)
    with pytest.raises(UserError, match=r"none of the first 7 objects .*\(broken PNG\)"):
        first_readable(broken, 1)


def test_pictures_of_another_size_are_refused(records, encoder, tmp_path):
    other = [*records[:2], *some_records(1, size=16)]
    with pytest.raises(UserError, match=r"\[8, 8, 8, 4\] and, of Stühl 0, \[8, 16, 16, 4\]"):
        make(other, tmp_path, encoder)


def test_single_views_are_records_of_their_own(encoder, tmp_path):
    """A set of plain pictures has one view an object."""
    make(some_records(3, views=1), tmp_path, Encoder(Vae(), Clip(), variants=1, pictures=WAYS))
    found = EncodedSet(tmp_path)
    assert found.num_views == 1 and found.shards.layout.records == 2
    assert found.record(2).read(1, 0, np.array([0]), False)["moments"].shape == (1, 4, 4, 4)


def test_parts_are_named_as_they_are_counted():
    assert encode.parse_part("2/3") == (2, 3) and encode.parse_part(None) == (0, 1)
    for text in ("3/3", "1", "-1/2", "a/b", "1/0"):
        with pytest.raises(UserError, match="--shard .*give i/n"):
            encode.parse_part(text)


def test_pictures_go_through_the_networks_a_few_at_a_time(monkeypatch):
    sizes = []

    def function(pictures):
        sizes.append(len(pictures))
        return pictures.mean((1, 2))

    pictures = jax.numpy.asarray(np.random.default_rng(0).random((12, 8, 8, 3)), np.float32)
    for pixels, part in ((64 * 5, 4), (64 * 100, 12), (10, 1)):
        monkeypatch.setattr(encode, "PIXELS", pixels)
        np.testing.assert_allclose(encode._in_parts(function, pictures), pictures.mean((1, 2)))
        assert sizes[-1] == part


def test_the_commands_flags_reach_the_encoding(monkeypatch, records, tmp_path, capsys):
    from iso3d_jax.commands import paths
    from iso3d_jax.weights import bundle

    asked = []
    values = dict(
        _DATA=["a", "b"], _SPLIT="test", _DTYPE="float32", _VAE="v", _CLIP="c",
        _OUT=str(tmp_path / "out"), _VARIANTS=3, _PICTURES=None, _SHARD=None, _SHARD_OBJECTS=9,
        _MAX_DAMAGED_SHARE=0.5, _PLAIN=None,
    )  # fmt: skip

    def give(name, value):
        monkeypatch.setattr(encode, name, types.SimpleNamespace(value=value))

    for name, value in values.items():
        give(name, value)
    monkeypatch.setattr(paths, "dataset", lambda *a: asked.append(a))
    monkeypatch.setattr(paths, "model", lambda *a: asked.append(a))

    def load_model(path, dtype, networks):
        asked.append((path, dtype, networks))
        config = types.SimpleNamespace(picture="launch")
        return types.SimpleNamespace(vae=Vae(), clip=Clip(), config=config)

    monkeypatch.setattr(bundle, "load_model", load_model)
    monkeypatch.setattr(multiview, "open_dataset", lambda *a: asked.append(a) or records)
    encode.main([])
    assert asked == [
        ("--data", "a"), ("--data", "b"), ("--vae", "v", "vae"), ("--clip", "c", "clip"),
        ("v", "float32", ("vae",)), ("c", "float32", ("clip",)), ("a", "test"), ("b", "test"),
    ]  # fmt: skip
    found = EncodedSet(tmp_path / "out")
    assert found.shards.sizes.tolist() == [7, 7] and len(found.mirrored) == 6
    said = json.loads((tmp_path / "out" / "encoding.json").read_text())
    assert said["camera_range"] == found.camera_range
    assert found.camera_range.startswith("scale 0.")  # of the records, which have no named range
    assert said["references"] == ["launch"] and said["split"] == "test" and said["colours"] == 3
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 0 MB of latents, 14 objects\n"
    give("_OUT", str(tmp_path / "parts"))
    for part, words in (("1/2", "others are not there yet"), ("0/2", "14 objects")):
        give("_SHARD", part)
        encode.main([])
        assert words in capsys.readouterr().out
    give("_OUT", str(tmp_path / "two ways"))
    for pictures in (["framed", "launch"], ["framed", "centered"]):
        give("_PICTURES", pictures)
        if "launch" in pictures:
            encode.main([])
            said = json.loads((tmp_path / "two ways" / "encoding.json").read_text())
            assert said["references"] == pictures
        else:
            with pytest.raises(UserError, match="--pictures has centered: there are centred, "):
                encode.main([])


def test_networks_and_objects_have_digests(records):
    networks = {"a": np.arange(3.0), "b": jax.numpy.ones(2, jax.numpy.bfloat16)}
    digest = encode._digest_networks(networks)
    assert digest == encode._digest_networks({**networks})
    assert digest != encode._digest_networks(networks | {"a": np.arange(3.0) + 1})
    assert digest != encode._digest_networks(networks | {"a": np.arange(3.0, dtype=np.float32)})
    of_all = encode._digest_objects(records)
    assert of_all == encode._digest_objects(list(records))
    assert of_all != encode._digest_objects(records[::-1])
    changed = [dict(record, images=record["images"] ^ 1) for record in records]
    assert of_all != encode._digest_objects(changed)
