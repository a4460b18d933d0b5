"""glTF 2.0 as triangles: the scene at rest, by the format's own rules.

Drawn is the base colour: factor times texture times COLOR_0 as linear light, for the
metallic-roughness model as for specular-glossiness (its diffuse colour), and the emissive colour
added to it. Roughness, metal, clear coats, lights and cameras change nothing, and what transmits
light is as solid as its colour. Animations stand still: nodes where they are, skins at their
joints, morph targets by the weights of node or mesh. Front faces alone are drawn unless a material
is double-sided. What the format requires and we do not read leaves the object out, by name.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html; extensions: `_KNOWN`.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from iso3d_jax.core import extras
from iso3d_jax.data.beside import NotThere, ReadFile
from iso3d_jax.data.gltf_document import (
    Document,
    as_index,
    count,
    member,
    number,
    numbers,
    to_float,
)
from iso3d_jax.data.meshes import (
    MOST_PARTS,
    BadMesh,
    Glow,
    Note,
    Part,
    check_count,
    face_normals,
    finite_uv,
)
from iso3d_jax.data.textures import BadTexture, Textures, linear_to_srgb

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_WRAPS = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_NEAREST = 9728
_DRACO = "KHR_draco_mesh_compression"
_DRACO_PACKAGE = "DracoPy"
_BASISU = "KHR_texture_basisu"
_OTHER_SOURCES = ("EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds")
_GLOSSY = "KHR_materials_pbrSpecularGlossiness"
_MOST_PRIMITIVES = 50_000
_SKINNED_AT_ONCE = 200_000  # vertices
# Read, or without an effect on what is drawn.
_KNOWN = {
    "EXT_mesh_gpu_instancing", "KHR_mesh_quantization", "KHR_texture_transform",
    "KHR_materials_unlit", "KHR_materials_emissive_strength", "KHR_node_visibility", _GLOSSY,
    *_OTHER_SOURCES,
    "KHR_animation_pointer", "KHR_audio", "KHR_lights_punctual", "EXT_lights_image_based",
    "EXT_lights_ies", "KHR_materials_anisotropy", "KHR_materials_clearcoat",
    "KHR_materials_diffuse_transmission", "KHR_materials_dispersion", "KHR_materials_ior",
    "KHR_materials_iridescence", "KHR_materials_sheen", "KHR_materials_specular",
    "KHR_materials_transmission", "KHR_materials_variants", "KHR_materials_volume",
    "KHR_materials_volume_scatter", "KHR_node_hoverability", "KHR_node_selectability",
    "KHR_xmp", "KHR_xmp_json_ld", "MSFT_lod", "MSFT_packing_normalRoughnessMetallic",
    "MSFT_packing_occlusionRoughnessMetallic", "EXT_meshopt_compression",
    "KHR_meshopt_compression",
}  # fmt: skip


def read_gltf(data: bytes, read_file: ReadFile, note: Note) -> list[Part]:
    """Reads a GLB or glTF file.

    Args:
      data: the bytes of the file.
      read_file: returns the bytes of a file named relative to it (buffers, pictures); raises
        NotThere.
      note: is told what is missing or left away.

    Returns:
      Parts in the file's coordinates, one for each material or more.

    Raises:
      BadMesh: damaged, without triangles, or in need of an extension that is not read.
    """
    document = Document(data, read_file)
    _check_extensions(document)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused as such
        return _Reader(document, note).parts()


def _check_extensions(document: Document):
    for name in member(document.json, "extensionsRequired", list, []):
        if name == _DRACO and extras.is_installed(_DRACO_PACKAGE):
            continue
        if name == _DRACO:
            raise BadMesh(
                f"it requires {_DRACO}, which the package {_DRACO_PACKAGE} reads: install it"
            )
        if not isinstance(name, str) or name not in _KNOWN:
            raise BadMesh(f"it requires the extension {str(name)[:60]}, which is not read")


@dataclasses.dataclass
class _Texture:
    """A picture on a material, and which coordinates it takes."""

    pixels: np.ndarray
    set: int
    matrix: Float[np.ndarray, "2 3"]
    wrap: tuple[str, str]
    nearest: bool


@dataclasses.dataclass
class _Material:
    colour: Float[np.ndarray, "4"]  # linear
    texture: _Texture | None = None
    glow: Float[np.ndarray, "3"] | None = None  # linear
    glow_texture: _Texture | None = None
    alpha: str = "opaque"
    cutoff: float = 0.5
    two_sided: bool = False
    unlit: bool = False


class _Reader:
    """Walks the scene and collects corners by material."""

    def __init__(self, document: Document, note: Note):
        self._document, self._noted, self._note = document, set(), note
        self._textures = Textures(linear=True)
        self._materials: dict[Any, _Material] = {}
        self._globals: dict[int, Float[np.ndarray, "4 4"]] = {}
        self._pieces: dict[tuple, list[dict]] = {}
        self._triangles = self._primitives = 0

    def note(self, text: str):
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def parts(self) -> list[Part]:
        document = self._document
        nodes = member(document.json, "nodes", list, [])
        roots = self._roots(len(nodes))
        self._place_nodes(len(nodes))
        for index, visible in self._walk(roots):
            node = document.item("nodes", index)
            if visible and node.get("mesh") is not None:
                self._draw(index, node)
        if not self._pieces:
            lacks = "no triangles that are drawn" if self._primitives else "no meshes"
            raise BadMesh(f"the scene has {lacks}" + self._why_empty())
        if len(self._pieces) > MOST_PARTS:
            raise BadMesh(f"more than {MOST_PARTS:,} parts")
        return [self._part(key, pieces) for key, pieces in self._pieces.items()]

    def _why_empty(self) -> str:
        return f" ({'; '.join(sorted(self._noted))})" if self._noted else ""

    def _roots(self, number_of_nodes: int) -> list[int]:
        """Nodes of the default scene, which is the first where none is named."""
        scenes = member(self._document.json, "scenes", list, [])
        if scenes or self._document.json.get("scene") is not None:
            index = self._document.json.get("scene", 0)
            if len(scenes) > 1:
                self.note(f"scene {index} of {len(scenes)} is drawn")
            return member(self._document.item("scenes", index), "nodes", list, [])
        self.note("there is no scene: all nodes are drawn")
        held = {c for i in range(number_of_nodes) for c in self._children(i)}
        return [i for i in range(number_of_nodes) if i not in held]

    def _children(self, index: int) -> list[int]:
        children = member(self._document.item("nodes", index), "children", list, [])
        for child in children:
            self._document.item("nodes", child)
        return children

    def _place_nodes(self, number_of_nodes: int):
        """The world matrix of every node, those outside of the scene too: joints may lie there."""
        children = [self._children(i) for i in range(number_of_nodes)]
        held: set[int] = set()
        for child in (c for some in children for c in some):
            if child in held:
                raise BadMesh(f"node {child} of the glTF has two parents")
            held.add(child)
        todo = [(i, np.eye(4)) for i in range(number_of_nodes) if i not in held]
        while todo:
            index, above = todo.pop()
            world = above @ _local_matrix(self._document.item("nodes", index))
            self._globals[index] = world
            todo += [(child, world) for child in children[index]]
        if len(self._globals) < number_of_nodes:
            raise BadMesh("nodes of the glTF hold one another")

    def _walk(self, roots: list[int]):
        """Nodes under the roots, each once, with whether it is visible."""
        todo, seen = [(root, True) for root in reversed(roots)], set()
        while todo:
            index, visible = todo.pop()
            node = self._document.item("nodes", index)
            if index in seen:
                continue
            seen.add(index)
            rule = _extension(node, "KHR_node_visibility")
            visible = visible and member(rule, "visible", bool, True)
            yield index, visible
            todo += [(child, visible) for child in reversed(self._children(index))]

    def _draw(self, index: int, node: dict):
        mesh = self._document.item("meshes", node["mesh"])
        holder = node if node.get("weights") else mesh
        weights = numbers(holder, "weights", (0.0,) * len(member(holder, "weights", list, [])))
        skin = self._joints(node["skin"]) if node.get("skin") is not None else None
        places = [np.eye(4)] if skin is not None else self._instances(node)
        world = np.eye(4) if skin is not None else self._globals[index]
        for primitive in member(mesh, "primitives", list, []):
            self._primitives += 1
            if self._primitives > _MOST_PRIMITIVES:
                raise BadMesh(f"more than {_MOST_PRIMITIVES:,} meshes")
            geometry = _Geometry(self._document, primitive, weights, self.note)
            if geometry.corners is None or not len(geometry.corners):
                continue
            self._triangles += len(geometry.corners) * len(places)
            check_count(self._triangles)
            self._add(index, primitive, geometry, skin, [world @ place for place in places])

    def _instances(self, node: dict) -> list[Float[np.ndarray, "4 4"]]:
        """EXT_mesh_gpu_instancing: where a node's mesh stands, relative to the node."""
        rule = _extension(node, "EXT_mesh_gpu_instancing")
        found = {}
        for name, width in (("TRANSLATION", 3), ("ROTATION", 4), ("SCALE", 3)):
            accessor = member(rule, "attributes", dict, {}).get(name)
            if accessor is not None:
                values = self._document.accessor(accessor, width)
                found[name] = to_float(values, values.dtype.kind == "i")
        if not found:
            return [np.eye(4)]
        length = min(len(v) for v in found.values())
        if length > _MOST_PRIMITIVES:
            raise BadMesh(f"more than {_MOST_PRIMITIVES:,} instances")
        rest = {"TRANSLATION": (0, 0, 0), "ROTATION": (0, 0, 0, 1), "SCALE": (1, 1, 1)}
        columns = [found.get(k, np.broadcast_to(v, (length, len(v)))) for k, v in rest.items()]
        return [_trs(t, r, s) for t, r, s in zip(*(c[:length] for c in columns), strict=True)]

    def _joints(self, index) -> Float[np.ndarray, "J 3 4"]:
        """From the mesh's coordinates to the world, by each joint of a skin."""
        skin = self._document.item("skins", index)
        joints = member(skin, "joints", list, [])
        for joint in joints:
            self._document.item("nodes", joint)
        world = np.array([self._globals[j] for j in joints]).reshape(-1, 4, 4)
        inverse = skin.get("inverseBindMatrices")
        if inverse is not None:
            values = self._document.accessor(inverse, 16)
            if len(values) < len(joints):
                raise BadMesh(f"skin {index} of the glTF has fewer matrices than joints")
            bind = values[: len(joints)].astype(np.float64).reshape(-1, 4, 4)
            world = world @ bind.transpose(0, 2, 1)  # columns come first in the file
        return world[:, :3]

    def _add(self, node: int, primitive: dict, geometry: "_Geometry", skin, places):
        """The corners of a primitive, once for each place, to those of its material."""
        material = self._material(primitive.get("material"))
        corners = geometry.corners
        xyz, normals = geometry.at_rest(skin)
        piece: dict[str, np.ndarray] = {}
        for name, texture in (("uv", material.texture), ("glow_uv", material.glow_texture)):
            if texture is None:
                continue
            uv = geometry.texture_coordinates(texture.set)
            if uv is None:
                self.note(f"a texture has no coordinates (TEXCOORD_{texture.set})")
                continue
            uv = uv[corners] @ texture.matrix[:, :2].T + texture.matrix[:, 2]
            piece[name] = finite_uv(np.stack([uv[..., 0], 1 - uv[..., 1]], -1))
        tint = geometry.colours()
        if tint is not None:
            piece["tint"] = tint[corners].astype(np.float32)
        own = node if material.alpha == "blend" else None  # sorted by their middle, so kept apart
        key = (primitive.get("material"), own, *sorted(piece))
        for place in places:
            placed = xyz @ place[:3, :3].T + place[:3, 3]
            if not (np.abs(placed) < 1e30).all():
                raise BadMesh("a vertex that is not a finite number")
            turned = np.linalg.det(place[:3, :3]) < 0
            order = slice(None, None, -1) if turned else slice(None)
            at = placed[corners][:, order]
            n = None
            if normals is not None:
                n = _unit(normals @ _cofactors(place[:3, :3]).T * (-1 if turned else 1))[corners]
                n = n[:, order]
            n = face_normals(at) if n is None else _filled(n, at)
            self._pieces.setdefault(key, []).append(
                {k: v[:, order] for k, v in piece.items()} | {"positions": at, "normals": n}
            )

    def _part(self, key: tuple, pieces: list[dict]) -> Part:
        material = self._material(key[0])
        whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        part = Part(
            whole["positions"], whole["normals"].astype(np.float32),
            np.zeros((*whole["positions"].shape[:2], 2), np.float32),
            tuple(linear_to_srgb(material.colour[:3]).tolist()), float(material.colour[3]),
            tint=whole.get("tint"), linear=True, alpha=material.alpha, cutoff=material.cutoff,
            two_sided=material.two_sided, unlit=material.unlit,
        )  # fmt: skip
        texture, light = material.texture, material.glow_texture
        if texture is not None and "uv" in whole:
            part.uv, part.texture = whole["uv"], texture.pixels
            part.wrap, part.nearest = texture.wrap, texture.nearest
        if material.glow is not None:
            part.glow = Glow(tuple(material.glow.tolist()))
            if light is not None and "glow_uv" in whole:
                part.glow = dataclasses.replace(
                    part.glow, uv=whole["glow_uv"], texture=light.pixels, wrap=light.wrap,
                    nearest=light.nearest,
                )  # fmt: skip
        return part

    def _material(self, index) -> _Material:
        """A material; white and one-sided where a primitive names none."""
        if index is None:
            return _Material(np.ones(4))
        json = self._document.item("materials", index)
        if index not in self._materials:
            self._materials[index] = self._read_material(json)
        return self._materials[index]

    def _read_material(self, json: dict) -> _Material:
        base = member(json, "pbrMetallicRoughness", dict, {})
        factor, texture = "baseColorFactor", "baseColorTexture"
        glossy = _extension(json, _GLOSSY)
        if _GLOSSY in member(json, "extensions", dict, {}):
            base, factor, texture = glossy, "diffuseFactor", "diffuseTexture"
        mode = member(json, "alphaMode", str, "OPAQUE")
        if mode not in ("OPAQUE", "MASK", "BLEND"):
            self.note(f"alphaMode {mode[:20]!r} is taken as OPAQUE")
            mode = "OPAQUE"
        found = _Material(
            np.clip(numbers(base, factor, (1.0,) * 4), 0, 1),
            self._texture(base, texture),
            alpha=mode.lower(),
            cutoff=number(json, "alphaCutoff", 0.5),
            two_sided=member(json, "doubleSided", bool, False),
            unlit="KHR_materials_unlit" in member(json, "extensions", dict, {}),
        )
        strength = _extension(json, "KHR_materials_emissive_strength")
        light = numbers(json, "emissiveFactor", (0.0,) * 3)
        light = light * number(strength, "emissiveStrength", 1.0)
        if not found.unlit and (light > 0).any():  # unlit materials have no light of their own
            found.glow = np.clip(light, 0, 1e6)
            found.glow_texture = self._texture(json, "emissiveTexture")
        return found

    def _texture(self, of: dict, key: str) -> _Texture | None:
        """A texture with its sampler and transform; None where there is none to be had."""
        info = member(of, key, dict, None)
        if info is None:
            return None
        texture = self._document.item("textures", info.get("index"))
        sampler: dict = {}
        if texture.get("sampler") is not None:
            sampler = self._document.item("samplers", texture["sampler"])
        try:
            pixels = self._pixels(texture)
        except (BadTexture, NotThere) as e:
            self.note(f"no texture: {e}")
            return None
        transform = _extension(info, "KHR_texture_transform")
        offset = numbers(transform, "offset", (0.0, 0.0))
        scale = numbers(transform, "scale", (1.0, 1.0))
        angle = number(transform, "rotation", 0.0)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        matrix = np.concatenate([turn * scale, offset[:, None]], 1)
        coordinates = count(transform, "texCoord", count(info, "texCoord", 0))
        wrap = [_WRAPS.get(count(sampler, axis, 10497), "repeat") for axis in ("wrapS", "wrapT")]
        nearest = sampler.get("magFilter") == _NEAREST
        return _Texture(pixels, coordinates, matrix, (wrap[0], wrap[1]), nearest)

    def _pixels(self, texture: dict) -> np.ndarray:
        source = texture.get("source")
        for name in _OTHER_SOURCES:
            other = _extension(texture, name).get("source")
            source = other if other is not None else source
        if source is None and _BASISU in member(texture, "extensions", dict, {}):
            raise BadMesh(f"its textures are of {_BASISU}, which is not read")
        if source is None:
            raise BadTexture("it names no picture")
        image = self._document.item("images", source)
        name = f"image {source}"

        def read() -> bytes:
            if image.get("bufferView") is not None:
                return bytes(self._document.view(image["bufferView"]))
            return self._document.uri(member(image, "uri", str, ""))

        try:
            return self._textures.get(source, read)
        except BadTexture as e:
            raise BadTexture(f"{name}: {e}") from None


class _Geometry:
    """One primitive: its triangles, and attributes of the vertices that they use.

    `corners` is [T, 3] into those vertices, or None where the primitive is no triangles.
    """

    def __init__(self, document: Document, primitive, weights: np.ndarray, note: Note):
        self.corners: Int[np.ndarray, "T 3"] | None = None
        self._document, self._weights = document, weights
        mode = count(primitive, "mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            note("points and lines are not drawn")
            return
        self._attributes = member(primitive, "attributes", dict, {})
        self._targets = member(primitive, "targets", list, [])
        self._packed = self._unpack(primitive)
        if self._attributes.get("POSITION") is None:
            note("a mesh without positions is not drawn")
            return
        self._number = len(self._raw("POSITION", 3))
        if self._packed is not None:
            chain, mode = self._packed.faces, _TRIANGLES
        elif primitive.get("indices") is None:
            chain = np.arange(self._number)
        else:
            values = document.accessor(primitive["indices"], 1)
            if values.dtype.kind != "u":
                raise BadMesh("indices of the glTF that are not whole numbers")
            chain = as_index(values)
        check_count(len(chain) // 3 if mode == _TRIANGLES else max(len(chain) - 2, 0))
        corners = _triangles(chain, mode)
        if corners.size and (corners.max() >= self._number or corners.min() < 0):
            raise BadMesh(
                f"a triangle names vertex {int(corners.max()):,}, and there are {self._number:,}"
            )
        self._used = None
        if self._number > corners.size:
            self._used, inverse = np.unique(corners, return_inverse=True)
            corners = inverse.reshape(-1, 3)
        self.corners = corners

    def _unpack(self, primitive: dict) -> "_Draco | None":
        """What KHR_draco_mesh_compression holds, where DracoPy is there or nothing else is."""
        rule = _extension(primitive, _DRACO)
        if not rule:
            return None
        if extras.is_installed(_DRACO_PACKAGE):
            return _Draco(bytes(self._document.view(rule.get("bufferView"))), rule)
        accessors = [*self._attributes.values(), primitive.get("indices")]
        plain = [self._document.item("accessors", a) for a in accessors if a is not None]
        if any(a.get("bufferView") is None for a in plain):
            raise BadMesh(f"it is compressed by {_DRACO}, which the package {_DRACO_PACKAGE} reads")
        return None

    def _raw(self, name: str, width: int | None = None) -> np.ndarray:
        if self._packed is not None and name in self._packed.attributes:
            return self._packed.values(name)
        return self._document.accessor(self._attributes[name], width)

    def _values(
        self, name: str, width: int | None = None, fractions: bool | None = None
    ) -> Float[np.ndarray, "N C"] | None:
        """An attribute as floats, morphed; None where there is none.

        Args:
          width: the components it must have; None for any.
          fractions: whether integers are fractions; None for what the accessor says.
        """
        if self._attributes.get(name) is None:
            return None
        accessor = self._attributes[name]
        out = self._floats(self._raw(name, width), accessor, fractions)
        for weight, target in zip(self._weights, self._targets, strict=False):
            if not isinstance(target, dict):
                raise BadMesh("a morph target of the glTF is not an object")
            moved = target.get(name)
            if moved is not None and weight:
                values = self._document.accessor(moved)
                change = self._floats(values, moved, fractions)
                width = min(out.shape[1], change.shape[1])
                out[:, :width] += float(weight) * change[:, :width]
        return out

    def _floats(self, values: np.ndarray, accessor, fractions: bool | None) -> np.ndarray:
        if len(values) < self._number:
            raise BadMesh(f"a mesh of the glTF has {self._number:,} vertices, but not all of each")
        values = values[: self._number] if self._used is None else values[self._used]
        if fractions is None:
            fractions = self._document.is_normalized(accessor)
        return to_float(values, fractions)

    def texture_coordinates(self, which: int) -> Float[np.ndarray, "N 2"] | None:
        return self._values(f"TEXCOORD_{which}", 2)

    def colours(self) -> Float[np.ndarray, "N 4"] | None:
        """COLOR_0: linear, with the opacity that it may lack."""
        values = self._values("COLOR_0", None, True)
        if values is None:
            return None
        if values.shape[1] not in (3, 4):
            raise BadMesh("COLOR_0 of the glTF is neither three numbers nor four")
        out = np.ones((len(values), 4))
        out[:, : values.shape[1]] = np.nan_to_num(values)
        return np.clip(out, 0, 1)

    def at_rest(self, skin: Float[np.ndarray, "J 3 4"] | None):
        """Positions and normals (None where there are none), by the joints of the skin."""
        xyz = np.asarray(self._values("POSITION", 3))
        normals = self._values("NORMAL", 3)
        if normals is not None:
            normals = np.nan_to_num(normals, posinf=0, neginf=0)
        if skin is None or self._attributes.get("JOINTS_0") is None:
            return xyz, normals
        joints, weights = self._influences(len(skin))
        out = np.empty(xyz.shape)
        turned = None if normals is None else np.empty(normals.shape)
        if not (np.abs(skin) < 1e30).all() or not (np.abs(xyz) < 1e30).all():
            raise BadMesh("a vertex that is not a finite number")
        for first in range(0, len(xyz), _SKINNED_AT_ONCE):
            some = slice(first, first + _SKINNED_AT_ONCE)
            matrix = np.zeros((len(xyz[some]), 3, 4))
            for k in range(joints.shape[1]):
                matrix += weights[some, k, None, None] * skin[joints[some, k]]
            out[some] = np.einsum("nij,nj->ni", matrix[..., :3], xyz[some]) + matrix[..., 3]
            if turned is not None and normals is not None:
                turned[some] = np.einsum("nij,nj->ni", matrix[..., :3], normals[some])
        return out, turned

    def _influences(self, number_of_joints: int):
        """Joints and weights of all sets, the weights of a vertex adding up to 1."""
        joints, weights = [], []
        k = 0
        while self._attributes.get(f"JOINTS_{k}") is not None:
            share = self._values(f"WEIGHTS_{k}", 4)
            if share is None:
                raise BadMesh(f"the glTF has JOINTS_{k} without WEIGHTS_{k}")
            joints.append(self._values(f"JOINTS_{k}", 4, False))
            weights.append(np.nan_to_num(share))
            k += 1
        which, share = np.concatenate(joints, 1), np.concatenate(weights, 1)
        which = np.where(share != 0, which, 0).astype(np.int64)
        if which.max(initial=0) >= number_of_joints or which.min(initial=0) < 0:
            raise BadMesh("a vertex of the glTF hangs on a joint that is not there")
        total = share.sum(1, keepdims=True)
        share[(total == 0)[:, 0], 0] = 1.0
        return which, share / np.where(total == 0, 1.0, total)


class _Draco:
    """A primitive that DracoPy unpacks."""

    def __init__(self, data: bytes, rule: dict):
        self.attributes = member(rule, "attributes", dict, {})
        try:
            self._mesh = importlib.import_module(_DRACO_PACKAGE).decode(data)
            self.faces = np.asarray(self._mesh.faces, np.int64).ravel()
        except Exception as e:  # of the library's own kinds
            raise BadMesh(f"its {_DRACO} data cannot be unpacked ({e})") from None

    def values(self, name: str) -> np.ndarray:
        try:
            found = self._mesh.get_attribute_by_unique_id(self.attributes[name])["data"]
        except Exception as e:
            raise BadMesh(f"its {_DRACO} data has no {name} ({e})") from None
        return np.asarray(found).reshape(len(found), -1)


def _extension(of: dict, name: str) -> dict:
    return member(member(of, "extensions", dict, {}), name, dict, {})


def _triangles(chain: Int[np.ndarray, "N"], mode: int) -> Int[np.ndarray, "T 3"]:
    """Corners of a list, strip or fan of triangles (3.7.2.1)."""
    if mode == _TRIANGLES:
        return chain[: len(chain) // 3 * 3].reshape(-1, 3)
    k = np.arange(max(len(chain) - 2, 0))
    if mode == _STRIP:
        return chain[np.stack([k, k + 1 + k % 2, k + 2 - k % 2], -1)]
    return chain[np.stack([k + 1, k + 2, 0 * k], -1)]


def _local_matrix(node: dict) -> Float[np.ndarray, "4 4"]:
    if node.get("matrix") is not None:
        return numbers(node, "matrix", (0.0,) * 16).reshape(4, 4).T
    return _trs(
        numbers(node, "translation", (0.0,) * 3),
        numbers(node, "rotation", (0.0, 0.0, 0.0, 1.0)),
        numbers(node, "scale", (1.0,) * 3),
    )


def _trs(translation, rotation, scale) -> Float[np.ndarray, "4 4"]:
    """Scaled, then turned by a quaternion x y z w, then moved."""
    length = np.linalg.norm(rotation)
    x, y, z, w = rotation / length if length > 0 else (0.0, 0.0, 0.0, 1.0)
    out = np.eye(4)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    out[:3, :3], out[:3, 3] = turn * scale, translation
    return out


def _cofactors(m: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """What normals are multiplied with: the inverse transposed, times the determinant."""
    return np.stack([np.cross(m[1], m[2]), np.cross(m[2], m[0]), np.cross(m[0], m[1])])


def _unit(vectors: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Of length 1; zeros where there is no direction."""
    largest = np.abs(vectors).max(-1, keepdims=True, initial=0)
    vectors = vectors / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _filled(normals, positions):
    """Normals, and those of the faces where there is none."""
    there = normals.any(-1, keepdims=True)
    return normals if there.all() else np.where(there, normals, face_normals(positions))
