"""Makes a data set of renders that others made, or writes one's pictures and cameras for others.

    python -m iso3d_jax.data.importers --source DIR --form zero123 --out data/theirs
    python -m iso3d_jax.data.importers --source data/theirs --form ours --out DIR

DIR is one object's folder, or holds a folder an object. Forms:
  transforms   transforms.json (nerfstudio) or transforms_train.json (NeRF-synthetic), and pictures
  zero123      000.png and 000.npy and so on: world to camera as Blender has it, [3, 4]
  syncdreamer  000.png to 015.png, from its sixteen fixed cameras
  gobjaverse   campos_512_v4/00000/00000.png and 00000.json and so on, G-buffer Objaverse; DIR may
               also hold its folders of such, as in DIR/DICTIONARY/INSTANCE/campos_512_v4
  ours         a data set of ours; becomes a folder with transforms.json and pictures an object

Our cameras look at the origin, +z is up, and pictures are square with a transparent background;
what is not so is left out, by object, with the reason in skipped.txt. Four views of one height,
distance and field of view at azimuths 90 degrees apart make a set. Views that make none are left
out too, unless --any_views takes them four by four as they come.

Zero123, SyncDreamer and G-buffer Objaverse show objects as Blender imports them, with the front at
-y and the longest side 1; here the front is at +x and the radius is about 1, so cameras turn and
distances double. For transforms `--front` is the azimuth of the front in their world, and nothing
is scaled.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.core.json_files import need, read_object
from iso3d_jax.data import asset_sources, meshes, places, transforms
from iso3d_jax.data.multiview import joining, open_dataset, records, shards
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.picture_files import read_image

flags = command_line.flags_for(__name__)

BLENDER_FRONT, BLENDER_SCALE = -90.0, 2.0  # degrees; of the worlds that are as Blender's
BLENDER_FOV = math.degrees(2 * math.atan(32 / 70))  # a lens of 35 mm before a sensor of 32 mm
GOBJAVERSE_FOV = math.degrees(2 * math.atan(512 / 1422.222))  # theirs, for 1,024 pixels: 39.6
POLE = math.cos(math.radians(1.0))  # of an axis along the world's up, where azimuths end
LARGEST = 4096  # side of a picture that is read
SAME_ANGLE, SAME_DISTANCE = 1.0, 0.01  # degrees, and a share, within which cameras are alike


class Posed(NamedTuple):
    """An object's pictures and cameras, in the world that they came with."""

    pictures: list[Path]
    c2w: Float[np.ndarray, "N 4 4"]  # OpenGL
    fov_deg: Float[np.ndarray, " N"]


def read_transforms(folder: Path) -> Posed | None:
    """An object of NeRF-synthetic or nerfstudio; None where the folder holds none.

    Raises:
      UserError: the file is damaged.
      meshes.BadMesh: its cameras are of a kind that records have not.
    """
    file = transforms.find(folder)
    if file is None:
        return None
    frames = transforms.read(file)
    if not frames.pictures:
        raise meshes.BadMesh("no frames")
    for lens in frames.lenses:
        _check_lens(lens)
    return Posed(frames.pictures, frames.c2w, np.array([lens.fov_deg for lens in frames.lenses]))


def _check_lens(lens: transforms.Lens) -> None:
    """Refuses what is not a pinhole at the middle of a square picture."""
    if any(lens.distortion):
        raise meshes.BadMesh("a lens that distorts")
    if lens.size and lens.size[0] != lens.size[1]:
        raise meshes.BadMesh(f"pictures of {lens.size[0]} x {lens.size[1]} that are not square")
    if max(abs(share - 0.5) for share in lens.centre) > 0.01:
        raise meshes.BadMesh("a picture whose middle is not on the camera's axis")


def read_zero123(folder: Path) -> Posed | None:
    """An object as Zero123's rendering script leaves it; None where the folder holds none."""
    pictures = [p for p in _numbered(folder) if p.with_suffix(".npy").is_file()]
    if not pictures:
        return None
    poses = []
    for picture in pictures:
        try:
            matrix = np.load(picture.with_suffix(".npy"), allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise meshes.BadMesh(f"{picture.stem}.npy cannot be read: {shorten(e)}") from None
        poses.append(np.linalg.inv(transforms.read_matrix(matrix, f"{picture.stem}.npy", 3)))
    return Posed(pictures, np.stack(poses), np.full(len(poses), BLENDER_FOV))


def read_syncdreamer(folder: Path) -> Posed | None:
    """An object as SyncDreamer's script renders it for training; None where there is none."""
    from iso3d_jax.geometry import cameras

    pictures = _numbered(folder)
    if len(pictures) != 16:
        return None
    c2w = cameras.camera_to_world(np.full(16, 30.0), np.arange(16) * 22.5, 1.5)
    return Posed(pictures, np.asarray(c2w, np.float64), np.full(16, BLENDER_FOV))


def read_gobjaverse(folder: Path) -> Posed | None:
    """An object of G-buffer Objaverse; None where the folder holds none.

    A view's JSON has the camera's axes as OpenCV's (x right, y down, z into the picture) and its
    origin, in Blender's world: modelscope/richdreamer, dataset/gobjaverse, turns y and z about to
    have OpenGL's, and its focal length is 1422.222 of 1,024 pixels. Of an object's 40 views the
    two from straight above and below are passed over, as are those that lack a file.

    Raises:
      UserError: a view's JSON is damaged.
    """
    views = folder / "campos_512_v4"
    files = [
        file
        for file in sorted((views if views.is_dir() else folder).glob("[0-9]*/*.json"))
        if file.stem == file.parent.name and file.with_suffix(".png").is_file()
    ]
    poses = []
    for file in files:
        camera = read_object(file)
        columns = [need(camera, key, list, file.name) for key in ("x", "y", "z", "origin")]
        c2w = transforms.read_matrix([*itertools.zip_longest(*columns)], file.name, 3)
        c2w[:, 1:3] *= -1
        poses.append(c2w)
    level = [k for k, c2w in enumerate(poses) if abs(c2w[2, 2]) < POLE]
    if not level:
        return None
    pictures = [files[k].with_suffix(".png") for k in level]
    return Posed(pictures, np.stack(poses)[level], np.full(len(level), GOBJAVERSE_FOV))


def _numbered(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.png") if re.fullmatch(r"\d{3}\.png", p.name))


class Form(NamedTuple):
    """How objects of a form are read, and how their world lies in ours."""

    read: Callable[[Path], Posed | None]
    front: float
    scale: float
    levels: int = 1  # of folders that objects are in


FORMS = {
    "transforms": Form(read_transforms, 0.0, 1.0),
    "zero123": Form(read_zero123, BLENDER_FRONT, BLENDER_SCALE),
    "syncdreamer": Form(read_syncdreamer, BLENDER_FRONT, BLENDER_SCALE),
    "gobjaverse": Form(read_gobjaverse, BLENDER_FRONT, BLENDER_SCALE, levels=2),
}


def find_angles(
    c2w: Float[np.ndarray, "N 4 4"], front: float = 0.0, scale: float = 1.0
) -> dict[str, Float[np.ndarray, " N"]]:
    """Azimuth, elevation and distance of cameras that look at the origin.

    Args:
      c2w: OpenGL camera to world, +z up.
      front: azimuth of the object's front in that world, in degrees.
      scale: of distances.

    Raises:
      meshes.BadMesh: a camera looks elsewhere, or is turned about its axis.
    """
    from iso3d_jax.geometry import cameras

    position = c2w[:, :3, 3]
    distance = np.linalg.norm(position, axis=-1)
    azimuth = np.degrees(np.arctan2(position[:, 1], position[:, 0]))
    elevation = np.degrees(np.arcsin(position[:, 2] / np.maximum(distance, 1e-9)))
    elevation = np.clip(elevation, -89.9, 89.9)
    ours = np.asarray(cameras.camera_to_world(elevation, azimuth, distance))
    cosines = np.trace(np.swapaxes(ours, -1, -2)[:, :3, :3] @ c2w[:, :3, :3], axis1=1, axis2=2) - 1
    apart = np.degrees(np.arccos(np.clip(cosines / 2, -1, 1)))
    if apart.max() > 2 * SAME_ANGLE:
        raise meshes.BadMesh(
            f"camera {int(apart.argmax())} is turned {apart.max():.1f} degrees from one that looks "
            "at the origin with +z up"
        )
    return {
        "azimuth_deg": ((azimuth - front) % 360).astype(np.float32),
        "elevation_deg": elevation.astype(np.float32),
        "distance": (distance * scale).astype(np.float32),
    }


def find_sets(cameras: dict[str, np.ndarray], any_views: bool = False) -> list[int]:
    """Indices of views, four by four those of a set: each a quarter turn after the one before.

    Args:
      cameras: azimuth_deg, elevation_deg, fov_deg, distance [N].
      any_views: four by four as they come.
    """
    count = len(cameras["azimuth_deg"])
    if any_views:
        return list(range(count // SET * SET))
    free, chosen = list(range(count)), []
    while free:
        first = free.pop(0)
        found = [first]
        for quarter in range(1, SET):
            wanted = cameras["azimuth_deg"][first] + 90.0 * quarter
            alike = [
                k for k in free
                if abs((cameras["azimuth_deg"][k] - wanted + 180) % 360 - 180) <= SAME_ANGLE
                and abs(cameras["elevation_deg"][k] - cameras["elevation_deg"][first]) <= SAME_ANGLE
                and abs(cameras["fov_deg"][k] - cameras["fov_deg"][first]) <= SAME_ANGLE
                and abs(cameras["distance"][k] / cameras["distance"][first] - 1) <= SAME_DISTANCE
            ]  # fmt: skip
            found += alike[:1]
        if len(found) == SET:
            chosen += found
            free = [k for k in free if k not in found]
    return chosen


def read_picture(file: Path, resolution: int | None) -> UInt8[np.ndarray, "S S 4"]:
    """A square picture in straight alpha, of that side; of its own if None.

    Raises:
      meshes.BadMesh: it cannot be read or is not square.
    """
    try:
        image = read_image(file, LARGEST).convert("RGBA")
    except UserError as e:
        raise meshes.BadMesh(str(e)) from None
    if image.width != image.height:
        raise meshes.BadMesh(f"{file.name} is {image.width} x {image.height}, not square")
    if resolution and image.width != resolution:
        box = Image.Resampling.BOX if image.width % resolution == 0 else Image.Resampling.LANCZOS
        image = image.convert("RGBa").resize((resolution, resolution), box).convert("RGBA")
    return np.asarray(image)


def make_record(
    posed: Posed, form: Form, resolution: int | None = None, any_views: bool = False
) -> dict[str, np.ndarray]:
    """Cameras and pictures of a record, without its names.

    Raises:
      meshes.BadMesh: the object is left out, for this reason.
    """
    columns = find_angles(posed.c2w, form.front, form.scale)
    columns["fov_deg"] = posed.fov_deg.astype(np.float32)
    chosen = find_sets(columns, any_views)
    if not chosen:
        raise meshes.BadMesh(f"none of its {len(posed.pictures)} views make a set of four")
    images = [read_picture(posed.pictures[k], resolution) for k in chosen]
    if len({image.shape for image in images}) > 1:
        raise meshes.BadMesh("its pictures are of several sizes")
    if min(image[..., 3].min() for image in images) > 0:
        raise meshes.BadMesh("its pictures have no transparent background")
    record = {key: column[chosen] for key, column in columns.items()}
    record["images"] = np.stack(images)
    record["set_index"] = np.arange(len(chosen), dtype=np.int32) // SET
    return record


def _objects(source: Path, form: Form) -> Iterator[tuple[str, Posed | Exception]]:
    """Titles of objects, and what was read: of the source itself, or of the folders in it."""

    def attempt(folder: Path) -> Posed | Exception | None:
        try:
            return form.read(folder)
        except (meshes.BadMesh, UserError) as e:
            return e

    def walk(folder: Path, levels: int) -> Iterator[tuple[str, Posed | Exception]]:
        found = attempt(folder)
        if found is not None:
            yield folder.relative_to(source).as_posix(), found
        elif levels:
            for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
                yield from walk(inner, levels - 1)

    for title, found in walk(source, form.levels):
        yield source.resolve().name if title == "." else title, found


def import_dataset(
    source: str | os.PathLike,
    out: str | os.PathLike,
    form: str,
    *,
    resolution: int | None = None,
    any_views: bool = False,
    front: float | None = None,
    creator: str = "unknown",
    license: str = "unknown",
) -> dict[str, int]:
    """Makes a data set for `open_dataset` of others' renders.

    Args:
      source: an object's folder, or a folder of such.
      out: a folder without a data set; may be in a bucket.
      form: a name of `FORMS`.
      resolution: side of the pictures; that of the first object's if None.
      any_views: take views that make no sets, four by four.
      front: azimuth of the front in their world; the form's if None.
      creator, license: noted of all objects.

    Returns:
      Objects by split, and under 'left out' how many are not in it.

    Raises:
      UserError: no objects of that form, none that can be taken, or a data set is there already.
    """
    root, folder = places.place(out), Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(f"--source {shorten(source)}: there is no such folder")
    if (root / "settings.json").exists():
        raise UserError(f"{root} holds a data set already; give another folder")
    how = FORMS[form] if front is None else FORMS[form]._replace(front=front)
    side, taken = resolution, set()

    def items() -> Iterator[tuple[dict[str, Any], bytes | None]]:
        nonlocal side
        for title, posed in _objects(folder, how):
            name = asset_sources.slug(title)
            while name in taken:
                name += "-2"
            taken.add(name)
            entry = dict(
                name=name, title=title, category="", creator=creator, license=license,
                source=form, split=asset_sources.assign_split(name),
            )  # fmt: skip
            try:
                if isinstance(posed, Exception):
                    raise posed
                record = make_record(posed, how, side, any_views)
            except (meshes.BadMesh, UserError) as e:
                yield entry | {"status": shards.REFUSED, "reason": " ".join(str(e).split())}, None
                continue
            side = record["images"].shape[1]
            yield (
                entry | {"status": shards.RENDERED, "lacks": ""},
                records.serialize(entry | record),
            )

    shards.write_shards(root, 1, items())
    if not taken:
        raise UserError(f"--source {folder}: no object of the form {form} in there")
    settings = {"resolution": side, "form": form, "any_views": any_views, "shards": 1}
    places.write_text(root / "settings.json", json.dumps(settings, indent=2))
    return joining.join_shards(root)


def export_transforms(data: str | os.PathLike, out: str | os.PathLike, split: str = "all") -> int:
    """Writes a data set's pictures and cameras as nerfstudio and NeRF codes read them.

    Args:
      data: the data set.
      out: a folder; gets one an object, with transforms.json and images/000.png and so on.
      split: of the data set.

    Returns:
      How many objects.
    """
    dataset = open_dataset(data, split)
    for record in dataset:
        folder = make_folder(Path(out) / record["name"] / "images").parent
        side = record["images"].shape[1]
        names = [f"images/{k:03d}.png" for k in range(len(record["images"]))]
        for name, image in zip(names, record["images"], strict=True):
            with atomic_path(folder / name) as temporary:
                Image.fromarray(image).save(temporary)
        transforms.write(folder / transforms.FILE, names, record["c2w"], record["fov_deg"], side)
    return len(dataset)


_SOURCE = flags.DEFINE_string("source", None, "folder of an object, or of such", required=True)
_FORM = flags.DEFINE_enum("form", None, [*FORMS, "ours"], "what is in it", required=True)
_OUT = flags.DEFINE_string("out", None, "folder of the data set, or of the objects", required=True)
_RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "side of the pictures; the first object's if left out", 8, LARGEST
)
_ANY = flags.DEFINE_boolean("any_views", False, "take views that make no sets, four by four")
_FRONT = flags.DEFINE_float("front", None, "azimuth of the front in their world", -360.0, 360.0)
_CREATOR = flags.DEFINE_string("creator", "unknown", "who made the objects")
_LICENSE = flags.DEFINE_string("license", "unknown", "their licence, as SPDX names it")


def main(argv):
    """Imports, or exports, and says how many objects."""
    del argv
    if _FORM.value == "ours":
        number = export_transforms(_SOURCE.value, _OUT.value)
        print(f"{number} objects in {_OUT.value}")
        return
    counts = import_dataset(
        _SOURCE.value, _OUT.value, _FORM.value, resolution=_RESOLUTION.value,
        any_views=_ANY.value, front=_FRONT.value, creator=_CREATOR.value, license=_LICENSE.value,
    )  # fmt: skip
    left_out = counts.pop("left out")
    print(f"{', '.join(f'{s} {n}' for s, n in counts.items())} objects in {_OUT.value}")
    print(f"left out {left_out}, see skipped.txt in it")


if __name__ == "__main__":
    command_line.run(main)
