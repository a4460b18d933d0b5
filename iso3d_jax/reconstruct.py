"""Makes a 3D object from one picture: views, a turntable and a textured mesh.

    python -m iso3d_jax.reconstruct --image chair.png --out runs/chair

First the model draws views (views.png), so that you see early what it makes of the picture.
Then score distillation optimises a radiance field, and its surface is written as mesh.glb;
index.html shows it in a browser from the first second on, without a network or a server.
Ctrl-C saves; the same command goes on. `--mode views` is a draft in about a minute instead: it
fits the drawn views and nothing else. Without --model the small model that ships with the package
is used; without --config, or with a config file and no preset, the preset that suits the model.
`--images FOLDER` instead of --image makes one object of every picture in it, each in its own folder
below --out, and sheet.png of them all; a picture that fails does not stop the others.

`--views FOLDER` instead of both makes the object of pictures whose cameras are known, photographs
or another model's views, and asks no model: of a folder with transforms.json (nerfstudio,
NeRF-synthetic), or with `--layout` of the views that a model of that name draws.
"""

import sys
from pathlib import Path
from typing import Any

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import need, read_object
from iso3d_jax.presets import reconstruct as presets
from iso3d_jax.weights.folders import TINY

flags = command_line.flags_for(__name__)

# pictures in a run's folder
WRITTEN = (
    "input.png", "views.png", "contact_sheet.png", *(f"views/{k:03d}.png" for k in range(1000)),
)  # fmt: skip

_IMAGE = flags.DEFINE_string("image", None, "the picture")
_IMAGES = flags.DEFINE_string("images", None, "a folder of pictures, instead of --image")
_VIEWS = flags.DEFINE_string(
    "views", None, "a folder of pictures with cameras, or with --layout one picture of all views"
)
_LAYOUT = flags.DEFINE_enum(
    "layout", None, ["zero123plus", "syncdreamer", "wonder3d", "orthogonal"],
    "whose fixed cameras the pictures of --views have; transforms.json's if left out",
)  # fmt: skip
_MODEL = flags.DEFINE_string(
    "model", None, "folder of a model or of a training run; the shipped small model if left out"
)
_OUT = flags.DEFINE_string("out", None, "folder for the results", required=True)
_MODE = flags.DEFINE_enum(
    "mode", None, ["sds", "views"], "sds: score distillation; views: a draft from the drawn views"
)
_INIT = flags.DEFINE_string(
    "init", None, "what sds starts from: none, views (a draft first), or the folder of a run"
)
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_REMOVE_BACKGROUND = flags.DEFINE_enum(*command_line.REMOVE_BACKGROUND_FLAG)
_MATTING_MODEL = flags.DEFINE_string(*command_line.MATTING_MODEL_FLAG)
_SAVE_INPUT = flags.DEFINE_string(
    "save_input", None, "write what the model will see of --image as a PNG, before anything else"
)


def default_config(argv: list[str]) -> str:
    """The preset for the command line: views for given ones, tiny for small models, else the
    released one."""
    folder = TINY
    for index, arg in enumerate(argv):
        name, equals, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == "views":
            return "reconstruct:views"
        if arg.startswith("-") and name == "model":
            given = value if equals else (argv[index + 1 : index + 2] or [""])[0]
            folder = Path(given).expanduser()
    for file in (folder / "model.json", folder / "model" / "model.json"):
        try:
            resolution = need(
                read_object(file), "resolution", int, file, default=presets.SMALL, least=1
            )
        except UserError:
            continue  # said where the model is loaded
        return f"reconstruct:{presets.preset_for(resolution)}"
    return "reconstruct:tiny"


def reconstruct_views(cfg: Any, source: str, layout: str | None) -> None:
    """Makes the object of --views."""
    from iso3d_jax.commands import paths
    from iso3d_jax.data.posed_pictures import load_posed

    for flag in (_MODEL, _INIT, _SAVE_INPUT, _DTYPE):
        if flag.value is not None:
            raise UserError(f"--{flag.name} is for --image and --images: --views asks no model")
    if _MODE.value == "sds":
        raise UserError("--views fits the pictures that it is given: leave --mode out")
    if not Path(source).exists():
        raise UserError(f"--views {source}: there is no such folder or file")
    for folder in (Path(_OUT.value), Path(_OUT.value) / "views"):  # pictures go to the latter
        paths.run_folder(folder, WRITTEN, source)
    paths.matting_model(_MATTING_MODEL.value)
    posed = load_posed(
        source, layout, side=cfg.phases[-1][1], remove_background=_REMOVE_BACKGROUND.value,
        matting_model=_MATTING_MODEL.value,
    )  # fmt: skip

    from iso3d_jax.pipeline import reconstruct_posed
    from iso3d_jax.reconstruction import loop

    try:
        reconstruct_posed(
            posed, out=_OUT.value, config=cfg, name=Path(source).name,
            command=command_line.as_typed(),
        )  # fmt: skip
    except loop.Interrupted as stop:
        sys.exit(128 + stop.signum)


def check_paths(init: str, given: str) -> None:
    """Refuses a path that cannot be right, before anything that takes time is loaded.

    Args:
      init: --init, or the config's.
      given: the picture, or the folder of pictures.
    """
    from iso3d_jax.commands import paths

    written = set(WRITTEN)
    if (Path(_OUT.value) / "state.npz").is_file():  # it goes on, and its own picture stays
        written.discard("input.png")
    paths.run_folder(_OUT.value, written, given)
    paths.matting_model(_MATTING_MODEL.value)
    if init not in ("none", "views"):
        try:
            paths.run("--init", init)
        except UserError as error:
            raise UserError(f"{error}; it is none, views or the folder of a run") from None
    if _IMAGES.value:
        paths.folder("--images", _IMAGES.value)
    paths.model("--model", _MODEL.value, "unet", "vae", "clip")


def check_save_input(path: str, image: str | None) -> None:
    """Refuses a --save_input that cannot be written, or that is the picture itself."""
    from iso3d_jax.commands import paths
    from iso3d_jax.core.errors import UserError

    if not image:
        raise UserError("--save_input is for one --image; each run's page shows its own")
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"--save_input must end in .png, not {path}")
    paths.check_output("--save_input", path, [image])


def main(argv):
    """Reads the picture and the model and runs the reconstruction."""
    del argv
    cfg = command_line.get_config()
    from iso3d_jax.data.pictures import load_picture

    remove_background, matting_model = _REMOVE_BACKGROUND.value, _MATTING_MODEL.value
    if sum(map(bool, (_IMAGE.value, _IMAGES.value, _VIEWS.value))) != 1:
        raise UserError("give --image PICTURE, --images FOLDER or --views FOLDER, one of the three")
    if _LAYOUT.value and not _VIEWS.value:
        raise UserError("--layout says whose cameras the pictures of --views have: add --views")
    if _VIEWS.value:
        reconstruct_views(cfg, _VIEWS.value, _LAYOUT.value)
        return
    if _SAVE_INPUT.value:
        check_save_input(_SAVE_INPUT.value, _IMAGE.value)
    init = _INIT.value if _INIT.value is not None else cfg.init
    check_paths(init, _IMAGE.value or _IMAGES.value or "")
    picture, name = None, ""
    if _IMAGE.value:  # refuses what it must before anything slow
        picture = load_picture(
            _IMAGE.value, remove_background=remove_background, matting_model=matting_model
        )
        name = Path(_IMAGE.value).name

    from iso3d_jax.pipeline import Pipeline
    from iso3d_jax.reconstruction import batch, loop
    from iso3d_jax.reconstruction.spec import make_spec

    if _MODE.value:
        cfg.mode = _MODE.value
    make_spec(cfg)  # refuses what makes no sense before a model is loaded
    several = batch.find_pictures(_IMAGES.value) if _IMAGES.value else {}
    pipe = Pipeline.from_pretrained(_MODEL.value, dtype=_DTYPE.value)
    failed = {}
    try:
        if picture is not None:
            if _SAVE_INPUT.value:
                pipe.save_input(picture, _SAVE_INPUT.value, cfg.picture or None)
            pipe.reconstruct(
                picture, out=_OUT.value, config=cfg, init=init, name=name,
                command=command_line.as_typed(),
            )  # fmt: skip
        else:
            failed = pipe.reconstruct_all(
                several, _OUT.value, config=cfg, init=init, command=command_line.as_typed(),
                remove_background=remove_background, matting_model=matting_model,
            )  # fmt: skip
    except loop.Interrupted as stop:
        sys.exit(128 + stop.signum)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(several)} pictures failed ({', '.join(failed)}); the same "
            "command tries them again and leaves the others as they are"
        )


if __name__ == "__main__":
    command_line.define_config_flag(default_config(sys.argv), own_preset=True)
    command_line.run(main)
