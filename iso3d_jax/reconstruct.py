"""Makes a 3D object from one picture: views, a turntable and a textured mesh.

    python -m iso3d_jax.reconstruct --image chair.png --out runs/chair

First the model draws views (views.png), so that you see early what it makes of the picture.
Then score distillation optimises a radiance field, and its surface is written as mesh.glb;
index.html shows all of it in a browser, without a network.
Ctrl-C saves; the same command goes on. `--mode views` is a draft in about a minute instead: it
fits the drawn views and nothing else. Without --model the small model that ships with the package
is used; without --config, or with a config file and no preset, the preset that suits the model.
`--images FOLDER` instead of --image makes one object of every picture in it, each in its own folder
below --out, and sheet.png of them all; a picture that fails does not stop the others.
"""

import hashlib
import json
import sys
from pathlib import Path

from iso3d_jax import command_line

flags = command_line.flags_for(__name__)

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "reconstruct.py"

_IMAGE = flags.DEFINE_string("image", None, "the picture")
_IMAGES = flags.DEFINE_string("images", None, "a folder of pictures, instead of --image")
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


def default_config(argv: list[str]) -> str:
    """The preset for the model on the command line: tiny for small ones, else the released one."""
    folder = Path(__file__).parent / "weights" / "tiny"
    for index, arg in enumerate(argv):
        name, equals, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == "model":
            folder = Path(value if equals else (argv[index + 1 : index + 2] or [""])[0])
    for file in (folder / "model.json", folder / "model" / "model.json"):
        try:
            resolution = json.loads(file.read_text()).get("resolution", 64)
        except (OSError, ValueError, AttributeError):
            continue
        return f"{_CONFIG}:{'tiny' if resolution <= 64 else 'isotropic3d'}"
    return f"{_CONFIG}:tiny"


def model_id(path: str | None) -> str:
    """Which weights a model folder holds: a digest of its numbers and its weights' ends."""
    from iso3d_jax.weights.bundle import find_bundle

    folder = find_bundle(path)
    digest = hashlib.sha256((folder / "model.json").read_bytes())
    with open(folder / "model.safetensors", "rb") as file:
        digest.update(file.read(1 << 20))
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read() + str(size).encode())
    return digest.hexdigest()[:16]


def reconstruct(model, picture, out, cfg, *, name: str = "", **options):
    """`run.reconstruct` with its arguments, then index.html, which shows all that came out."""
    from iso3d_jax.page.of_run import write_run_page
    from iso3d_jax.reconstruction import run

    result = run.reconstruct(model, picture, out, cfg, **options)
    page = write_run_page(
        out,
        picture_name=name or Path(out).name,
        model_name=model.config.name,
        resolution=model.config.resolution,
    )
    print(f"all of it on one page: {page}")
    return result


def check_paths(init: str) -> None:
    """Refuses a path that cannot be right, before anything that takes time is loaded."""
    from iso3d_jax import paths
    from iso3d_jax.errors import UserError
    from iso3d_jax.files import make_folder

    if init not in ("none", "views"):
        try:
            paths.run("--init", init)
        except UserError as error:
            raise UserError(f"{error}; it is none, views or the folder of a run") from None
    if _IMAGES.value:
        paths.folder("--images", _IMAGES.value)
    paths.model("--model", _MODEL.value, "unet", "vae", "clip")
    make_folder(_OUT.value)


def main(argv):
    """Reads the picture and the model and runs the reconstruction."""
    del argv
    cfg = command_line.get_config()
    from iso3d_jax.data.pictures import load_picture
    from iso3d_jax.errors import UserError

    if bool(_IMAGE.value) == bool(_IMAGES.value):
        raise UserError("give --image PICTURE or --images FOLDER, one of the two")
    picture = load_picture(_IMAGE.value) if _IMAGE.value else None
    init = _INIT.value if _INIT.value is not None else cfg.init
    check_paths(init)

    from iso3d_jax.reconstruction import batch, loop, settings
    from iso3d_jax.weights.bundle import load_model

    if _MODE.value:
        cfg.mode = _MODE.value
    settings.check(cfg)
    several = batch.find_pictures(_IMAGES.value) if _IMAGES.value else {}
    model = load_model(_MODEL.value, _DTYPE.value)
    identity = model_id(_MODEL.value)
    failed = {}
    try:
        if picture is not None:
            reconstruct(
                model, picture, _OUT.value, cfg, name=Path(_IMAGE.value).name, model_id=identity,
                init=init,
            )  # fmt: skip
        else:
            failed = batch.reconstruct_all(
                model, several, _OUT.value, cfg, model_id=identity, init=init,
                reconstruct=reconstruct,
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
