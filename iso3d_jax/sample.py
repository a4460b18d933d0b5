"""Draws views of the object in a picture, from all sides.

    python -m iso3d_jax.sample --image chair.png --out views.png

The result shows each picture followed by its views in one row. The picture should show one whole
object: a PNG with a transparent background, or any format with a plain one; a busy one is cut out
where the extra iso3d_jax[matting] is installed (--remove_background). Without --model the small
model that ships with the package is used: 64x64 pixels, furniture, for trying things out.
A picture that cannot be used does not keep the others from theirs; the exit status is 2 then.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from iso3d_jax.commands import command_line, paths
from iso3d_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

flags = command_line.flags_for(__name__)

_IMAGE = flags.DEFINE_multi_string(
    "image", None, "a picture, or a folder of pictures; may be repeated", required=True
)
_MODEL = flags.DEFINE_string(
    "model", None, "folder of a model or of a training run; the shipped small model if left out"
)
_OUT = flags.DEFINE_string("out", None, "the PNG to write", required=True)
_NUM_VIEWS = flags.DEFINE_integer("num_views", 4, "views of each object", 1, 64)
_ELEVATION_DEG = flags.DEFINE_float("elevation_deg", 15.0, "camera height, degrees up", -90, 90)
_AZIMUTH_DEG = flags.DEFINE_float(
    "azimuth_deg", 0.0, "of the first view; 0 is the side that the picture shows", -360, 360
)
_LOOK = flags.DEFINE_enum(
    "look", "own", ["own", "sharp"],
    "as the model draws by itself, or sharper: more steps and all of the noise",
)  # fmt: skip
_STEPS = flags.DEFINE_integer(
    "steps", None, "DDIM steps; the model's own number if left out", 1, 999
)
_GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "how strongly to follow the picture; the model's own if left out",
    0, 1000,
)  # fmt: skip
_ETA = flags.DEFINE_float(
    "eta", None, "0 deterministic, 1 as noisy as DDPM; the model's own if left out", 0, 1
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "of eta's noise: below 1 smoother and likelier; the model's own if left out",
    lower_bound=0,
    upper_bound=10,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "of the noise: another seed, other views", 0, command_line.MOST
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "pictures in one call of the network", 1, 4096)
_SEPARATE = flags.DEFINE_bool(
    "separate",
    False,
    "also write each view to a PNG of its own, background transparent, in a folder beside --out",
)
_PREPARE = flags.DEFINE_enum(
    "prepare",
    None,
    ["centred", "framed", "launch", "i2i"],
    "how the picture is fitted to the frame: the object centred; as it is framed; as the released "
    "launch.py does it; as the released scripts/i2i.py does it. The model's own if left out",
)
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_REMOVE_BACKGROUND = flags.DEFINE_enum(*command_line.REMOVE_BACKGROUND_FLAG)
_MATTING_MODEL = flags.DEFINE_string(*command_line.MATTING_MODEL_FLAG)
_SAVE_INPUT = flags.DEFINE_string(
    "save_input", None, "write what the model will see: a PNG, or a folder for several pictures"
)
_CELL = flags.DEFINE_integer(
    "cell", 0, "pixels a view in the PNG; 0: the model's resolution, but at least 256", 0, 4096
)


def main(argv):
    """Checks what was given, samples, writes."""
    del argv
    from iso3d_jax.core.files import atomic_path, check_folder
    from iso3d_jax.data import grids, pictures
    from iso3d_jax.data.picture_folders import find_pictures, load_all, name_pictures

    out = Path(_OUT.value)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png, not {out}")
    given = [path for value in _IMAGE.value for path in find_pictures(value)]
    paths.check_output("--out", out, given)
    paths.matting_model(_MATTING_MODEL.value)
    named = dict(zip(name_pictures(given), given, strict=True))
    seen = name_inputs(_SAVE_INPUT.value, list(named))
    for file in seen.values():
        paths.check_output("--save_input", file, given)
        if file.resolve() == out.resolve():
            raise UserError(f"--save_input and --out are the same file, {out}: name another")
    if _SEPARATE.value:
        check_folder(out.with_suffix(""))
    paths.model("--model", _MODEL.value, "unet", "vae", "clip")
    loaded, failed = load_all(
        named,
        lambda path: pictures.load_picture(
            path, remove_background=_REMOVE_BACKGROUND.value, matting_model=_MATTING_MODEL.value
        ),
    )
    names = list(loaded)
    views_folder = out.with_suffix("") if _SEPARATE.value else None

    from iso3d_jax import sampling
    from iso3d_jax.core.progress import Progress
    from iso3d_jax.weights.bundle import load_model

    sampling.check_options(_NUM_VIEWS.value, _ELEVATION_DEG.value, _STEPS.value)
    model = load_model(_MODEL.value, _DTYPE.value)
    rows, compiled = [], set()
    prepared = sampling.prepare_all(model, list(loaded.values()), _PREPARE.value)
    if seen:
        save_inputs([seen[name] for name in names], prepared)
        print(f"what the model sees: {_SAVE_INPUT.value}")
    progress = Progress(len(names), "sampling", unit="pictures")
    for first in range(0, len(names), _BATCH_SIZE.value):
        batch = prepared[first : first + _BATCH_SIZE.value]
        new = len(batch) not in compiled  # a smaller last batch is another program
        compiled.add(len(batch))
        what = f"and generating {_NUM_VIEWS.value} views of {len(batch)} pictures"
        with progress.compiling(what) if new else contextlib.nullcontext():
            views = sampling.sample_views(
                model,
                list(batch),
                num_views=_NUM_VIEWS.value,
                elevation_deg=_ELEVATION_DEG.value,
                azimuth_deg=_AZIMUTH_DEG.value,
                look=_LOOK.value,
                steps=_STEPS.value,
                guidance_scale=_GUIDANCE_SCALE.value,
                eta=_ETA.value,
                temperature=_TEMPERATURE.value,
                seed=_SEED.value,
            )
        rows += [[picture, *row] for picture, row in zip(batch, views, strict=True)]
        progress.update(len(rows))
    progress.close()
    with atomic_path(out) as temporary:
        grids.tile(rows, _CELL.value or max(256, model.config.resolution)).save(temporary)
    if views_folder is not None:
        azimuths = [
            round(_AZIMUTH_DEG.value + 360 * k / _NUM_VIEWS.value) % 360
            for k in range(_NUM_VIEWS.value)
        ]
        opaque = write_views(views_folder, names, rows, azimuths)
        print(f"views: {views_folder}")
        if opaque:
            print(f"left opaque, for want of a plain background: {', '.join(opaque)}")
    print(f"wrote {out}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(given)} pictures could not be used ({', '.join(failed)}): the "
            f"reasons are above, the others are in {out}"
        )


def name_inputs(out: str | None, names: list[str]) -> dict[str, Path]:
    """The file for each picture as the model sees it: --save_input itself, or one in that folder.

    Args:
      out: the flag; nothing is written where it is None.
      names: of the pictures.
    """
    if not out:
        return {}
    if Path(out).suffix.lower() != ".png":
        return {name: Path(out) / f"{name}.png" for name in names}
    if len(names) > 1:
        raise UserError(
            f"--save_input {out} is one file and there are {len(names)} pictures: name a folder"
        )
    return {names[0]: Path(out)}


def save_inputs(files: list[Path], prepared: Float[np.ndarray, "N H W 3"]) -> None:
    """Writes pictures in [0, 1], as the model will see them, to PNGs."""
    from iso3d_jax.core.files import atomic_path
    from iso3d_jax.data import grids

    for file, picture in zip(files, prepared, strict=True):
        with atomic_path(file) as temporary:
            grids.to_image(picture).save(temporary)


def write_views(
    folder: Path, names: list[str], rows: list[list[np.ndarray]], azimuths_deg: list[int]
) -> list[str]:
    """One PNG a view; returns the names of those whose background could not be made transparent.

    Args:
      folder: where to.
      names: of the objects.
      rows: for each object the picture and its views, [H, W, 3] in [0, 1] on white.
      azimuths_deg: of the views.
    """
    import numpy as np
    from PIL import Image

    from iso3d_jax.core.files import atomic_path
    from iso3d_jax.data import grids
    from iso3d_jax.data.background import remove_plain_background

    opaque = []
    for name, row in zip(names, rows, strict=True):
        for k, (view, azimuth) in enumerate(zip(row[1:], azimuths_deg, strict=True)):
            file = folder / f"{name}_{k}_azimuth{azimuth:03d}.png"
            image = grids.to_image(view)
            try:
                image = Image.fromarray(remove_plain_background(np.asarray(image)))
            except UserError:
                opaque.append(file.name)
            with atomic_path(file) as temporary:
                image.save(temporary)
    return opaque


if __name__ == "__main__":
    command_line.run(main)
