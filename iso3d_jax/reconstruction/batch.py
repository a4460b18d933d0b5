"""A folder of pictures, one reconstruction each: one model, the same compiled programs for all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from iso3d_jax.data.pictures import load_picture
from iso3d_jax.errors import UserError
from iso3d_jax.reconstruction import run

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def find_pictures(folder: str | Path) -> dict[str, Path]:
    """The pictures of a folder by name, in order; what shares a name keeps its suffix.

    Raises:
      UserError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; for one picture give --image")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"--images {folder} holds no picture ({', '.join(SUFFIXES)})")
    stems = [p.stem for p in files]
    return {p.stem if stems.count(p.stem) == 1 else p.name: p for p in files}


def is_finished(out: Path, about: dict) -> bool:
    """Whether a folder holds the finished result of this very run.

    Args:
      about: from `run.about_run`.
    """
    try:
        report = json.loads((out / "report.json").read_text())
    except (OSError, ValueError):
        return False
    ours = run.comparable_config(about["config"])
    return (out / "mesh.glb").is_file() and all(
        (
            report.get("picture_sha256") == about["picture"],
            report.get("model") == about["model"],
            report.get("init") == about["init"],
            run.comparable_config(report.get("config", {})) == ours,
        )
    )


def reconstruct_all(
    model,
    pictures: dict[str, Path],
    out: str | Path,
    cfg: ConfigDict,
    *,
    model_id: str,
    init: str,
    reconstruct: Callable = run.reconstruct,
) -> dict[str, str]:
    """Reconstructs every picture into a folder of its name; what is finished is left as it is.

    A picture that is refused, or whose optimisation fails, does not keep the others from theirs.

    Args:
      pictures: from `find_pictures`.
      reconstruct: what makes one, with `run.reconstruct`'s arguments.

    Returns:
      What went wrong, by name of the picture.

    Raises:
      loop.Interrupted: stopped; the same call goes on.
      OSError: the disk is full, which concerns all of them.
    """
    programs: dict = {}
    failed: dict[str, str] = {}
    for count, (name, path) in enumerate(pictures.items(), 1):
        folder = Path(out) / name
        try:
            picture: np.ndarray = load_picture(path)
            if is_finished(folder, run.about_run(model, picture, cfg, model_id, init)):
                print(f"[{count}/{len(pictures)}] {name}: finished before")
                continue
            print(f"[{count}/{len(pictures)}] {name}", flush=True)
            reconstruct(
                model, picture, folder, cfg, model_id=model_id, init=init, programs=programs
            )
        except UserError as error:
            failed[name] = str(error)
            print(f"failed: {name}: {error}", file=sys.stderr, flush=True)
    return failed
