"""Weights files: whole ones in every format, the same damaged, and hostile ones."""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutation import mutate_bytes, mutate_json, to_json

ARCH = {"vae": {"num_groups": 2}, "resolution": 16}
SECONDS = 5.0


def warm_up() -> None:
    """JAX and the conversion, imported and used once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.ckpt"
        path.write_bytes(zipped(_structure(), _storages()))
        attempt(path)


def attempt(path: Path) -> None:
    """Converts a file as `iso3d convert` does."""
    from iso3d_jax.weights.importing import import_weights

    with tempfile.TemporaryDirectory() as out:
        import_weights([str(path)], out, ARCH)


def cases(seed: int, n: int) -> Iterator[tuple[str, bytes, str]]:
    """n files: the hostile ones, the whole ones, then damaged ones of every kind in turn."""
    fixed = [*hostile(), *whole()]
    yield from fixed[:n]
    kinds = (
        _mutated_pickle, _mutated_pickle, _random_program, _mutated_file, _mutated_safetensors,
        _mutated_old, _mutated_lightning,
    )  # fmt: skip
    for index in range(len(fixed), n):
        draw = np.random.default_rng((seed, index))
        kind = kinds[index % len(kinds)]
        raw, suffix = kind(draw)
        yield f"{kind.__name__.strip('_')}_{index}", raw, suffix


def pickles(seed: int, n: int) -> Iterator[tuple[str, bytes, str]]:
    """n zips around a damaged or random pickle, after the hostile ones."""
    fixed = list(hostile())
    yield from fixed[:n]
    for index in range(len(fixed), n):
        draw = np.random.default_rng((seed, index))
        make = (_mutated_pickle, _mutated_lightning, _random_program)[index % 3]
        raw, suffix = make(draw)
        yield f"{make.__name__.strip('_')}_{index}", raw, suffix


# The weights: latent-diffusion's autoencoder, as small as it can be.


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    from iso3d_jax.models.vae import VAEConfig
    from iso3d_jax.weights.conversion import weight_shapes
    from iso3d_jax.weights.layouts import ldm
    from iso3d_jax.weights.rules import find, to_theirs

    config = VAEConfig(ch=4, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4,
                       num_groups=2)  # fmt: skip
    arrays = {}
    for path, shape in weight_shapes("vae", config).items():
        match = find(ldm.VAE, path)
        assert match is not None, path
        values = to_theirs(np.zeros(shape, np.float32), path, match)
        arrays |= {ldm.VAE_PREFIX + k: v for k, v in zip(match.keys, values, strict=True)}
    return arrays


@functools.cache
def _archive() -> bytes:
    """The file that `write_torch` makes of them."""
    from iso3d_jax.weights.torch_file import write_torch

    entries = [(k, v.shape, v.dtype, lambda v=v: v) for k, v in _arrays().items()]
    with tempfile.TemporaryDirectory() as folder:
        write_torch(Path(folder) / "x.ckpt", entries)
        return (Path(folder) / "x.ckpt").read_bytes()


def _structure() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_archive())) as archive:
        return archive.read("archive/data.pkl")


def _storages() -> list[bytes]:
    return [np.ascontiguousarray(v).tobytes() for v in _arrays().values()]


def zipped(pickled: bytes, storages: list[bytes], **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("a/data.pkl", pickled)
        for index, raw in enumerate(storages):
            archive.writestr(f"a/data/{index}", raw)
    return file.getvalue()


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


@functools.cache
def small() -> tuple[bytes, list[bytes]]:
    """A pickle of two tensors and their storages, made without the networks."""
    from iso3d_jax.weights.torch_file import write_torch

    values = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(4, np.float32)]
    entries = [(f"w{k}", v.shape, v.dtype, lambda v=v: v) for k, v in enumerate(values)]
    with tempfile.TemporaryDirectory() as folder:
        write_torch(Path(folder) / "x.ckpt", entries)
        with zipfile.ZipFile(Path(folder) / "x.ckpt") as archive:
            return archive.read("archive/data.pkl"), [v.tobytes() for v in values]


def _inner(value, protocol: int = 2) -> bytes:
    """A value's pickle to be put into another one."""
    raw = pickle.dumps(value, protocol)
    return raw[2:-1] if protocol < 4 else raw[11:-1]


def lightning(structure: bytes) -> bytes:
    """What Lightning puts around a state dict: classes as keys, objects, numbers of numpy."""
    import argparse
    import collections

    callback = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    container = b"comegaconf.dictconfig\nDictConfig\n)\x81}" + _text("_content") + b"}sb"
    beside = {
        "loss": np.float64(0.5), "when": np.arange(3), "seen": {1, 2},
        "more": collections.defaultdict(list, a=[1]), "args": argparse.Namespace(lr=1e-4),
    }  # fmt: skip
    return (
        b"\x80\x02}(" + _text("epoch") + b"K\x01" + _text("callbacks") + b"}" + callback
        + b"}" + _text("best") + _inner(np.float32(1.0)) + b"ss" + _text("hyper_parameters")
        + container + _text("beside") + _inner(beside) + _text("state_dict")
        + structure[2:-1] + b"u."
    )  # fmt: skip


def old(structure: bytes, storages: list[bytes]) -> bytes:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [0x1950A86A20F9469CFC6C, 1001, machine]
    keys = [str(index) for index in range(len(storages))]
    raw = b"".join(pickle.dumps(part, 2) for part in parts) + structure + pickle.dumps(keys, 2)
    return raw + b"".join(struct.pack("<q", len(s) // 4) + s for s in storages)


def _safetensors(header=None) -> bytes:
    entries, end = {}, 0
    for key, value in _arrays().items():
        entries[key] = {
            "dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]
        }  # fmt: skip
        end += value.nbytes
    raw = json.dumps(entries).encode() if header is None else header(entries)
    return len(raw).to_bytes(8, "little") + raw + b"".join(_storages())


def whole() -> Iterator[tuple[str, bytes, str]]:
    """Files that must be read."""
    yield "whole_zip", _archive(), ".ckpt"
    yield "whole_old", old(_structure(), _storages()), ".pth"
    yield "whole_lightning", zipped(lightning(_structure()), _storages()), ".ckpt"
    yield "whole_safetensors", _safetensors(), ".safetensors"


# Damaged ones.


def _mutated_pickle(draw) -> tuple[bytes, str]:
    return zipped(mutate_bytes(draw, _structure()), _storages()), ".ckpt"


def _mutated_lightning(draw) -> tuple[bytes, str]:
    raw = lightning(_structure())
    head = raw.index(b"state_dict")
    return zipped(mutate_bytes(draw, raw[:head]) + raw[head:], _storages()), ".ckpt"


def _mutated_old(draw) -> tuple[bytes, str]:
    raw = old(_structure(), _storages())
    head = len(raw) - sum(8 + len(s) for s in _storages())
    return mutate_bytes(draw, raw[:head]) + raw[head:], ".pth"


def _mutated_file(draw) -> tuple[bytes, str]:
    raw = zipped(_structure(), _storages()[:3]) if draw.integers(2) else _archive()
    if draw.integers(2):  # the directory, at the end
        return raw[:-400] + mutate_bytes(draw, raw[-400:]), ".ckpt"
    return mutate_bytes(draw, raw), ".ckpt"


def _mutated_safetensors(draw) -> tuple[bytes, str]:
    return _safetensors(lambda entries: to_json(draw, mutate_json(draw, entries))), ".safetensors"


_NAMES = (
    "collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2",
    "torch._utils\n_rebuild_tensor_v3", "torch\nFloatStorage", "torch\nBFloat16Storage",
    "torch.storage\nUntypedStorage",
    "torch._utils\n_rebuild_parameter", "torch._tensor\n_rebuild_from_type_v2",
    "torch\nfloat8_e4m3fn", "numpy\ndtype", "builtins\nset", "my.trainer\nConfig", "os\nsystem",
)  # fmt: skip


def _random_program(draw) -> tuple[bytes, str]:
    """Opcodes in a random order, with operands that fit; more often than not on a full stack."""
    out = [b"\x80\x02}(" + _text("w")]
    for _ in range(int(draw.integers(5, 200))):
        kind = draw.integers(14)
        small = int(draw.integers(8))
        if kind < 3:
            out.append(b"c" + _NAMES[draw.integers(len(_NAMES))].encode() + b"\n")
        elif kind < 5:
            out.append(_text(("state_dict", "storage", "0", "cpu", "w")[draw.integers(5)]))
        elif kind < 7:
            out.append(b"K" + bytes([small]))
        elif kind == 7:
            out.append(b"q" + bytes([small]))
        elif kind == 8:
            out.append(b"h" + bytes([small]))
        else:
            out.append(
                bytes([b"()]}NRQbtseaud0\x81\x85\x86\x87\x88\x8f\x90\x94"[draw.integers(23)]])
            )
    tail = (b"", b"u.", b"s.", b"tR.")[draw.integers(4)]
    return zipped(b"".join(out) + tail + b".", _storages()[:2]), ".ckpt"


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Files made to do harm: none may be read, and none may take long or much."""
    tensor = _structure()[2:-1]
    storages = _storages()
    state = b"(K\x03" + _text("|") + b"NNNJ\x01\x00\x00\x00J\x01\x00\x00\x00K\x00tb"
    code = {
        "dtype_state": b"ctorch\nBFloat16Storage\n" + state + b"0" + tensor,
        "function_state": b"ctorch._utils\n_rebuild_tensor_v2\n}" + _text("__defaults__") + b"Nsb0"
        + tensor,
        "dict_attribute": tensor + b"}" + _text("items") + b"ctorch._utils\n_rebuild_parameter\nsb",
        "runs_code": b"cos\nsystem\n" + _text("true") + b"\x85R",
        "runs_code_beside": b"}(" + _text("x") + b"cbuiltins\nexec\n" + _text("pass") + b"\x85R"
        + _text("state_dict") + tensor + b"u",
        "extension": b"\x82\x01",
        "instance": b"(ios\nsystem\n",
        "hash_of_tuples": b"})q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s",
        "deep_tuples": b"})" + b"\x85" * 3_000_000 + b"K\x01s",
        "deep_lists": b"]" * 500_000 + b"a" * 499_999,
        "deep_marks": b"(" * 3_000_000,
        "memo": b"K\x01r\x07\x00\x00\x10",
        "many_steps": b"N0" * 20_000_000,
        "long_number": b"\x8b\xff\xff\xff\x7f" + bytes(100),
        "long_text": b"X\xff\xff\xff\xff" + bytes(100),
        "longer_text": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100),
        "attributes_again": b"}(" + b"".join(_text(f"k{i}") + b"N" for i in range(50_000))
        + b"uq\x00" + b"ccollections\nOrderedDict\n)R" + b"h\x00b" * 5_000,
        "copies": b"](" + b"(K\x01K\x02t" * 50_000 + b"eq\x00"
        + b"ccollections\nOrderedDict\nh\x00\x85R0" * 5_000,
        "long_name": b"c" + b"a" * 10_000_000 + b"\nb\n",
        "long_key": b"}" + _text("k" * 10_000_000) + b"Ns",
    }  # fmt: skip
    for name, body in code.items():
        options = {"compression": zipfile.ZIP_DEFLATED} if len(body) > 1 << 20 else {}
        kept = [] if options else storages
        yield f"hostile_{name}", zipped(b"\x80\x02" + body + b".", kept, **options), ".ckpt"
    yield "hostile_zip_bomb", zipped(bytes(1 << 28), [], compression=zipfile.ZIP_DEFLATED), ".ckpt"
    yield "hostile_size_lies", _size_lies(), ".ckpt"
    yield "hostile_expanded", zipped(_expanded(), [bytes(16)]), ".ckpt"
    yield "hostile_many_entries", zipped(b".", [b""] * 20_000), ".ckpt"
    one = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}'
    for name, header in {
        "deep": b'{"a":' + b"[" * 100_000,
        "infinity": one % b"Infinity",
        "digits": one % (b"1" + b"0" * 6000),
        "float": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}',
        "true": one % b"true",
        "type": b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        "surrogate": b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        "list": b"[]",
        "axes": one % (b"1," * 9999 + b"1"),
    }.items():  # fmt: skip
        raw = len(header).to_bytes(8, "little") + header + bytes(64)
        yield f"hostile_header_{name}", raw, ".safetensors"
    yield "hostile_header_length", b"\xff" * 16, ".safetensors"
    for name, content in {
        "empty_name": '{"weight_map": {"a": ""}}', "itself": '{"weight_map": {"a": "case.json"}}',
        "outside": '{"weight_map": {"a": "../x.safetensors"}}', "list": '{"weight_map": []}',
        "number": '{"weight_map": {"a": 3}}', "nul": '{"weight_map": {"a": "\\u0000.bin"}}',
        "long": '{"weight_map": {"a": "' + "x" * 5000 + '.bin"}}', "deep": "[" * 100_000,
    }.items():  # fmt: skip
        yield f"hostile_index_{name}", content.encode(), ".safetensors.index.json"


def _size_lies() -> bytes:
    """A zip whose directory promises a storage of 4 MB that is not there."""
    raw = bytearray(zipped(_structure(), [bytes(16)]))
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 20 : at + 28] = struct.pack("<II", 1 << 22, 1 << 22)
    return bytes(raw)


def _expanded() -> bytes:
    """A tensor of 10^12 elements, all the first of a storage of four."""
    side = b"J" + (10**6).to_bytes(4, "little")
    storage = (
        b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x04tQ"
    )
    return (
        b"\x80\x02}" + _text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00("
        + side + side + b"t(K\x00K\x00t\x89}tRs."
    )  # fmt: skip
