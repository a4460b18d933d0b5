"""A folder of pictures, one reconstruction each: one model, the same compiled programs for all.

On several devices every device takes one object at a time, with its own copy of the model and its
own programs, until no picture is left; or all make one object together (`config.parallelism`).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import picture_folders
from iso3d_jax.data.pictures import load_picture
from iso3d_jax.reconstruction import loop, run, settings
from iso3d_jax.reconstruction import pictures as draw
from iso3d_jax.reconstruction.report_file import read_report
from iso3d_jax.reconstruction.spec import ReconstructionSpec


def find_pictures(folder: str | Path) -> dict[str, Path]:
    """The pictures of a folder by name, in order; see `data.picture_folders`.

    Raises:
      UserError: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; for one picture give --image")
    files = picture_folders.find_pictures(folder)
    return dict(zip(picture_folders.name_pictures(files), files, strict=True))


def is_finished(out: Path, metadata: dict) -> bool:
    """Whether a folder holds the finished result of this very run.

    Args:
      metadata: from `run.run_metadata`.
    """
    try:
        report = read_report(out)
    except UserError:
        return False
    ours = settings.comparable(metadata["config"], live=True)
    return (out / "mesh.glb").is_file() and all(
        (
            report.get("picture_sha256") == metadata["picture"],
            report.get("model") == metadata["model"],
            report.get("init") == metadata["init"],
            report.get("dtype") == metadata["dtype"],
            _read_config(report) == ours,
        )
    )


def _read_config(report: dict) -> dict | None:
    config = report.get("config")
    return settings.comparable(config, live=True) if isinstance(config, dict) else None


def reconstruct_all(
    model,
    pictures: dict[str, Path],
    out: str | Path,
    spec: ReconstructionSpec,
    *,
    model_id: str,
    init: str,
    reconstruct: Callable = run.reconstruct,
    load: Callable[[Path], np.ndarray] = load_picture,
) -> dict[str, str]:
    """Reconstructs every picture into a folder of its name; what is finished is left as it is.

    A picture that is refused, or whose optimisation fails, does not keep the others from theirs.
    `sheet.png` shows all that came out.

    Args:
      pictures: from `find_pictures`.
      spec: as of `run.reconstruct`.
      reconstruct: what makes one, with `run.reconstruct`'s arguments.
      load: reads a picture as RGBA.

    Returns:
      What went wrong, by name of the picture.

    Raises:
      loop.Interrupted: stopped; the same call goes on.
      OSError: the disk is full, which concerns all of them.
    """
    failed: dict[str, str] = {}
    queue, next_one = enumerate(pictures.items(), 1), threading.Lock()

    def work(model, programs: dict, stopped: list[int]) -> None:
        while not stopped:
            with next_one:
                count, (name, path) = next(queue, (0, ("", Path())))
            if not count:
                return
            one(count, name, path, model, programs)

    def one(count: int, name: str, path: Path, model, programs: dict) -> None:
        folder = Path(out) / name
        try:
            picture: np.ndarray = load(path)
            if is_finished(folder, run.run_metadata(model, picture, spec, model_id, init)):
                print(f"[{count}/{len(pictures)}] {name}: finished before")
                return
            print(f"[{count}/{len(pictures)}] {name}", flush=True)
            reconstruct(
                model, picture, folder, spec, model_id=model_id, init=init, programs=programs
            )
        except UserError as error:
            failed[name] = str(error)
            print(f"failed: {name}: {error}", file=sys.stderr, flush=True)

    def work_on(device, stopped: list[int]) -> None:
        with jax.default_device(device):
            try:
                work(on_device(model, device), {}, stopped)
            except Exception as error:  # the others stop at their next dispatch, and save
                stopped.append(getattr(error, "signum", 0))
                raise

    devices = jax.local_devices()[: len(pictures)]
    if len(devices) == 1 or spec.parallelism == "views":
        work(model, {}, [])
    else:
        _on_all(devices, work_on)
    _write_sheet(Path(out), [name for name in pictures if name not in failed], spec.views)
    return failed


def _on_all(devices: list, work_on: Callable) -> None:
    """Runs `work_on(device, stopped)` for all devices at once; the first cause is raised."""
    with loop.signals() as stopped, concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(work_on, device, stopped) for device in devices]
        errors = [e for e in (future.exception() for future in futures) if e is not None]
        errors.sort(key=lambda error: isinstance(error, loop.Interrupted))  # a cause comes first
        if errors or stopped:
            raise errors[0] if errors else loop.Interrupted(stopped[0])


def _write_sheet(out: Path, names: list[str], views: int) -> None:
    """One picture of all objects, a row each, in the order of the names."""
    sheets = [out / name / "contact_sheet.png" for name in names]
    sheets = [path for path in sheets if path.is_file()]
    if sheets:
        draw.sheet_of_sheets(out / "sheet.png", sheets, views)
        print(f"wrote {out / 'sheet.png'}: a row for each of {len(sheets)} objects")


def on_device(model, device):
    """The model with its networks' weights on one device."""
    networks = {
        field.name: jax.device_put(getattr(model, field.name), device)
        for field in dataclasses.fields(model)
        if field.name != "config"
    }
    return dataclasses.replace(model, **networks)
