"""The whole road in one go: a picture, views of it, a radiance field, a mesh, a page.

    python -m iso3d_jax.demo --out out/demo
    python -m iso3d_jax.demo --image chair.png --out out/chair

Does what `python -m iso3d_jax.reconstruct` does; `index.html` is one file that shows picture,
views, turntable and an orbitable mesh, offline, from the first seconds on. Without --image it takes
a picture that ships with the package, generates views of the other pictures that do, and shows an
object that was made from true views; without --model it takes the small model. Starts afresh every
time: an earlier result in --out is replaced.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruct import WRITTEN, check_save_input, default_config

if TYPE_CHECKING:
    from iso3d_jax.pages.build import Example
    from iso3d_jax.pipeline import Pipeline

flags = command_line.flags_for(__name__)

EXAMPLES = Path(__file__).parent / "data" / "examples"
EXAMPLE = EXAMPLES / "trash_can.png"
TRUE_VIEWS = EXAMPLES / "true_views"  # an object made from given pictures; README.md says how
RESULTS = (
    "input.png", "views.png", "views.npz", "state.npz", "turntable.mp4", "mesh.glb", "report.json",
    "turntable.webp", "contact_sheet.png", "index.html", "transforms.json", "previews", "draft",
)  # fmt: skip

_IMAGE = flags.DEFINE_string(
    "image", str(EXAMPLE), "a picture of one object; the default ships with the package"
)
_MODEL = flags.DEFINE_string("model", None, "folder of a model; the shipped small one if left out")
_OUT = flags.DEFINE_string("out", "out/demo", "folder for the results")
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_REMOVE_BACKGROUND = flags.DEFINE_enum(*command_line.REMOVE_BACKGROUND_FLAG)
_MATTING_MODEL = flags.DEFINE_string(*command_line.MATTING_MODEL_FLAG)
_SAVE_INPUT = flags.DEFINE_string(
    "save_input", None, "write what the model will see as a PNG, before anything else"
)


def main(argv):
    """Checks the picture and the model, reconstructs, writes the page."""
    del argv
    cfg = command_line.get_config()
    from iso3d_jax.commands import paths
    from iso3d_jax.data.pictures import load_picture

    image, out = Path(_IMAGE.value), Path(_OUT.value)
    if _SAVE_INPUT.value:
        check_save_input(_SAVE_INPUT.value, str(image))
    paths.run_folder(out, WRITTEN, image)
    paths.matting_model(_MATTING_MODEL.value)
    paths.model("--model", _MODEL.value, "unet", "vae", "clip")
    picture = load_picture(
        image, remove_background=_REMOVE_BACKGROUND.value, matting_model=_MATTING_MODEL.value
    )

    from iso3d_jax.pages.run_page import write_run_page
    from iso3d_jax.pipeline import Pipeline
    from iso3d_jax.reconstruction import loop
    from iso3d_jax.reconstruction.spec import make_spec

    make_spec(cfg)  # refuses what makes no sense before a model is loaded
    clear(out)
    pipe = Pipeline.from_pretrained(_MODEL.value, dtype=_DTYPE.value)
    try:
        if _SAVE_INPUT.value:
            pipe.save_input(picture, _SAVE_INPUT.value, cfg.picture or None)
        pipe.reconstruct(
            picture, out=out, config=cfg, name=image.name,
            command=command_line.as_typed("reconstruct", image=str(image), out=str(out)),
        )  # fmt: skip
    except loop.Interrupted as stop:
        sys.exit(128 + stop.signum)
    page = write_run_page(
        out,
        picture_name=image.name,
        model_name=pipe.model.config.name,
        resolution=pipe.model.config.resolution,
        command=command_line.as_typed("demo"),
        others=generate_examples(pipe, image) if image == EXAMPLE else (),
        example=load_true_views() if image == EXAMPLE else None,
    )
    print(f"\nThe page with everything on it:\n{page}")


def generate_examples(pipe: Pipeline, shown: Path) -> list:
    """The other pictures of the package: name, RGBA, and four views of each, made in one go."""

    from iso3d_jax import sampling
    from iso3d_jax.data.pictures import load_picture

    paths = [path for path in sorted(EXAMPLES.glob("*.png")) if path != shown]
    print(f"generating views of {len(paths)} more pictures ...", flush=True)
    pictures = [load_picture(path) for path in paths]
    views = sampling.sample_views(pipe.model, pictures)
    return list(zip([path.stem for path in paths], pictures, views, strict=True))


def load_true_views() -> Example:
    """The shipped object that was made from pictures of a known mesh, and from where."""
    from iso3d_jax.data import grids
    from iso3d_jax.data.picture_files import read_image
    from iso3d_jax.pages.build import Example
    from iso3d_jax.reconstruction.report_file import read_report

    given = read_report(TRUE_VIEWS)["given"]
    (views,) = grids.untile(read_image(TRUE_VIEWS / "views.png", 4096), 128)
    return Example(
        "From true views, for comparison",
        f"A stand mixer, fitted to {given['pictures']} pictures that were rendered of its true "
        f"mesh ({given['side']}×{given['side']} pixels, iso3d reconstruct --views): no model drew "
        f"anything; {given['psnr_db']:.1f} dB beside them. It was made before and ships with the "
        "package; what separates it from the object above is what the small model makes of a "
        "single picture.",
        views, TRUE_VIEWS / "mesh.glb",
    )  # fmt: skip


def clear(out: Path) -> None:
    """Removes an earlier result; refuses a folder that holds other things."""
    if not out.is_dir():
        return
    ours = {*RESULTS}
    if (out / "transforms.json").exists():
        ours.add("views")  # which it names; pictures of these names are written over
    others = sorted({path.name for path in out.iterdir()} - ours)
    if others and not (out / "report.json").exists() and not (out / "state.npz").exists():
        raise UserError(f"{out} holds other files ({others[0]}, ...): give another --out")
    for name in RESULTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    command_line.define_config_flag(default_config(sys.argv), own_preset=True)
    command_line.run(main)
