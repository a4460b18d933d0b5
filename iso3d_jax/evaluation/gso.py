"""Google Scanned Objects in the layout that SyncDreamer's evaluation uses.

    DIR/NAME-gt/000.png ... 015.png      (or DIR/NAME/000.png ...)
    DIR/NAME-mesh/meshes/model.obj       (or DIR/NAME/model.obj; for scores of meshes)

16 RGBA renders a object, 22.5 degrees of azimuth apart, all from 30 degrees above; the first is
the picture. The cameras there are 1.5 from an object whose longest side is 1, with a field of view
of 49.1 degrees, so the objects fill the pictures differently from one another; a model of this
package draws an object that fills its picture. Both are made alike: one crop or border about the
centre for all 16 views of an object, such that the object's pixel farthest from the centre is
`FILL` of half the picture's side away.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.colour import on_white
from iso3d_jax.data.picture_files import read_image
from iso3d_jax.data.pictures import LARGEST, prepare_picture
from iso3d_jax.data.posed_pictures import LAYOUTS
from iso3d_jax.evaluation.views import ViewTask
from iso3d_jax.geometry.cameras import SCALE, distance_of

VIEWS, STEP_DEG, ELEVATION_DEG = 16, 22.5, 30.0
FILL = 0.93  # where the unit sphere ends in the pictures that models are trained on: 1 / SCALE
LENS = LAYOUTS["syncdreamer"]  # that the pictures were rendered with


def find_objects(folder: str | Path) -> dict[str, Path]:
    """Names and folders of pictures.

    Raises:
      UserError: no such folder, or no object in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--gso {folder}: there is no such folder")
    found = {
        re.sub(r"-gt$", "", path.name): path
        for path in sorted(folder.iterdir())
        if (path / "000.png").is_file()
    }
    if not found:
        raise UserError(
            f"--gso {folder} holds no objects: each is a folder NAME-gt (or NAME) with 000.png to "
            f"{VIEWS - 1:03d}.png"
        )
    return found


def mesh_file(folder: str | Path, name: str) -> Path | None:
    """An object's true mesh, where it is there."""
    folder = Path(folder)
    for path in (folder / f"{name}-mesh/meshes/model.obj", folder / name / "model.obj"):
        if path.is_file():
            return path
    return None


def read_views(folder: Path) -> Float[np.ndarray, "16 H W 4"]:
    """The 16 renders of an object, straight alpha in [0, 1].

    Raises:
      UserError: one is missing, damaged, has no transparency, or another size.
    """
    views = []
    for k in range(VIEWS):
        file = folder / f"{k:03d}.png"
        try:
            image = read_image(file, LARGEST)
        except UserError as error:
            raise UserError(f"{error}; {VIEWS} views are needed") from None
        if image.mode not in ("RGBA", "LA"):
            raise UserError(f"{file} has no transparency (its mode is {image.mode}, not RGBA)")
        views.append(np.asarray(image.convert("RGBA"), np.float32) / 255)
    if len({v.shape for v in views}) > 1 or views[0].shape[0] != views[0].shape[1]:
        raise UserError(f"the pictures in {folder} are not all square and of one size")
    return np.stack(views)


def reach(alpha: Float[np.ndarray, "V S S"]) -> float:
    """How far from the centre the object goes in any view, in units of half the side."""
    size = alpha.shape[-1]
    offset = (np.arange(size) + 0.5) * 2 / size - 1
    distance = np.hypot(offset[:, None], offset[None])
    seen = (alpha > 0.5).any(0)
    return float(distance[seen].max()) if seen.any() else 1.0


def rescale(view: Float[np.ndarray, "S S 4"], half: float, resolution: int):
    """The square of half-side `half` (1 is the whole picture) about the centre, on white."""
    size = view.shape[0]
    white = Image.fromarray(to_uint8(on_white(view)))
    corner, side = size / 2 * (1 - half), size * half
    pad = max(0, int(np.ceil(-corner)))
    canvas = Image.new("RGB", (size + 2 * pad,) * 2, (255, 255, 255))
    canvas.paste(white, (pad, pad))
    box = (corner + pad, corner + pad, corner + pad + side, corner + pad + side)
    small = canvas.resize((resolution, resolution), Image.Resampling.BOX, box=box)
    return np.asarray(small, np.float32) / 255


def make_task(folder: str | Path, resolution: int, picture: str) -> ViewTask:
    """All 16 views of every object as four orthogonal sets; the first view is the picture.

    Args:
      resolution, picture: of the model.
    """
    objects = find_objects(folder)
    order = np.arange(VIEWS).reshape(4, 4).T.ravel()  # 0, 4, 8, 12, 1, 5, ...: orthogonal sets
    pictures, truth, fov_deg = [], [], []
    for path in objects.values():
        views = read_views(path)
        half = reach(views[..., 3]) / FILL
        first = to_uint8(views[0])
        pictures.append(prepare_picture(first, resolution, picture))
        truth.append([rescale(views[k], half, resolution) for k in order])
        # What is left of the picture has the field of view of that part of its middle.
        fov_deg.append(2 * np.rad2deg(np.arctan(half * np.tan(np.deg2rad(LENS.fov_deg) / 2))))
    shape, fov = (len(objects), VIEWS), np.array(fov_deg, np.float32)[:, None]
    return ViewTask(
        names=list(objects),
        pictures=np.asarray(pictures, np.float32),
        azimuth_deg=np.broadcast_to(order * STEP_DEG, shape).astype(np.float32),
        elevation_deg=np.full(shape, ELEVATION_DEG, np.float32),
        truth=np.asarray(truth, np.float32),
        fov_deg=np.broadcast_to(fov, shape),
        distance=np.broadcast_to(distance_of(fov, SCALE), shape),
        protocol="Google Scanned Objects in SyncDreamer's layout: picture 000.png; target: all 16 "
        "views at 22.5 degrees of azimuth and 30 of elevation, drawn as 4 orthogonal sets, the "
        f"truth rescaled about its centre so that the object reaches {FILL} of half the side",
    )
