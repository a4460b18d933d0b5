"""Where objects come from: Sweet Home 3D furniture catalogues, folders of meshes, and rules.

A `.sh3f` file is a zip: OBJ models with materials and textures, an icon of each, and
`PluginFurnitureCatalog.properties` with names, categories, creators and the licence. The Debian
package `sweethome3d-furniture` installs five of them. `procedural:N` stands for N objects made by
the rules that `iso3d_jax.data.rules` finds.
"""

import dataclasses
import hashlib
import pathlib
import posixpath
import re
import zipfile

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import meshes, rules

MESH_SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
PROCEDURAL = "procedural:"
CATALOGUE = "PluginFurnitureCatalog.properties"
FLATTEST = 0.06  # shortest side of the bounding box over the longest
THINNEST = 0.10  # middle side over the longest
_UNWANTED_CATEGORIES = ("doors and windows", "staircases")
_UNWANTED_WORDS = re.compile(r"\b(door|window|stairs?|staircase|shutter|blind)\b", re.IGNORECASE)
_LICENCES = (  # text of the catalogue's licence line -> SPDX name
    (re.compile(r"public domain|CC-?0", re.IGNORECASE), "CC0-1.0"),
    (re.compile(r"attribution.*3\.0.*united states", re.IGNORECASE), "CC-BY-3.0-US"),
    (re.compile(r"attribution.*3\.0", re.IGNORECASE), "CC-BY-3.0"),
)


def split_of(name: str) -> str:
    """The split of an object, for ever: about 85% 'train', 5% 'validation', 10% 'test'.

    The first 8 bytes of sha256(name) as a big-endian fraction u of 1: u < 0.85 is train,
    u < 0.90 validation, the rest test. It depends on the name alone, so that data sets rendered
    at other sizes or with other objects agree. Objects that are variants of one design ('chair1',
    'chair2') are different names and may fall into different splits.
    """
    u = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if u < 0.85 else "validation" if u < 0.90 else "test"


@dataclasses.dataclass(frozen=True)
class Asset:
    """One object before it is read.

    Attributes:
      name: unique, lower case, usable as a file name; decides the split.
      title: the catalogue's name for people ("Armchair").
      category: such as "Living room"; "" where unknown.
      creator: who made it.
      license: SPDX name, or the text found, or "unknown".
      source: the catalogue or folder it came from (its name, without a path).
      path: the .sh3f file or the mesh file.
      model: the model's path inside the zip, "" for a mesh file.
      icon: the icon's path inside the zip, "" where there is none.
      rotation: nine numbers, row by row, or None.
      number: of a procedural object, which has no file.
    """

    name: str
    title: str
    category: str
    creator: str
    license: str
    source: str
    path: pathlib.Path
    model: str = ""
    icon: str = ""
    rotation: tuple[float, ...] | None = None
    number: int | None = None


def parse_properties(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Java properties of a furniture catalogue: (those of the catalogue, one dict an object)."""
    general: dict[str, str] = {}
    objects: dict[int, dict[str, str]] = {}
    joined = re.sub(r"\\\r?\n[ \t]*", "", text)
    for line in joined.splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        key, separator, value = line.partition("=")
        if not separator:
            continue
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip())
        value = re.sub(r"\\(.)", r"\1", value)
        stem, _, number = key.strip().partition("#")
        if number.isdigit():
            objects.setdefault(int(number), {})[stem] = value
        elif not number:
            general[stem] = value
    return general, [objects[k] for k in sorted(objects)]


def licence_name(text: str) -> str:
    """SPDX name of a catalogue's licence text, or the text itself."""
    for pattern, name in _LICENCES:
        if pattern.search(text):
            return name
    return text.strip() or "unknown"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _catalogue(path: pathlib.Path) -> list[Asset]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(CATALOGUE).decode("latin-1")
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is not a furniture catalogue: a .sh3f file is a zip and this is not one"
        ) from None
    except KeyError:
        raise UserError(
            f"{path} is a zip without {CATALOGUE}; give a Sweet Home 3D furniture library"
        ) from None
    general, objects = parse_properties(text)
    licence = licence_name(general.get("license", ""))
    found = []
    for entry in objects:
        model = entry.get("model", "").lstrip("/")
        if not model:
            continue
        rotation = None
        if entry.get("modelRotation"):
            numbers = tuple(float(x) for x in entry["modelRotation"].split())
            rotation = numbers if len(numbers) == 9 else None
        found.append(
            Asset(
                name=f"{_slug(path.stem)}-{_slug(posixpath.splitext(posixpath.basename(model))[0])}",
                title=entry.get("name", ""),
                category=entry.get("category", ""),
                creator=entry.get("creator", "unknown"),
                license=licence_name(entry["license"]) if entry.get("license") else licence,
                source=path.stem,
                path=path,
                model=model,
                icon=entry.get("icon", "").lstrip("/"),
                rotation=rotation,
            )
        )
    return found


def _folder(path: pathlib.Path) -> list[Asset]:
    found = []
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() == ".sh3f":
            found += _catalogue(file)
        elif file.suffix.lower() in MESH_SUFFIXES and file.is_file():
            relative = file.relative_to(path).with_suffix("")
            found.append(_mesh_file(file, _slug(str(relative)), path.resolve().name))
    return found


def _mesh_file(file: pathlib.Path, name: str, source: str) -> Asset:
    return Asset(name, file.stem, "", "unknown", "unknown", source, file)


def _procedural(place: str) -> list[Asset]:
    count = place.removeprefix(PROCEDURAL)
    if not count.isdigit() or not 1 <= int(count) <= 1_000_000:
        raise UserError(
            f"--assets {place}: the number of procedural objects is between 1 and 1,000,000, as in "
            f"{PROCEDURAL}1000"
        )
    made = rules.find("procedural")
    return [
        Asset(
            name=f"procedural-{n:06d}", title=made.kind_of(n), category="procedural",
            creator="iso3d_jax", license="Apache-2.0", source="procedural",
            path=pathlib.Path("procedural"), number=n,
        )
        for n in range(int(count))
    ]  # fmt: skip


def find_assets(places: list[str]) -> list[Asset]:
    """All objects of .sh3f catalogues, mesh files and folders of either, in a fixed order.

    A place may also be `procedural:N`.

    Two objects of the same name get "-2", "-3" and so on in that order.

    Raises:
      UserError: a place that does not exist or holds no objects.
    """
    found: list[Asset] = []
    for place in places:
        if place.startswith(PROCEDURAL):
            found += _procedural(place)
            continue
        path = pathlib.Path(place)
        if not path.exists():
            raise UserError(
                f"--assets {place}: there is no such file or folder; give a .sh3f file (Debian "
                "package sweethome3d-furniture) or a folder of OBJ or GLB meshes"
            )
        if path.is_dir():
            new = _folder(path)
        elif path.suffix.lower() == ".sh3f":
            new = _catalogue(path)
        elif path.suffix.lower() in MESH_SUFFIXES:
            new = [_mesh_file(path, _slug(path.stem), path.resolve().parent.name)]
        else:
            raise UserError(
                f"--assets {place}: not a mesh or a catalogue; the formats are .sh3f, "
                + ", ".join(MESH_SUFFIXES)
            )
        if not new:
            raise UserError(f"--assets {place}: no OBJ, GLB or .sh3f file in there")
        found += new
    seen: dict[str, int] = {}
    unique = []
    for asset in found:
        seen[asset.name] = count = seen.get(asset.name, 0) + 1
        unique.append(
            asset if count == 1 else dataclasses.replace(asset, name=f"{asset.name}-{count}")
        )
    return unique


def unwanted(asset: Asset) -> str | None:
    """Why an object is left out by its name or category, or None."""
    if asset.category.lower() in _UNWANTED_CATEGORIES:
        return f"category {asset.category}"
    if _UNWANTED_WORDS.search(asset.title):
        return f"a door, window or stair by its name ({asset.title})"
    return None


def shape_refusal(parts: list[meshes.Part]) -> str | None:
    """Why an object is left out by its shape (flat as a rug, thin as a rod), or None."""
    points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
    shortest, middle, longest = np.sort(points.max(0) - points.min(0))
    if shortest < FLATTEST * longest:
        return f"flat: sides {shortest / longest:.3f} to 1"
    if middle < THINNEST * longest:
        return f"thin: two sides under {middle / longest:.3f} of the third"
    return None


def load_asset(asset: Asset) -> list[meshes.Part]:
    """Reads an object into our world: Z-up, front at azimuth 0, inside the unit sphere.

    Raises:
      meshes.BadMesh: with the reason.
    """
    if asset.number is not None:
        return rules.find(asset.source).make(asset.number)
    if asset.model:
        with zipfile.ZipFile(asset.path) as archive:
            resolve = meshes.relative_to(posixpath.dirname(asset.model))
            try:
                data = archive.read(asset.model)
            except KeyError:
                raise meshes.BadMesh(f"{asset.model} is not in the catalogue") from None
            parts = meshes.read_obj(data, lambda name: archive.read(resolve(name)))
    elif asset.path.suffix.lower() == ".obj":
        folder = asset.path.parent
        parts = meshes.read_obj(asset.path.read_bytes(), lambda name: (folder / name).read_bytes())
    else:
        parts = meshes.read_with_trimesh(asset.path)
    rotation = None if asset.rotation is None else np.reshape(asset.rotation, (3, 3))
    return meshes.to_world(parts, rotation)


def icon_bytes(asset: Asset) -> bytes | None:
    """The PNG of an object's icon, where the catalogue has one."""
    if not asset.icon:
        return None
    with zipfile.ZipFile(asset.path) as archive:
        try:
            return archive.read(asset.icon)
        except KeyError:
            return None
