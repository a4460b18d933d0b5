"""Pictures of one object whose cameras are known, from whatever made them.

`load_posed` reads a folder with transforms.json (nerfstudio, NeRF's synthetic scenes, photographs
that structure from motion has placed), or the pictures of a model that draws a fixed set of views,
by the name of its layout. All become square pictures of one size by pinholes: what a lens bends is
straightened, and what a picture does not show is noted as not seen.

The layouts, and where their numbers are from (azimuth 0 is the side of the picture that was given;
an object has radius 1 here, which is what the distances are in units of):

zero123plus  Zero123++ v1.2: README and issue 73 of SUDO-AI-3D/zero123plus, the cameras of
             InstantMesh (src/utils/camera_util.py); one picture of 2 x 3, or six files
syncdreamer  16 views of SyncDreamer at elevation 30; a lens of 35 mm before a sensor of 32 mm
wonder3d     six views of Wonder3D by an orthographic camera (render_codes, data/fixed_poses of
             xxlong0/Wonder3D), which a lens of half a degree from far away stands for
orthogonal   four views as `sample` draws them
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path, explain_os_errors, make_folder
from iso3d_jax.data import transforms
from iso3d_jax.data.picture_files import SUFFIXES, read_image
from iso3d_jax.data.pictures import LARGEST, load_picture
from iso3d_jax.geometry.cameras import FOV_DEG, SCALE, camera_to_world

MOST = 1000  # pictures
CENTRED = 0.005  # of a side: a lens's axis so near to the middle is at the middle
PICTURES = "views"  # of a folder with transforms.json: the pictures that it names
_ORTHOGRAPHIC = 0.5  # degrees


@dataclasses.dataclass(frozen=True)
class PosedPictures:
    """Square pictures of one object with their cameras.

    Attributes:
      images: straight alpha, the object's outline.
      c2w: camera to world, OpenGL; +z is up (geometry/cameras.py).
      fov_deg: over the whole side, in degrees.
      seen: the pixels that the pictures show; the others are known by no picture.
      source: where they came from, in words.
    """

    images: UInt8[np.ndarray, "N S S 4"]
    c2w: Float[np.ndarray, "N 4 4"]
    fov_deg: Float[np.ndarray, " N"]
    seen: Bool[np.ndarray, "N S S"]
    source: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        """One picture, RGBA."""
        return Image.fromarray(self.images[index])

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return self.images.shape[1]

    @property
    def masks(self) -> Float[np.ndarray, "N S S"]:
        """The object's outlines, in [0, 1]."""
        return self.images[..., 3].astype(np.float32) / 255

    def on_white(self) -> Float[np.ndarray, "N S S 3"]:
        """The pictures on white, in [0, 1]; white as well where nothing was seen."""
        alpha = self.masks[..., None]
        return self.images[..., :3].astype(np.float32) / 255 * alpha + (1 - alpha)

    @explain_os_errors()
    def save(self, folder: str | Path) -> Path:
        """Writes transforms.json and the pictures that it names, for `load_posed` and others.

        Raises:
          UserError: the place cannot be written to.
        """
        folder = make_folder(Path(folder).expanduser())
        write_transforms(folder, list(self.images), self.c2w, self.fov_deg)
        return folder

    def save_arrays(self, file: Path) -> None:
        """Writes all of it as one .npz, atomically."""
        with atomic_path(file) as temporary:
            np.savez(temporary, **dataclasses.asdict(self))

    @classmethod
    def load_arrays(cls, file: Path, remedy: str) -> PosedPictures:
        """What `save_arrays` wrote.

        Args:
          remedy: what to do where it is damaged; ends the sentence.

        Raises:
          UserError: it cannot be read, or is damaged.
        """
        found = read_arrays(file, remedy, [field.name for field in dataclasses.fields(cls)])
        images, count = found["images"], len(np.atleast_1d(found["images"]))
        side = images.shape[1] if images.ndim == 4 else 0
        shapes = dict(images=(count, side, side, 4), c2w=(count, 4, 4), fov_deg=(count,),
                      seen=(count, side, side), source=())  # fmt: skip
        kinds = dict(images="u", c2w="f", fov_deg="f", seen="b", source="U")
        if not images.size or any(
            found[name].shape != shapes[name] or found[name].dtype.kind != kind
            for name, kind in kinds.items()
        ):
            raise UserError(f"{file} is damaged; {remedy}")
        return cls(**found | {"source": str(found["source"])})  # pyright: ignore[reportArgumentType]


def write_transforms(
    folder: Path,
    images: list[UInt8[np.ndarray, "S S C"]],
    c2w: Float[np.ndarray, "N 4 4"],
    fov_deg: Float[np.ndarray, " N"],
) -> Path:
    """Writes transforms.json into a folder, and below it the pictures that it names."""
    names = [f"{PICTURES}/{k:03d}.png" for k in range(len(images))]
    make_folder(folder / PICTURES)
    for name, image in zip(names, images, strict=True):
        with atomic_path(folder / name) as temporary:
            Image.fromarray(image).save(temporary)
    return transforms.write(folder / transforms.FILE, names, c2w, fov_deg, len(images[0]))


class Layout(NamedTuple):
    """The cameras of a fixed set of views.

    Attributes:
      azimuth_deg, elevation_deg: of the views, in the order of a grid's cells, row by row.
      fov_deg: of all of them.
      scale: their distance from the middle, in units of 1 / tan(fov / 2).
      names: what files of single views end in, where they have names.
    """

    azimuth_deg: tuple[float, ...]
    elevation_deg: tuple[float, ...]
    fov_deg: float
    scale: float
    names: tuple[str, ...] = ()

    def c2w(self) -> Float[np.ndarray, "N 4 4"]:
        """Camera to world, OpenGL."""
        distance = self.scale / math.tan(math.radians(self.fov_deg) / 2)
        return camera_to_world(
            np.array(self.elevation_deg), np.array(self.azimuth_deg), distance
        ).astype(np.float64)


LAYOUTS = {
    "zero123plus": Layout((30, 90, 150, 210, 270, 330), (20, -10) * 3, 30.0, 1.0),
    "syncdreamer": Layout(
        tuple(22.5 * k for k in range(16)), (30.0,) * 16,
        math.degrees(2 * math.atan(32 / 70)), 3.0 * 32 / 70,
    ),
    "wonder3d": Layout(
        (0, 45, 90, 180, 270, 315), (0.0,) * 6, _ORTHOGRAPHIC, 1.35,
        ("front", "front_right", "right", "back", "left", "front_left"),
    ),
    "orthogonal": Layout((0, 90, 180, 270), (15.0,) * 4, FOV_DEG, SCALE),
}  # fmt: skip


@explain_os_errors()
def load_posed(
    source: str | Path, layout: str | None = None, *, side: int = 128,
    remove_background: str = "auto", matting_model: str | None = None,
) -> PosedPictures:  # fmt: skip
    """Reads pictures with their cameras.

    Args:
      source: a folder with transforms.json or transforms_train.json; with a layout a picture of all
        views, or a folder of it or of one picture a view.
      layout: a name of `LAYOUTS`.
      side: of the pictures in pixels; smaller ones are not made larger.
      remove_background, matting_model: as of `load_picture`; alpha that is there is the outline.

    Raises:
      UserError: nothing of that kind in there, a picture that cannot be read or has no background,
        or cameras that make no sense.
    """
    source = Path(source).expanduser()
    cut = dict(remove_background=remove_background, matting_model=matting_model)
    if layout is None:
        file = source if source.suffix == ".json" else transforms.find(source)
        if file is None:
            raise UserError(
                f"{source} has no {' or '.join(transforms.FILES)}: give the folder of one, or say "
                f"what made the pictures with a layout ({', '.join(LAYOUTS)})"
            )
        frames = transforms.read(file)
        given, c2w, lenses = frames.pictures, frames.c2w, frames.lenses
        what = f"{len(given)} pictures with the cameras of {file.name}"
    elif layout not in LAYOUTS:
        raise UserError(f"layout '{shorten(layout)}': there are {', '.join(LAYOUTS)}")
    else:
        of = LAYOUTS[layout]
        given, c2w = _of_layout(source, layout), of.c2w()
        lens = transforms.Lens(0.5 / math.tan(math.radians(of.fov_deg) / 2))
        lenses, what = [lens] * len(given), f"{len(given)} views as {layout} draws them"
    if not 2 <= len(given) <= MOST:
        raise UserError(f"{source} has {len(given)} pictures: give 2 to {MOST}")
    if abs(np.linalg.det(c2w[:, :3, :3]) - 1).max() > 0.01:
        raise UserError(f"{source} has a camera whose matrix turns and moves, and does more")
    read = []
    for k, picture in enumerate(given):
        rgba = load_picture(picture, **cut)  # pyright: ignore[reportArgumentType]
        if rgba[..., 3].min() > 127:
            name = picture.name if isinstance(picture, Path) else f"view {k}"
            raise UserError(
                f"{name} has no background: the object's outline is needed, as transparency"
            )
        read.append(rgba)
    side = min(side, *(max(rgba.shape[:2]) for rgba in read))
    straight = [straighten(rgba, lens, side) for rgba, lens in zip(read, lenses, strict=True)]
    images, seen, fov = zip(*straight, strict=True)
    return PosedPictures(np.stack(images), c2w, np.array(fov), np.stack(seen), what)


def straighten(
    rgba: UInt8[np.ndarray, "H W 4"], lens: transforms.Lens, side: int
) -> tuple[UInt8[np.ndarray, "S S 4"], Bool[np.ndarray, "S S"], float]:
    """A picture as a pinhole that looks the same way would have taken it, square.

    Returns:
      The picture, which of its pixels the given one shows, and its field of view in degrees.
    """
    height, width = rgba.shape[:2]
    cx, cy = (0.5 if abs(c - 0.5) < CENTRED else c for c in lens.centre)
    fx, fy = lens.focal * width, lens.focal * lens.focal_y * width  # pixels
    reach = max(max(cx, 1 - cx) * width / fx, max(cy, 1 - cy) * height / fy)
    fov = math.degrees(2 * math.atan(reach))
    soft = Image.fromarray(rgba).convert("RGBa")  # colours times alpha, to be averaged
    plain = not any(lens.distortion) and cx == cy == 0.5 and lens.focal_y == 1.0
    if plain and height == width:
        box = Image.Resampling.BOX if width % side == 0 else Image.Resampling.LANCZOS
        if width != side:
            rgba = np.asarray(soft.resize((side, side), box).convert("RGBA"))
        return rgba, np.ones((side, side), bool), fov
    shrink = max(1.0, fx * 2 * reach / side)  # pixels of the given one to a pixel
    small = soft.resize(
        (max(1, round(width / shrink)), max(1, round(height / shrink))), Image.Resampling.BOX
    )
    at = ((np.arange(side) + 0.5) / side * 2 - 1) * reach
    across, down = np.meshgrid(at, at)
    x, y = _bend(across, down, lens.distortion)
    column, row = (cx * width + x * fx) / width, (cy * height + y * fy) / height  # shares
    seen = (column >= 0) & (column <= 1) & (row >= 0) & (row <= 1)
    place = np.stack([row * small.height - 0.5, column * small.width - 0.5])
    values = np.asarray(small, np.float32)
    mixed = np.stack(
        [ndimage.map_coordinates(values[..., c], place, order=1, mode="nearest") for c in range(4)],
        -1,
    )
    alpha = np.where(seen, mixed[..., 3], 0.0)
    rgb = mixed[..., :3] * (255 / np.maximum(mixed[..., 3:], 1.0))
    image = np.concatenate([np.where(alpha[..., None] > 0, rgb, 255.0), alpha[..., None]], -1)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), seen, fov


def _bend(x: np.ndarray, y: np.ndarray, distortion) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's distortion of places in the plane at distance 1, y downwards."""
    k1, k2, p1, p2, k3 = distortion
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    return (
        x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
        y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
    )


def _of_layout(source: Path, name: str) -> list[Path | np.ndarray]:
    """The views of a layout: files, or the cells of one picture."""
    layout = LAYOUTS[name]
    count = len(layout.azimuth_deg)
    if source.is_dir():
        files = sorted(
            (p for p in source.iterdir() if p.suffix.lower() in SUFFIXES
             and not p.stem.lower().startswith(("normal", "mask"))),
            key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p.name)],
        )  # fmt: skip
        named = [[p for p in files if _names(p.stem, layout.names) == n] for n in layout.names]
        if named and all(len(found) == 1 for found in named):
            return [found[0] for found in named]
        if len(files) == count:
            return list(files)
        if len(files) != 1:
            raise UserError(
                f"{source} has {len(files)} pictures: {name} are {count} files, or one picture of "
                "them all"
            )
        source = files[0]
    whole = np.asarray(read_image(source, LARGEST).convert("RGBA"))
    height, width = whole.shape[:2]
    for rows in range(1, count + 1):
        if count % rows == 0 and width * rows == height * (count // rows):
            side = height // rows
            return [
                whole[r * side : (r + 1) * side, c * side : (c + 1) * side]
                for r in range(rows) for c in range(count // rows)
            ]  # fmt: skip
    raise UserError(
        f"{source.name} is {width} x {height}, which is no grid of {count} squares, as the views "
        f"of {name} would be"
    )


def _names(stem: str, names: tuple[str, ...]) -> str | None:
    """The longest of the names that a file's stem ends in."""
    found = [name for name in names if stem == name or stem.endswith(f"_{name}")]
    return max(found, key=len, default=None)
