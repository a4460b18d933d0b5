"""Small glTF files of numpy arrays, as the format says, for the tests to bend."""

import base64
import json
import struct

import numpy as np

_CODES = {"b": 5120, "B": 5121, "h": 5122, "H": 5123, "I": 5125, "f": 5126}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "f4")
INDICES = np.array([0, 1, 2, 0, 2, 3], "H")


class Gltf:
    """A file that grows: `json` may be changed at will before it is written."""

    def __init__(self):
        self.data = b""
        self.json = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}], "meshes": [], "accessors": [], "bufferViews": [],
        }  # fmt: skip

    def view(self, data: bytes, **more) -> int:
        """Adds a buffer view; returns its number."""
        self.data += b"\0" * (-len(self.data) % 4)
        here = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.json["bufferViews"].append(here | more)
        self.data += data
        return len(self.json["bufferViews"]) - 1

    def accessor(self, values, **more) -> int:
        """Adds an array [N] or [N, C]; returns its number."""
        values = np.asarray(values)
        rows = values.reshape(len(values), -1)
        self.json["accessors"].append(
            {
                "bufferView": self.view(rows.tobytes()),
                "componentType": _CODES[values.dtype.char],
                "count": len(rows),
                "type": _KINDS[rows.shape[1]],
            }
            | more
        )
        return len(self.json["accessors"]) - 1

    def mesh(self, material=None, indices=INDICES, mode=None, **attributes) -> dict:
        """Adds a mesh of one primitive, a square unless POSITION is given; returns that."""
        given = {"POSITION": SQUARE} | attributes
        primitive = {"attributes": {k: self.accessor(v) for k, v in given.items()}}
        if indices is not None:
            primitive["indices"] = self.accessor(indices)
        if mode is not None:
            primitive["mode"] = mode
        if material is not None:
            primitive["material"] = material
        self.json["meshes"].append({"primitives": [primitive]})
        return primitive

    def material(self, pixels=None, texture=None, **json) -> int:
        """Adds a material, with a base colour texture where there are pixels; returns its number.

        `texture` are further members of the texture's reference.
        """
        materials = self.json.setdefault("materials", [])
        if pixels is not None:
            pbr = json.setdefault("pbrMetallicRoughness", {})
            pbr["baseColorTexture"] = {"index": self.texture(pixels)} | (texture or {})
        materials.append(json)
        return len(materials) - 1

    def texture(self, pixels, **more) -> int:
        """Adds a picture and its texture; returns the texture's number."""
        images, textures = (self.json.setdefault(k, []) for k in ("images", "textures"))
        data = pixels if isinstance(pixels, bytes) else png(pixels)
        images.append({"bufferView": self.view(data), "mimeType": "image/png"})
        textures.append({"source": len(images) - 1} | more)
        return len(textures) - 1

    def glb(self) -> bytes:
        self.json["buffers"] = self.json.get("buffers") or [{"byteLength": len(self.data)}]
        text = json.dumps(self.json).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + b"\0" * (-len(self.data) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri=None) -> bytes:
        """The JSON, its buffer embedded or under a name."""
        embedded = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
        self.json["buffers"] = [{"byteLength": len(self.data), "uri": uri or embedded}]
        return json.dumps(self.json).encode()


def png(pixels) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
