"""What commands ask of the paths they were given, before JAX is imported or a weight is loaded.

Each function names the flag that the path came from, and raises `UserError` where the path cannot
be what the command needs. What takes longer to find out is left to whoever reads the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import check_folder
from iso3d_jax.weights.folders import check_model

# The networks that `init_from` of each kind of training must hold.
STARTS_FROM = {
    "denoiser": ("unet",),
    "autoencoder": ("vae",),
    "image_tower": ("clip",),
    "sampled_views": ("unet", "vae", "clip"),
}


@contextlib.contextmanager
def _of(flag: str) -> Iterator[None]:
    """Puts the flag in front of a message that does not name it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


def model(flag: str, path: str | Path | None, *networks: str) -> set[str]:
    """The networks of a model folder, which must include the named ones."""
    with _of(flag):
        return check_model(path, *networks)


def dataset(flag: str, path: str | Path | None) -> None:
    """A rendered data set, "samples", or a set in a packed file."""
    from iso3d_jax.data import packed
    from iso3d_jax.data.multiview import find_dataset

    if packed.find(path) is None:
        extras.require("tensorflow_datasets")
    with _of(flag):
        find_dataset(path)


def encoded(flag: str, path: str) -> None:
    """A set that `data.encode` wrote."""
    if (Path(path) / "encoded.json").is_file():
        return
    if (Path(path) / "encoding.json").is_file():
        raise UserError(
            f"{flag}: the encoding in {path} is not complete: run its data.encode command again"
        )
    raise UserError(
        f"{flag}: no encoded data set in {path}: make one with python -m "
        f"iso3d_jax.data.encode --data DIR --out {path}"
    )


def folder(flag: str, path: str) -> None:
    """A folder that is there."""
    if not Path(path).is_dir():
        what = "is a file, not a folder" if Path(path).exists() else "there is no such folder"
        raise UserError(f"{flag} {path}: {what}")


def pictures(flag: str, path: str) -> None:
    """A folder with at least one picture."""
    from iso3d_jax.data.picture_folders import find_pictures

    folder(flag, path)
    with _of(flag):
        find_pictures(path)


def check_output(flag: str, path: str | Path, given: Iterable[str | Path]) -> None:
    """Refuses to write over what was given, over a folder, or where nothing can be written."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a PNG in it")
    if any(_is_same(path, Path(g)) for g in given):
        raise UserError(f"{flag} {path} is the picture that was given: name another file")
    with _of(flag):
        check_folder(path.parent)


def run_folder(path: str | Path, names: Iterable[str], given: str | Path) -> None:
    """Refuses a folder in which nothing can be written, or the picture that was given would be
    written over.

    Args:
      names: of the files that are written.
      given: the picture, or the folder of pictures.
    """
    path, given = Path(path), Path(given)
    same = given.is_dir() and _is_same(path, given)
    if same or (given.is_file() and any(_is_same(path / name, given) for name in names)):
        what = "the pictures" if same else "the picture"
        raise UserError(f"--out {path} holds {what} that {'were' if same else 'was'} given: give "
                        "another folder")  # fmt: skip
    with _of("--out"):
        check_folder(path)


def _is_same(path: Path, given: Path) -> bool:
    return path.exists() and given.exists() and path.samefile(given)


def matting_model(path: str | None) -> None:
    """The network's file is there, where one is named: also where no picture needs it."""
    if path is not None:
        file("--matting_model", path)


def file(flag: str, path: str) -> None:
    """A file that is there."""
    if not Path(path).is_file():
        raise UserError(f"{flag} {path}: there is no such file")


def run(flag: str, path: str) -> None:
    """The folder of a reconstruction."""
    if not (Path(path) / "state.npz").is_file():
        raise UserError(
            f"{flag}: {path} holds no reconstruction: it has no state.npz (give the folder that "
            "reconstruct wrote with --out)"
        )


def training(cfg: ConfigDict | Mapping[str, Any], prefix: str = "--config") -> None:
    """Every path that a training config names, an empty one is not looked at; and the packages."""
    extras.require("tensorboardX", *(("grain",) if cfg.get("loader") == "grain" else ()))
    if cfg.get("init_from"):
        networks = STARTS_FROM.get(cfg.get("task", ""), ())
        model(f"{prefix}.init_from", cfg["init_from"], *networks)
    for name, path in cfg.get("init", {}).items():
        if path:
            model(f"{prefix}.init.{name}", path, *(() if name == "drawing" else (name,)))
    for path in filter(None, cfg.get("data", "").split(",")):
        dataset(f"{prefix}.data", path)
    for key in ("data_encoded", "data_pictures"):
        for path in filter(None, cfg.get(key, "").split(",")):
            encoded(f"{prefix}.{key}", path)
