"""Damaged meshes: seeded mutations of small whole ones, in every format that is read."""

import base64
import copy
import io
import json
import pathlib
import random
import re
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import asset_sources, meshes

_POINTS = np.array([[x, y, z] for x in (-1, 1) for y in (-2, 2) for z in (-1, 1)], "f4")
_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
     [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
_ODD_NUMBERS = (
    "0", "-1", "1", "3", "255", "256", "65536", "2147483647", "4294967296", "-2147483649",
    "1" + "0" * 30, "1e999", "-1e999", "nan", "inf", "1e-320", "0x10", "1_0", "٣", "", "9" * 5000,
)  # fmt: skip
_ODD_VALUES = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "\ud800", "../../../etc/passwd", "/dev/zero", "data:,", "data:;base64,!", [], {},
    [0], [[[]]], {"a": {}}, [1e308] * 3, [0] * 16, "KHR_draco_mesh_compression",
)  # fmt: skip


def _png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def _gltf() -> tuple[dict, bytes]:
    """A box with most of what the format has: JSON and buffer."""
    views, accessors, data = [], [], b""
    kinds = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
    codes = {"f": 5126, "B": 5121, "H": 5123}

    def view(content: bytes) -> int:
        nonlocal data
        data += b"\0" * (-len(data) % 4)
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(content)})
        data += content
        return len(views) - 1

    def accessor(values, **more) -> int:
        rows = values.reshape(len(values), -1)
        accessors.append(
            {"bufferView": view(rows.tobytes()), "componentType": codes[values.dtype.char],
             "count": len(rows), "type": kinds[rows.shape[1]]} | more
        )  # fmt: skip
        return len(accessors) - 1

    sparse = {
        "count": 1,
        "indices": {"bufferView": view(b"\2\0\0\0"), "componentType": 5121},
        "values": {"bufferView": view(np.array([-1, 2, -1], "f4").tobytes())},
    }
    primitive = {
        "attributes": {
            "POSITION": accessor(_POINTS, sparse=sparse),
            "NORMAL": accessor(_POINTS),
            "TEXCOORD_0": accessor(_POINTS[:, :2].copy()),
            "COLOR_0": accessor(np.full((8, 4), 200, "B"), normalized=True),
            "JOINTS_0": accessor(np.zeros((8, 4), "B")),
            "WEIGHTS_0": accessor(np.full((8, 4), 0.25, "f4")),
        },
        "indices": accessor(_FACES.reshape(-1).astype("H")),
        "material": 0,
        "targets": [{"POSITION": accessor(_POINTS)}],
        "mode": 4,
    }
    places = {"attributes": {"TRANSLATION": accessor(np.array([[0, 0, 0], [4, 0, 0]], "f4"))}}
    transform = {"offset": [0, 0.5], "rotation": 0.1, "scale": [1, 2], "texCoord": 0}
    texture = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
    document = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["KHR_texture_transform"],
        "extensionsRequired": ["KHR_texture_transform"],
        "scene": 0,
        "scenes": [{"nodes": [0, 3]}],
        "nodes": [
            {"children": [1], "rotation": [0, 0, 0, 1], "scale": [1, -1, 1]},
            {"mesh": 0, "translation": [1, 2, 3],
             "extensions": {"EXT_mesh_gpu_instancing": places}},
            {"matrix": np.eye(4).ravel().tolist()},
            {"mesh": 0, "skin": 0, "weights": [0.5]},
        ],
        "meshes": [{"primitives": [primitive], "weights": [0.25]}],
        "skins": [
            {"joints": [2], "inverseBindMatrices": accessor(np.eye(4, dtype="f4").reshape(1, 16))}
        ],
        "materials": [
            {"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 0, 1],
                                      "baseColorTexture": texture},
             "emissiveFactor": [0, 0.1, 0], "emissiveTexture": {"index": 0},
             "alphaMode": "MASK", "alphaCutoff": 0.3, "doubleSided": True}
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}],
        "images": [{"bufferView": view(_png()), "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
    }  # fmt: skip
    return document | {"buffers": [{"byteLength": len(data)}]}, data


def _glb(document: dict, data: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _obj() -> dict[str, bytes]:
    lines = ["mtllib box.mtl", "o box"]
    lines += [f"v {x} {y} {z} 0.5 0.2 0.1" for x, y, z in _POINTS]
    lines += [f"vt {x} {y}" for x, y, _ in _POINTS] + [f"vn {x} {y} {z}" for x, y, z in _POINTS]
    for k, face in enumerate(_FACES + 1):
        lines += [f"usemtl {'oak' if k % 2 else 'elm'}"]
        lines += ["f " + " ".join(f"{i}/{i}/{i}" for i in face), "f -1 -2 -3 \\", " -4"]
    mtl = "newmtl oak\nKd 0.5 0.2 0.1\nmap_Kd -s 1 2 1 -clamp on oak.png\n"
    mtl += "newmtl elm\nKd 1 1 1\nd 0.5\n"
    return {"box.obj": "\n".join(lines).encode(), "box.mtl": mtl.encode(), "oak.png": _png()}


def _ply(binary: bool) -> bytes:
    text = f"ply\nformat {'binary_little_endian' if binary else 'ascii'} 1.0\nelement vertex 8\n"
    text += "".join(f"property float {c}\n" for c in "xyz")
    text += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    text += "element face 12\nproperty list uchar int vertex_indices\nend_header\n"
    if not binary:
        rows = [f"{x} {y} {z} 9 99 199" for x, y, z in _POINTS]
        rows += ["3 " + " ".join(map(str, face)) for face in _FACES]
        return (text + "\n".join(rows) + "\n").encode()
    body = b"".join(p.tobytes() + b"\x09\x63\xc7" for p in _POINTS)
    return text.encode() + body + b"".join(b"\3" + f.astype("<i4").tobytes() for f in _FACES)


def _stl(binary: bool) -> bytes:
    if binary:
        body = b"".join(bytes(12) + _POINTS[f].tobytes() + b"\0\0" for f in _FACES)
        return b"box".ljust(80) + struct.pack("<I", len(_FACES)) + body
    lines = ["solid box"]
    for face in _FACES:
        lines += ["facet normal 0 0 1", "outer loop"]
        lines += [f"vertex {x} {y} {z}" for x, y, z in _POINTS[face]] + ["endloop", "endfacet"]
    return "\n".join([*lines, "endsolid"]).encode()


def _off() -> bytes:
    lines = ["OFF", "8 12 0"] + [f"{x} {y} {z}" for x, y, z in _POINTS]
    return "\n".join(lines + ["3 " + " ".join(map(str, f)) for f in _FACES]).encode()


def _sh3f(files: dict[str, bytes], properties: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files | {asset_sources.CATALOGUE: properties}).items():
            archive.writestr(zipfile.ZipInfo(f"m/{name}" if name in files else name), data)
    return buffer.getvalue()


_PROPERTIES = (
    b"license=Public domain\nname#1=Box\ncategory#1=Misc\ncreator#1=A\nmodel#1=/m/box.obj\n"
    b"icon#1=/m/oak.png\nmodelRotation#1=1 0 0 0 1 0 0 0 1\nname#2=Caf\\u00e9\nmodel#2=/m/box.obj\n"
)


def _wholes() -> dict[str, tuple[dict[str, bytes], str]]:
    """The files of each kind before they are damaged, and which of them is the mesh."""
    document, data = _gltf()
    apart = copy.deepcopy(document)
    apart["buffers"][0]["uri"] = "box%20of.bin"
    inside = copy.deepcopy(document)
    inside["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(data).decode()
    return {
        "glb": ({"box.glb": _glb(document, data)}, "box.glb"),
        "gltf": ({"box.gltf": json.dumps(apart).encode(), "box of.bin": data}, "box.gltf"),
        "embedded": ({"box.gltf": json.dumps(inside).encode()}, "box.gltf"),
        "obj": (_obj(), "box.obj"),
        "ply": ({"box.ply": _ply(False)}, "box.ply"),
        "ply_binary": ({"box.ply": _ply(True)}, "box.ply"),
        "stl": ({"box.stl": _stl(False)}, "box.stl"),
        "stl_binary": ({"box.stl": _stl(True)}, "box.stl"),
        "off": ({"box.off": _off()}, "box.off"),
        "sh3f": ({"box.sh3f": _sh3f(_obj(), _PROPERTIES)}, "box.sh3f"),
    }


def _change_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes flipped, lost, doubled or replaced by an extreme number."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not out:
            break
        at, length = rng.randrange(len(out)), rng.choice((1, 4, 16, 200))
        how = rng.randrange(6)
        if how == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del out[at : at + length]
        elif how == 2:
            out[at:at] = out[at : at + length]
        elif how == 3:
            number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0x7F800000, 0x7FC00000))
            out[at : at + 4] = struct.pack("<I", number)
        elif how == 4:
            del out[at:]
        else:
            out[at : at + length] = rng.randbytes(length)
    return bytes(out)


def _change_words(rng: random.Random, data: bytes) -> bytes:
    """Words of a text lost, doubled, or replaced by odd numbers; lines in another order."""
    text = data.decode("latin-1")
    words = re.split(r"(\s+)", text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, how = rng.randrange(len(words)), rng.randrange(4)
        if how < 2:
            words[at] = rng.choice(_ODD_NUMBERS)
        elif how == 2:
            words[at] = words[rng.randrange(len(words))]
        else:
            words[at] = words[at] * rng.choice((0, 2, 50))
    return "".join(words).encode("utf-8", "replace")


def _change_json(rng: random.Random, document: dict) -> dict:
    """Values anywhere in it replaced, lost, or taken from elsewhere."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(document))
        holder, key = rng.choice(places)
        how = rng.randrange(4)
        if how < 2:
            holder[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
        elif how == 2:
            other, there = rng.choice(places)
            holder[key] = copy.deepcopy(other[there])
        elif isinstance(holder, dict):
            del holder[key]
        else:
            holder.append(copy.deepcopy(holder[key]))
    return document


def _places(value) -> Iterator[tuple]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _mutate(rng: random.Random, kind: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """One damaged copy of the files of a kind."""
    files = dict(files)
    name = rng.choice([n for n in files if not n.endswith(".png")] * 3 + sorted(files))
    if kind in ("glb", "gltf", "embedded") and rng.random() < 0.6:
        document, data = _gltf()
        if kind == "embedded":
            document["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(data).decode()
        elif kind == "gltf":
            document["buffers"][0]["uri"] = "box%20of.bin"
        document = _change_json(rng, document)
        mesh = "box.glb" if kind == "glb" else "box.gltf"
        files[mesh] = _glb(document, data) if kind == "glb" else json.dumps(document).encode()
    elif kind == "sh3f" and rng.random() < 0.6:
        inner, properties = _obj(), _PROPERTIES
        if rng.random() < 0.5:
            properties = _change_words(rng, properties)
        else:
            inner = _mutate(rng, "obj", inner)
        files["box.sh3f"] = _sh3f(inner, properties)
    elif kind in ("obj", "ply", "stl", "off") and not name.endswith(".png") and rng.random() < 0.6:
        files[name] = _change_words(rng, files[name])
    elif len(files) > 1 and rng.random() < 0.05:
        del files[name]
    else:
        files[name] = _change_bytes(rng, files[name])
    return files


def cases(seed: int, n: int) -> Iterator[tuple[str, dict[str, bytes], str]]:
    """`n` damaged meshes: (name, files by name, which of them to read), the same for a seed."""
    wholes = _wholes()
    kinds = sorted(wholes)
    for k in range(n):
        kind = kinds[k % len(kinds)]
        files, entry = wholes[kind]
        rng = random.Random(f"{seed} {k}")
        yield f"{kind}-{k}", _mutate(rng, kind, files), entry


def attempt(path: str | pathlib.Path) -> None:
    """Reads every object of a mesh or catalogue as `data.render` does.

    Raises:
      UserError: one of them, or all, cannot be read.
    """
    refused = None
    for asset in asset_sources.find_assets([str(path)]):
        fault = asset_sources.unwanted(asset)
        try:
            if fault is None:
                parts = asset_sources.load_asset(asset)
                asset_sources.shape_refusal(parts)
        except meshes.BadMesh as e:
            fault = str(e)
        refused = refused or fault
    if refused:
        raise UserError(refused)
