"""Objects of the game 0 A.D.: Debian's package `0ad-data`, CC-BY-SA 3.0, Wildfire Games.

Its archive `mods/public/public.zip` describes a thing in an actor, an XML file: groups of variants,
of each of which one is taken, a mesh, its textures, other actors attached at named points, and a
material, which says what the texture's alpha means. What is chosen by chance in the game (shields,
coats of horses, the colour of a player) is drawn here by the actor's name. People and animals
stand as in the first frame of what they do when idle. Ambient occlusion, normal and specular maps
are left out: they need a second set of coordinates, or a light of the game's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.data import beside
from iso3d_jax.data.meshes import BadMesh, Note, Part
from iso3d_jax.data.pmd import Pmd, read_pmd, read_pose
from iso3d_jax.data.textures import BadTexture, Textures

ACTORS = "art/actors/"
LICENCE, CREATOR = "CC-BY-SA-3.0", "Wildfire Games"
# Whole things; what else there is are particles, marks on the ground and half-built houses.
_THINGS = ("fauna/", "flora/", "fungi/", "geology/", "special/", "structures/", "units/", "props/")
_NOT_THINGS = ("fndn_", "destruct_", "plot", "decal", "water", "blood", "temp_", "target_marker")
_NOT_FOLDERS = ("decals", "flora/grass", "old", "special/common")
_DEEPEST = 8  # actors on actors
_LONGEST = 2_000_000  # bytes of an XML file
_PLAYERS = (  # colours of the game's players, sRGB bytes
    (21, 55, 149), (150, 20, 20), (86, 180, 31), (231, 200, 5), (50, 170, 170), (160, 80, 200),
    (220, 115, 16), (64, 64, 64),
)  # fmt: skip


_MESH = re.compile(rb"<mesh>\s*([^<]+?)\s*</mesh>")


def find_design(data: bytes, name: str) -> str:
    """What an actor is a variant of: its first mesh, which soldiers of a hundred kinds share."""
    found = _MESH.search(data)
    return found[1].decode("utf-8", "replace") if found else name


def list_actors(names: Iterable[str]) -> list[tuple[str, str]]:
    """The members that are things by themselves, in order, each with its category."""
    found = []
    for name in sorted(names):
        if not (name.startswith(ACTORS) and name.endswith(".xml")):
            continue
        inside = name.removeprefix(ACTORS)
        base = posixpath.basename(inside)
        if not inside.startswith(_THINGS) or base.startswith(_NOT_THINGS):
            continue
        if any(f"/{folder}/" in f"/{inside}" for folder in _NOT_FOLDERS):
            continue
        found.append((name, posixpath.dirname(inside)))
    return found


@dataclasses.dataclass
class _Look:
    """What the chosen variants of an actor say together; later ones come before earlier ones."""

    mesh: str = ""
    texture: str = ""
    idle: str = ""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    props: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, variant: ElementTree.Element) -> None:
        self.mesh = (variant.findtext("mesh") or "").strip() or self.mesh
        for texture in variant.iterfind("textures/texture"):
            if texture.get("name") == "baseTex":
                self.texture = texture.get("file", "")
        numbers = (variant.findtext("color") or "").split()
        if len(numbers) == 3:
            self.colour = tuple(min(max(_number(n), 0.0), 255.0) / 255.0 for n in numbers)  # pyright: ignore[reportAttributeAccessIssue]
        for animation in variant.iterfind("animations/animation"):
            if animation.get("name", "").lower() == "idle" and animation.get("file"):
                self.idle = animation.get("file", "")
                break
        props = [
            (p.get("attachpoint", ""), p.get("actor", "")) for p in variant.iterfind("props/prop")
        ]
        for point, _ in props:
            self.props.pop(point, None)
        for point, actor in props:
            if actor:
                self.props.setdefault(point, []).append(actor)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _frequency(chain: list[ElementTree.Element]) -> float:
    """How often a variant comes, by the last of it that says so; else never."""
    said = [variant.get("frequency") for variant in chain]
    return next((max(_number(text), 0.0) for text in reversed(said) if text is not None), 0.0)


class _Game:
    """The files of one archive, and what is read of them for one object."""

    def __init__(self, read: beside.ReadFile, note: Note):
        self._read, self._note = read, note
        self._textures = Textures()
        self._parsed: dict[str, ElementTree.Element] = {}

    def parse(self, name: str) -> ElementTree.Element:
        if name not in self._parsed:
            data = self._read(name)
            # Entities are where XML can grow beyond its size.
            if len(data) > _LONGEST or b"<!ENTITY" in data:
                raise BadMesh(f"{name} is not the XML of an actor")
            try:
                self._parsed[name] = ElementTree.fromstring(data)
            except ElementTree.ParseError as e:
                raise BadMesh(f"{name} is not XML ({e})") from None
        return self._parsed[name]

    def chain(self, variant: ElementTree.Element, depth: int = 0) -> Iterator[ElementTree.Element]:
        """A variant, after those in files that it begins with."""
        file = variant.get("file")
        if file and depth < _DEEPEST:
            yield from self.chain(self.parse("art/variants/" + file), depth + 1)
        yield variant

    def actor(self, name: str, chance: np.random.Generator) -> tuple[_Look, str]:
        """What an actor looks like, by chance, and its material's file."""
        root = self.parse(ACTORS + name)
        if root.tag == "qualitylevels":
            root = self._finest(root)
            if root is None:
                raise BadMesh(f"{name} has no actor")
        look = _Look()
        for group in root.iterfind("group"):
            variants = [list(self.chain(v)) for v in group.iterfind("variant")]
            if not variants:
                continue
            shares = np.array([_frequency(chain) for chain in variants])
            # Without frequencies the first is the ordinary one; the game names the others.
            total = shares.sum()
            index = chance.choice(len(shares), p=shares / total) if total > 0 else 0
            for variant in variants[index]:
                look.add(variant)
        return look, (root.findtext("material") or "default.xml").strip()

    def _finest(self, levels: ElementTree.Element) -> ElementTree.Element | None:
        """The last of an actor's levels of quality: its own, a file's, or the common one."""
        actors = levels.findall("actor")
        if not actors:
            return None
        if actors[-1].get("file"):
            return self.parse(ACTORS + actors[-1].get("file", ""))
        return levels.find("inline") if "inline" in actors[-1].attrib else actors[-1]

    def parts(
        self, name: str, frame: np.ndarray, chance: np.random.Generator, player, depth: int = 0
    ) -> list[Part]:
        """The triangles of an actor and of what is attached to it, in a frame."""
        look, material = self.actor(name, chance)
        mesh, found = None, []
        if look.mesh:
            mesh = read_pmd(self._read(_packed("art/meshes/", look.mesh, ".pmd")))
            mesh = mesh.posed(self._pose(look.idle))
            found.append(self._part(mesh, look, material, frame, player))
        for point, actors in look.props.items():
            at = self._attachment(mesh, point)
            for actor in actors if at is not None else ():
                if actor.startswith("particle/") or depth >= _DEEPEST:
                    continue
                try:
                    found += self.parts(actor, frame @ at, chance, player, depth + 1)
                except (BadMesh, beside.NotThere) as e:
                    self._note(f"{actor} is left out: {e}")
        return found

    def _attachment(self, mesh: Pmd | None, point: str) -> Float[np.ndarray, "4 4"] | None:
        """Where a point is; of one that the mesh does not have, "root" is the object itself."""
        if point == "projectile":
            return None  # shown while it flies
        found = None if mesh is None else mesh.attachment(point)
        return np.eye(4) if found is None and point in ("root", "") else found

    def _pose(self, file: str) -> np.ndarray | None:
        if not file:
            return None
        try:
            return read_pose(self._read(_packed("art/animation/", file, ".psa")))
        except (BadMesh, beside.NotThere) as e:
            self._note(f"the pose {file} is left out: {e}")
            return None

    def _part(self, mesh: Pmd, look: _Look, material: str, frame: np.ndarray, player) -> Part:
        positions = mesh.positions @ frame[:3, :3].T + frame[:3, 3]
        normals = mesh.normals @ np.linalg.inv(frame[:3, :3])
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = normals / np.where(length > 0, length, 1)
        root = self.parse("art/materials/" + material)
        defines = {d.get("name"): d.get("value") for d in root.iterfind("define")}
        uv, faces = mesh.uv.astype(np.float32), mesh.faces
        part = Part(positions[faces], normals[faces], uv[faces], (1.0, 1.0, 1.0))
        try:
            texture = self._texture(look.texture)
        except (BadTexture, beside.NotThere) as e:
            self._note(f"texture {look.texture or '(none)'}: {e}")
            return dataclasses.replace(part, colour=(0.8, 0.8, 0.8), alpha="opaque")
        if root.find("alpha_blending") is not None or defines.get("USE_TRANSPARENT") == "1":
            return dataclasses.replace(part, texture=texture, alpha="mask", cutoff=0.5)
        colour = None
        if defines.get("USE_PLAYERCOLOR") == "1":
            colour = np.asarray(player) / 255.0
        elif defines.get("USE_OBJECTCOLOR") == "1":
            colour = np.asarray(look.colour)
        return dataclasses.replace(part, texture=_coloured(texture, colour), alpha="opaque")

    def _texture(self, file: str) -> UInt8[np.ndarray, "h w 4"]:
        name = _packed("art/textures/skins/", file, ".dds", keep=True)
        return self._textures.get(name, lambda: self._read(name))


def _packed(folder: str, file: str, suffix: str, keep: bool = False) -> str:
    """Where the archive has what an XML file names: 'a.dae' is in 'a.dae.cached.pmd'."""
    if file.endswith(suffix) and not keep:
        return folder + file
    return f"{folder}{file}.cached{suffix}"


def _coloured(
    texture: UInt8[np.ndarray, "h w 4"], colour: Float[np.ndarray, "3"] | None
) -> UInt8[np.ndarray, "h w 4"]:
    """A texture whose alpha says where it is not multiplied by a colour, as a plain opaque one.

    The game's `model_common.fs`: `texdiffuse *= mix(playerColor, vec3(1.0), tex.a)`.
    """
    out = np.array(texture)
    if colour is not None:
        alpha = texture[..., 3:] / np.float32(255.0)
        out[..., :3] = np.round(texture[..., :3] * (colour * (1.0 - alpha) + alpha))
    out[..., 3] = 255
    return out


def read_actor(name: str, read: beside.ReadFile, note: Note = lambda text: None) -> list[Part]:
    """The triangles of an actor, right-handed, Y-up, the front towards +z.

    Args:
      name: the archive's member, under `ACTORS`.
      read: reads a member of the archive by its whole name.
      note: is told what is missing of an actor that can be drawn all the same.

    Raises:
      BadMesh: no mesh that can be drawn.
      beside.NotThere: the actor or its mesh is not in the archive.
    """
    inside = name.removeprefix(ACTORS)
    seed = int.from_bytes(hashlib.sha256(inside.encode()).digest()[:8], "big")
    chance = np.random.default_rng(seed)
    player = _PLAYERS[int(chance.integers(len(_PLAYERS)))]
    parts = _Game(read, note).parts(inside, np.eye(4), chance, player)
    if not parts:
        raise BadMesh("an actor without a mesh (a mark on the ground, or particles)")
    return parts
