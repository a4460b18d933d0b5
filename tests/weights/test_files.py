"""Weight files: read as their own libraries would, refused when damaged or unsafe."""

import argparse
import collections
import io
import json
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.safetensors_file import write_safetensors
from iso3d_jax.weights.sources import choose, open_sources, wanted_files
from iso3d_jax.weights.tensors import open_tensors
from iso3d_jax.weights.torch_file import write_torch

GOLDEN = Path(__file__).parents[1] / "golden"


def arrays():
    draw = np.random.default_rng(0)
    return {
        "a.weight": draw.standard_normal((3, 5)).astype(np.float32),
        "b": draw.standard_normal((2, 3, 7)).astype(ml_dtypes.bfloat16),
        "c": draw.standard_normal(11).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "steps": np.array([1, 2**40], np.int64),
    }


def entries(values):
    return [(key, v.shape, v.dtype, lambda v=v: v) for key, v in values.items()]


def check(tensors, expected):
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        got = tensors[key].read()
        assert got.dtype == value.dtype and got.shape == value.shape, key
        np.testing.assert_array_equal(got, value)


def test_golden_checkpoint_has_every_key_and_shape():
    layout = dict(json.loads((GOLDEN / "state_dict_layout.json").read_text()))
    tensors = open_tensors(GOLDEN / "isotropic3d_tiny_fp16.ckpt")
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == layout


def test_torch_round_trip(tmp_path):
    write_torch(tmp_path / "x.ckpt", entries(arrays()))
    check(open_tensors(tmp_path / "x.ckpt"), arrays())
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            offset = info.header_offset + 30 + len(info.filename)
            extra = (tmp_path / "x.ckpt").read_bytes()[info.header_offset + 28 :][:2]
            assert (offset + int.from_bytes(extra, "little")) % 64 == 0


def test_safetensors_round_trip_and_both_ways_with_the_package(tmp_path):
    plain = {k: v for k, v in arrays().items() if v.dtype != ml_dtypes.bfloat16}
    write_safetensors(tmp_path / "ours.safetensors", entries(arrays()), {"format": "pt"})
    check(open_tensors(tmp_path / "ours.safetensors"), arrays())
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert all(np.array_equal(theirs[key], value) for key, value in plain.items())
    safetensors.numpy.save_file(plain, tmp_path / "theirs.safetensors")
    tensors = open_tensors(tmp_path / "theirs.safetensors")
    check({key: tensors[key] for key in plain}, plain)


def write_zip(path, pickled, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, raw in storages:
            archive.writestr(f"x/data/{name}", raw)
    return path


def tensor_pickle(size, stride, offset=0, count=12, wrapper=None):
    """The pickle of {'w': tensor}, of a storage '0' of `count` floats."""

    def name(text):
        return b"X" + len(text).to_bytes(4, "little") + text.encode()

    def ints(values):
        return b"(" + b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values) + b"t"

    number = b"J" + count.to_bytes(4, "little")
    storage = b"(" + name("storage") + b"ctorch\nFloatStorage\n" + name("0") + name("cpu") + number
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ"
        + b"J" + offset.to_bytes(4, "little", signed=True) + ints(size) + ints(stride)
        + b"\x89}tR"
    )  # fmt: skip
    content = b"}" + name("w") + tensor + b"s"
    if wrapper:
        content = b"}" + name("global_step") + b"K\x07s" + name(wrapper) + content + b"s"
    return b"\x80\x02" + content + b"."


def test_strided_views_and_wrappers(tmp_path):
    values = np.arange(12, dtype=np.float32)
    storage = [("0", values.tobytes())]
    path = write_zip(
        tmp_path / "t.pt", tensor_pickle((3, 2), (1, 4), 2, wrapper="state_dict"), storage
    )
    tensors = open_tensors(path)
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(
        tensors["w"].read(), values[2:].reshape(-1)[[0, 4, 1, 5, 2, 6]].reshape(3, 2)
    )


@pytest.mark.parametrize(
    "size, stride, offset",
    [
        ((13,), (1,), 0),
        ((3, 4), (4, 1), 1),
        ((2,), (1 << 30,), 0),
        ((2,), (-1,), 3),
        ((1,), (1,), -1),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, size, stride, offset):
    path = write_zip(tmp_path / "t.pt", tensor_pickle(size, stride, offset), [("0", bytes(48))])
    with pytest.raises(UserError, match="is damaged"):
        open_tensors(path)


def test_short_missing_and_compressed_storages_are_refused(tmp_path):
    pickled = tensor_pickle((12,), (1,))
    for name, storages, options in (
        ("short", [("0", bytes(40))], {}),
        ("missing", [], {}),
        ("compressed", [("0", bytes(48))], {"compression": zipfile.ZIP_DEFLATED}),
    ):
        with pytest.raises(UserError, match="is damaged"):
            open_tensors(write_zip(tmp_path / f"{name}.pt", pickled, storages, **options))


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def test_a_pickle_that_runs_code_is_refused_in_one_sentence(tmp_path, refused):
    marker = tmp_path / "it_ran"
    pickled = pickle.dumps({"state_dict": RunsCode(marker)}, protocol=2)
    path = write_zip(tmp_path / "evil.ckpt", pickled)
    message = refused("-m", "iso3d_jax.convert", "--from", path, "--out", tmp_path / "out")
    assert "is refused" in message and "exec" in message and "\n" not in message
    assert not marker.exists() and not (tmp_path / "out" / "model.safetensors").exists()
    pickle.loads(pickled)  # the file was a real threat
    assert marker.exists()


@pytest.mark.parametrize("name", ["os system", "builtins eval", "subprocess.sub Popen"])
def test_what_runs_code_is_refused_by_name(tmp_path, name):
    module, attribute = name.split()
    beside = f"(X\x01\x00\x00\x00ac{module}\n{attribute}\n".encode() + b"X\x01\x00\x00\x00b"
    pickled = b"\x80\x02}" + beside + tensor_pickle((12,), (1,))[2:-1] + b"u."
    path = write_zip(tmp_path / "t.pt", pickled, [("0", bytes(48))])
    with pytest.raises(UserError, match=f"is refused.*{module}.{attribute}"):
        open_tensors(path)


def test_what_trainers_put_beside_the_weights_is_inert(tmp_path):
    """Classes as keys, objects with attributes, values of numpy and Lightning mean nothing."""
    raw = pickle.dumps(
        {
            "loss": np.float64(0.5), "rng": np.arange(5), "seen": {1, 2}, 3: frozenset([1]),
            (1, 2): "a tuple", "path": Path("x"), "options": argparse.Namespace(lr=1e-4),
            "more": collections.defaultdict(list, a=[1]),
        }, 2,
    )[2:-1]  # fmt: skip
    callbacks = b"}cpytorch_lightning.callbacks\nModelCheckpoint\n}X\x01\x00\x00\x00aK\x01ss"
    config = b"comegaconf\nDictConfig\n)\x81}X\x01\x00\x00\x00aK\x01sb"
    wrapped = tensor_pickle((12,), (1,), wrapper="state_dict")[3:-1]
    values = np.arange(12, dtype=np.float32)
    pickled = b"\x80\x02}(X\x01\x00\x00\x00a" + raw + b"X\x01\x00\x00\x00b" + callbacks
    pickled += b"X\x01\x00\x00\x00c" + config + b"u" + wrapped + b"."
    path = write_zip(tmp_path / "t.pt", pickled, [("0", values.tobytes())])
    check(open_tensors(path), {"w": values})


def test_a_module_s_metadata_is_passed_over_and_other_attributes_are_refused(tmp_path):
    def attribute(name):
        key = b"X" + len(name).to_bytes(4, "little") + name.encode()
        return tensor_pickle((12,), (1,))[:-1] + b"}" + key + b"}sb."

    path = write_zip(tmp_path / "t.pt", attribute("_metadata"), [("0", bytes(48))])
    assert list(open_tensors(path)) == ["w"]
    path = write_zip(tmp_path / "u.pt", attribute("items"), [("0", bytes(48))])
    with pytest.raises(UserError, match="a dict is given attributes"):
        open_tensors(path)


def test_no_live_object_is_changed_by_a_pickle(tmp_path):
    state = b"(K\x03X\x01\x00\x00\x00|NNNJ\x01\x00\x00\x00J\x01\x00\x00\x00K\x00tb0"
    before = np.dtype(ml_dtypes.bfloat16).__reduce__()
    for name in ("torch\nBFloat16Storage", "torch._utils\n_rebuild_tensor_v2"):
        pickled = b"\x80\x02c" + name.encode() + b"\n" + state + tensor_pickle((12,), (1,))[2:]
        path = write_zip(tmp_path / "t.pt", pickled, [("0", bytes(48))])
        with pytest.raises(UserError, match="is given attributes"):
            open_tensors(path)
    assert np.dtype(ml_dtypes.bfloat16).__reduce__() == before


def test_a_pickle_cannot_point_a_tensor_elsewhere(tmp_path):
    # BUILD would set a LazyTensor's attributes, its file among them.
    pickled = tensor_pickle((12,), (1,))[:-2] + b"}X\x04\x00\x00\x00pathK\x01sbs."
    with pytest.raises(UserError, match="is damaged"):
        open_tensors(write_zip(tmp_path / "t.pt", pickled, [("0", bytes(48))]))


@pytest.mark.parametrize(
    "header, words",
    [
        ({"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}, "of the type F8_E4M3"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}, "no place in the file"),
        ({"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}, "Infinity"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "impossible shape"),
        ({"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}, "impossible shape"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "of the type"),
        ([], "is not described"),
    ],
)
def test_headers_that_describe_nothing_real_are_refused(tmp_path, header, words):
    raw = json.dumps({"w": header}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(64))
    with pytest.raises(UserError, match=words):
        open_tensors(path)


def test_json_nested_too_deep_is_refused(tmp_path):
    raw = b'{"a":' + b"[" * 100_000
    (tmp_path / "x.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    (tmp_path / "x.safetensors.index.json").write_bytes(raw)
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match="nested too deep"):
            open_tensors(path)


def test_damaged_files_are_refused(tmp_path):
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("readme.txt", "hello")
    truncated = (GOLDEN / "isotropic3d_tiny_fp16.ckpt").read_bytes()[:100_000]
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    length = len(header).to_bytes(8, "little")
    for name, raw, words in (
        ("text.ckpt", b"not weights", "not a checkpoint"),
        ("cut.ckpt", truncated, "cut short"),
        ("other.pt", good.getvalue(), "not one that torch.save wrote"),
        ("legacy.pt", pickle.dumps({"w": 1}, protocol=2), "not a checkpoint"),
        ("short.safetensors", length + header + bytes(12), "does not lie inside"),
        ("wild.safetensors", b"\xff" * 16, "header"),
        ("empty.safetensors", b"", "header"),
        ("list.safetensors", (2).to_bytes(8, "little") + b"[]", "safetensors"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(UserError, match=words):
            open_tensors(tmp_path / name)


def test_shards(tmp_path):
    values = arrays()
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(values)}
    for shard in set(names.values()):
        write_safetensors(
            tmp_path / shard, entries({k: v for k, v in values.items() if names[k] == shard})
        )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    check(open_tensors(index), values)
    (source,) = open_sources(str(tmp_path))
    check(source.tensors, values)
    index.write_text(json.dumps({"weight_map": names | {"more": names["c"]}}))
    with pytest.raises(UserError, match="promises 'more'"):
        open_tensors(index)
    for name in ("../x.safetensors", "", "x.json", 3, "\0.bin", ".x.bin", "x" * 300 + ".bin"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match="outside the folder"):
            open_tensors(index)


@pytest.mark.parametrize(
    "shard, index",
    [
        ("x.fp16-0000{}-of-00002.safetensors", "x.safetensors.index.fp16.json"),
        ("x.fp16-0000{}-of-00002.safetensors", "x.fp16.safetensors.index.json"),
        ("x-0000{}-of-00002.fp16.safetensors", "x.safetensors.fp16.index.json"),
    ],
)
def test_shards_of_a_variant(tmp_path, shard, index):
    values = arrays()
    names = {key: shard.format(1 + i % 2) for i, key in enumerate(values)}
    for name in set(names.values()):
        part = {k: v for k, v in values.items() if names[k] == name}
        write_safetensors(tmp_path / name, entries(part))
    (tmp_path / index).write_text(json.dumps({"weight_map": names}))
    (source,) = open_sources(str(tmp_path))
    check(source.tensors, values)
    files = [index, *set(names.values()), "x-00001-of-00002.safetensors"]
    assert set(wanted_files(files, "x/y")) == {index, *names.values()}


def test_the_right_file_of_a_folder_is_chosen():
    assert choose(["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors",
                   "diffusion_pytorch_model.fp16.safetensors", "config.json"], "x") == (
        "diffusion_pytorch_model.safetensors"
    )  # fmt: skip
    assert choose(["model.fp16.safetensors"], "x") == "model.fp16.safetensors"
    assert choose(["open_clip_model.safetensors", "model.safetensors"], "x") == "model.safetensors"
    with pytest.raises(UserError, match="several weights, name one: a.ckpt, b.ckpt"):
        choose(["a.ckpt", "b.ckpt"], "x")
    with pytest.raises(UserError, match="holds no weights"):
        choose(["readme.md"], "x")


def test_what_is_fetched_of_a_hub_repository():
    pipeline = ["README.md", "v2-1.ckpt", "unet/config.json", "vae/config.json",
                "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors",
                "vae/diffusion_pytorch_model.bin", "scheduler/scheduler_config.json"]  # fmt: skip
    wanted = wanted_files(pipeline, "x/y")
    assert {name for name in wanted if not name.endswith(".json")} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
    }
    assert "scheduler/scheduler_config.json" in wanted
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    wanted = wanted_files(["model.safetensors.index.json", "config.json", *shards], "x/y")
    assert set(shards) < set(wanted) and "config.json" in wanted
    with pytest.raises(UserError, match="the repository x/y has several weights"):
        wanted_files(["a.ckpt", "b.ckpt"], "x/y")


def test_a_hub_id_without_a_connection_fails_in_one_sentence(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for place in ("nobody/nothing-here", "nobody/nothing-here/model.ckpt"):
        with pytest.raises(UserError, match="the hub gave no such repository") as error:
            open_sources(place)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="not found"):
        open_sources("missing.ckpt")
