"""Where objects come from: catalogues of furniture, a game, folders of meshes, and rules.

A `.sh3f` file is a zip: OBJ models with materials and textures, an icon of each, and
`PluginFurnitureCatalog.properties` with names, categories, creators and the licence. The Debian
package `sweethome3d-furniture` installs five of them. `procedural:N` stands for N objects made by
the rules that `iso3d_jax.data.rules` finds; `public.zip` is the game 0 A.D.'s (`zero_ad.py`).
Folders, files and catalogues may be in a bucket: an object's files are then fetched into memory
when it is read, and a catalogue's members one by one.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import posixpath
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.data import beside, gltf, meshes, obj, places, plain_meshes, ply, rules, zero_ad

MESH_SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
PROCEDURAL = "procedural:"
CATALOGUE = "PluginFurnitureCatalog.properties"
FLATTEST = 0.06  # shortest side of the bounding box over the longest
THINNEST = 0.10  # middle side over the longest
LONGEST_NAME = 160  # bytes of an object's name, which is part of longer file names
# From a file whose axis x or z points up to one whose y does: turns about the front's horizontal.
_FROM_UP = {"x": (0, -1, 0, 1, 0, 0, 0, 0, 1), "y": None, "z": (1, 0, 0, 0, 0, 1, 0, -1, 0)}
_UNWANTED_CATEGORIES = ("doors and windows", "staircases")
_UNWANTED_WORDS = re.compile(r"\b(door|window|stairs?|staircase|shutter|blind)\b", re.IGNORECASE)
_LICENCES = (  # text of the catalogue's licence line -> SPDX name
    (re.compile(r"public domain|CC-?0", re.IGNORECASE), "CC0-1.0"),
    (re.compile(r"attribution.*3\.0.*united states", re.IGNORECASE), "CC-BY-3.0-US"),
    (re.compile(r"attribution.*3\.0", re.IGNORECASE), "CC-BY-3.0"),
)


def assign_split(name: str) -> str:
    """The split of an object, for ever: about 85% 'train', 5% 'validation', 10% 'test'.

    The first 8 bytes of sha256(name) as a big-endian fraction u of 1: u < 0.85 is train,
    u < 0.90 validation, the rest test. It depends on the name alone, so that data sets rendered
    at other sizes or with other objects agree. Objects that are variants of one design ('chair1',
    'chair2') are different names and may fall into different splits.
    """
    u = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if u < 0.85 else "validation" if u < 0.90 else "test"


@dataclasses.dataclass(frozen=True, slots=True)
class Asset:
    """One object before it is read.

    Attributes:
      name: unique, lower case, usable as a file name; decides the split.
      title: the catalogue's name for people ("Armchair").
      category: such as "Living room"; "" where unknown.
      creator: who made it.
      license: SPDX name, or the text found, or "unknown".
      source: the catalogue or folder it came from (its name, without a path).
      path: the .sh3f file or the mesh file, on a disk or in a bucket.
      model: the model's path inside the zip, "" for a mesh file.
      icon: the icon's path inside the zip, "" where there is none.
      rotation: nine numbers, row by row, or None.
      number: of a procedural object, which has no file.
      fault: why it is left out before it is read, or "".
      design: what it is a variant of, such as a soldier's body: what decides the split, where it is
        known, in place of the name.
    """

    name: str
    title: str
    category: str
    creator: str
    license: str
    source: str
    path: pathlib.Path | epath.Path
    model: str = ""
    icon: str = ""
    rotation: tuple[float, ...] | None = None
    number: int | None = None
    fault: str = ""
    design: str = ""


_Path = pathlib.Path | epath.Path
_Found = tuple[str, Callable[[], Asset]]  # an object's name, and what makes it


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


def slug(text: str) -> str:
    """A name of lower-case letters and digits of any script, short enough for a file name."""
    text = unicodedata.normalize("NFC", _printable(text).lower())
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else "_" for c in text)
    kept = re.sub("_+", "_", kept).strip("_") or "object"
    if len(kept.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(kept.encode()).hexdigest()[:12]
        start = kept.encode()[: LONGEST_NAME - 13].decode(errors="ignore")
        kept = f"{start}_{digest}"
    return kept


def _printable(text: str) -> str:
    """Text without halves of characters, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_remote(path: _Path) -> bool:
    return "://" in os.fspath(path)


@contextlib.contextmanager
def _opened(path: _Path) -> Iterator[zipfile.ZipFile]:
    """A catalogue as an archive; of one in a bucket the parts that are read are fetched."""
    if not _is_remote(path):
        with zipfile.ZipFile(path) as archive:
            yield archive
        return
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        yield archive


@contextlib.contextmanager
def _kept(path: _Path) -> Iterator[zipfile.ZipFile]:
    """The same for reading object after object: what is in a local zip is listed once a process."""
    if _is_remote(path):
        with _opened(path) as archive:
            yield archive
        return
    about = os.stat(path)
    yield _archive(os.fspath(path), about.st_mtime_ns, about.st_size, os.getpid())


@functools.lru_cache(maxsize=1)
def _archive(path: str, changed: int, size: int, process: int) -> zipfile.ZipFile:
    del changed, size, process  # a forked process would move this one's place in the file
    return zipfile.ZipFile(path)


def _catalogue(path: _Path) -> list[Asset]:
    try:
        with _opened(_plain(path)) as archive:
            text = beside.read_member(archive, CATALOGUE).decode("latin-1")
    except beside.NotThere as e:
        with _opened(path) as archive:
            there = CATALOGUE in archive.namelist()
        if there:
            raise UserError(f"{path} is damaged: {e}") from None
        raise UserError(
            f"{path} is a zip without {CATALOGUE}; give a Sweet Home 3D furniture library"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        raise UserError(
            f"{path} is not a furniture catalogue: a .sh3f file is a zip and this is not one"
        ) from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    general, objects = parse_properties(text)
    licence = licence_name(general.get("license", ""))
    found = []
    for entry in objects:
        model = entry.get("model", "").lstrip("/")
        if not model:
            continue
        rotation, fault = _rotation(entry.get("modelRotation", ""))
        texts = {k: entry.get(k, "") for k in ("name", "category", "creator", "license")}
        for key, value in texts.items():
            if _printable(value).count("\ufffd") > value.count("\ufffd"):
                fault = f"its {key} holds half a character (a lone surrogate)"
        found.append(
            Asset(
                name=f"{slug(path.stem)}-{slug(posixpath.splitext(posixpath.basename(model))[0])}",
                title=_printable(texts["name"]),
                category=_printable(texts["category"]),
                creator=_printable(texts["creator"]) or "unknown",
                license=licence_name(_printable(texts["license"])) if texts["license"] else licence,
                source=_printable(path.stem),
                path=path,
                model=model,
                icon=entry.get("icon", "").lstrip("/"),
                rotation=rotation,
                fault=fault,
            )
        )
    return found


def _game(path: _Path) -> list[Asset]:
    """The objects of 0 A.D.'s archive."""
    try:
        with _opened(_plain(path)) as archive:
            found = []
            for member, category in zero_ad.list_actors(archive.namelist()):
                inside = posixpath.splitext(member.removeprefix(zero_ad.ACTORS))[0]
                design = zero_ad.find_design(beside.read_member(archive, member), inside)
                found.append(
                    Asset(
                        name=f"0ad-{slug(inside)}", title=posixpath.basename(inside),
                        category=category, creator=zero_ad.CREATOR, license=zero_ad.LICENCE,
                        source="0ad", path=path, model=member, design=f"0ad-{design}",
                    )
                )  # fmt: skip
    except (zipfile.BadZipFile, NotImplementedError, EOFError, beside.NotThere) as e:
        raise UserError(f"{path} cannot be read as a zip ({e})") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    if not found:
        raise UserError(
            f"{path} is a zip without {zero_ad.ACTORS}; of zips 0 A.D.'s public.zip is read, "
            "Debian package 0ad-data (unpack another one and give its folder)"
        )
    return found


def _rotation(text: str) -> tuple[tuple[float, ...] | None, str]:
    """A catalogue's rotation, and what is wrong with it."""
    if not text.strip():
        return None, ""
    try:
        numbers = tuple(float(x) for x in text.split())
    except ValueError:
        numbers = ()
    if len(numbers) != 9 or not np.isfinite(numbers).all():
        return None, f"its modelRotation is not nine numbers: {_printable(text)[:60]!r}"
    if abs(np.linalg.det(np.reshape(numbers, (3, 3)))) < 1e-9:
        return None, f"its modelRotation has no inverse: {text[:60]!r}"
    return numbers, ""


def _plain(path: _Path) -> _Path:
    """The path, which must be one of a plain file: a pipe or device would never end."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    return path


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Plain files in and under a folder, links to folders followed, each folder once."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        about = os.stat(here)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        # Names that begin with a point are hidden: macOS writes ._chair.obj beside chair.obj.
        found += [pathlib.Path(here, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _remote_files(folder: epath.Path) -> list[epath.Path]:
    """Files in and under a folder of a bucket.

    Folder by folder: of epath's own walk through a bucket s3fs does not take the arguments. What
    has a mesh's suffix is a file, so that the bucket need not be asked about each of a million.

    Raises:
      UserError: the bucket cannot be listed.
    """
    found, todo = [], [folder]
    try:
        while todo:
            for path in todo.pop().iterdir():
                if path.suffix.lower() not in (".sh3f", *MESH_SUFFIXES) and path.is_dir():
                    todo.append(path)
                elif not path.name.startswith("."):
                    found.append(path)
    except Exception as e:  # of each bucket's own package
        raise UserError(
            f"--assets {folder}: it cannot be listed ({type(e).__name__}: {shorten(e, 200)})"
        ) from None
    return sorted(found)


def _folder(path: _Path, up: str) -> list[Asset]:
    found = []
    remote = _is_remote(path)
    source = path.name if remote else path.resolve().name
    for file in _remote_files(epath.Path(path)) if remote else _files(pathlib.Path(path)):
        suffix = file.suffix.lower()
        if suffix not in (".sh3f", *MESH_SUFFIXES) or not (remote or file.is_file()):
            continue
        name = slug(str(file.relative_to(path).with_suffix("")))
        if suffix != ".sh3f":
            found.append(_mesh_file(file, name, source, up))
            continue
        try:
            found += _catalogue(file)
        except UserError as e:
            asset = _mesh_file(file, name, source, up)
            found.append(dataclasses.replace(asset, fault=_printable(str(e))))
    return found


def _mesh_file(file: _Path, name: str, source: str, up: str) -> Asset:
    title = _printable(file.stem)
    return Asset(
        name, title, "", "unknown", "unknown", _printable(source), file, rotation=_FROM_UP[up]
    )


def _procedural(place: str) -> Iterator[_Found]:
    count = place.removeprefix(PROCEDURAL)
    if not count.isdigit() or not 1 <= int(count) <= 1_000_000:
        raise UserError(
            f"--assets {place}: the number of procedural objects is between 1 and 1,000,000, as in "
            f"{PROCEDURAL}1000"
        )
    for n in range(int(count)):
        yield f"procedural-{n:06d}", functools.partial(_procedural_asset, n)


def _procedural_asset(number: int) -> Asset:
    return Asset(
        name=f"procedural-{number:06d}", title=rules.find("procedural").choose_kind(number),
        category="procedural", creator="iso3d_jax", license="Apache-2.0", source="procedural",
        path=pathlib.Path("procedural"), number=number,
    )  # fmt: skip


def _find(place: str, up: str) -> Iterator[_Found]:
    """The objects of one place."""
    if place.startswith(PROCEDURAL):
        yield from _procedural(place)
        return
    path = places.place(place) if "://" in place else pathlib.Path(place)
    if not path.exists():
        raise UserError(
            f"--assets {place}: there is no such file or folder; give a .sh3f file (Debian "
            "package sweethome3d-furniture) or a folder of OBJ or GLB meshes"
        )
    if path.is_dir():
        found = _folder(path, up)
    elif path.suffix.lower() == ".sh3f":
        found = _catalogue(path)
    elif path.suffix.lower() == ".zip":
        found = _game(path)
    elif path.suffix.lower() in MESH_SUFFIXES:
        parent = path.parent if _is_remote(path) else path.resolve().parent
        found = [_mesh_file(path, slug(path.stem), parent.name, up)]
    else:
        raise UserError(
            f"--assets {place}: not a mesh or a catalogue; the formats are .sh3f, 0 A.D.'s .zip, "
            + ", ".join(MESH_SUFFIXES)
        )
    if not found:
        raise UserError(f"--assets {place}: no OBJ, GLB or .sh3f file in there")
    for asset in found:
        yield asset.name, lambda asset=asset: asset


def find_assets(
    places: list[str], up: str = "y", keep: Callable[[str], bool] = lambda name: True
) -> list[Asset]:
    """All objects of .sh3f catalogues, mesh files and folders of either, in a fixed order.

    Two objects of the same name get "-2", "-3" and so on in that order.

    Args:
      places: a place may also be `procedural:N`, or in a bucket.
      up: the axis of mesh files that points up: x, y or z.
      keep: which names to return; of the others nothing is held.

    Raises:
      UserError: a place that does not exist or holds no objects.
    """
    seen: dict[str, int] = {}
    unique = []
    for place in places:
        for name, make in _find(place, up):
            given = name
            while given in seen:
                seen[name] += 1
                given = f"{name}-{seen[name]}"
            seen[given] = 1
            if keep(given):
                asset = make()
                unique.append(asset if given == name else dataclasses.replace(asset, name=given))
    return unique


def unwanted(asset: Asset) -> str | None:
    """Why an object is left out before it is read, in one line that can be printed, or None."""
    if asset.fault:
        return shorten(asset.fault, 500)
    if asset.category.lower() in _UNWANTED_CATEGORIES:
        return f"category {asset.category}"
    if _UNWANTED_WORDS.search(asset.title):
        return f"a door, window or stair by its name ({shorten(asset.title)})"
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


def load_asset(asset: Asset, note: meshes.Note = lambda text: None) -> list[meshes.Part]:
    """Reads an object into our world: Z-up, front at azimuth 0, inside the unit sphere.

    Args:
      note: is told what is missing of an object that can be drawn all the same.

    Raises:
      meshes.BadMesh: with the reason.
    """
    if asset.number is not None:
        return rules.find(asset.source).make(asset.number)
    try:
        parts = _read(asset, note)
    except beside.NotThere as e:
        raise meshes.BadMesh(str(e)) from None
    rotation = None if asset.rotation is None else np.reshape(asset.rotation, (3, 3))
    return meshes.to_world(parts, rotation)


def _read(asset: Asset, note: meshes.Note) -> list[meshes.Part]:
    """The parts of an object as its file has them."""
    if asset.model:
        try:
            with _kept(asset.path) as archive:
                if asset.model.startswith(zero_ad.ACTORS):
                    return zero_ad.read_actor(
                        asset.model, lambda name: beside.read_member(archive, name), note
                    )
                data = beside.read_member(archive, asset.model)
                read = beside.archive_reader(archive, posixpath.dirname(asset.model))
                return _parse(posixpath.splitext(asset.model)[1], data, read, note)
        except (zipfile.BadZipFile, OSError) as e:
            raise meshes.BadMesh(f"the catalogue cannot be read ({e})") from None
    if _is_remote(asset.path):
        path = epath.Path(asset.path)
        data, read = beside.read_remote(path), beside.bucket_reader(path.parent)
    else:
        data, read = beside.read_plain(asset.path), beside.folder_reader(asset.path.parent)
    return _parse(asset.path.suffix, data, read, note)


def _parse(suffix: str, data: bytes, read: beside.ReadFile, note: meshes.Note):
    suffix = suffix.lower()
    if suffix in (".glb", ".gltf"):
        return gltf.read_gltf(data, read, note)
    if suffix == ".ply":
        return ply.read_ply(data, read, note)
    if suffix == ".stl":
        return plain_meshes.read_stl(data)
    if suffix == ".off":
        return plain_meshes.read_off(data)
    return obj.read_obj(data, read, note)


def icon_bytes(asset: Asset) -> bytes | None:
    """The PNG of an object's icon, where the catalogue has one that can be read."""
    if not asset.icon:
        return None
    try:
        with _opened(asset.path) as archive:
            return beside.read_member(archive, asset.icon)
    except (beside.NotThere, zipfile.BadZipFile, OSError):
        return None
