"""The page of a finished reconstruction, from what lies in its folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iso3d_jax.core.files import readable_name
from iso3d_jax.core.progress import duration
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.pages.build import Example, Page, write_page
from iso3d_jax.pages.captions import describe_cameras, first_cameras, label_views, pick_some
from iso3d_jax.pages.orbits import Orbit, orbit_of
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.pictures import load_input
from iso3d_jax.reconstruction.report_file import read_report

_MODES = {
    "sds": "The radiance field that score distillation made.",
    "views": "A draft fitted to the views.",
}


def write_run_page(
    folder: str | os.PathLike,
    *,
    picture_name: str = "",
    model_name: str = "",
    resolution: int = 0,
    command: str = "",
    others: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray] | np.ndarray]] = (),
    example: Example | None = None,
) -> Path:
    """Writes `index.html` into a folder that `iso3d_jax.reconstruct` has finished.

    Args:
      folder: with input.png and views.npz, or pictures.npz; with the turntable, mesh.glb and
        report.json.
      picture_name: what to call the picture.
      model_name: what to call the model.
      resolution: the model's, in pixels; small ones get a word of warning.
      command: what made it.
      others: further pictures and their views, as `Page` has them.
      example: an object from true views to show beside it.

    Returns:
      The page's absolute path.
    """
    folder = Path(folder)
    report = read_report(folder)
    posed = draft.load_given(folder)
    if posed is not None:
        page = _given_page(folder, report, posed, picture_name, command)
        return write_page(page, folder / "index.html")
    views = draft.load_views(folder / draft.VIEWS)[0]
    seen = draft.load_prepared(folder / draft.VIEWS)
    cameras = first_cameras(folder, len(views))
    name = readable_name(picture_name) or "a picture"
    page = Page(
        title="One picture to a 3D object",
        lead=(
            f"Made from {name} by iso3d_jax: first views from all sides, then a radiance field "
            "whose every side the same diffusion model approves of, then a mesh."
        ),
        command=command,
        more=_exports(folder),
        picture=load_input(folder),
        seen=seen,
        views=list(views),
        view_labels=label_views(folder, len(views)),
        orbits=() if cameras is None else _orbits(*cameras),
        turntable=folder / report.get("turntable", "turntable.mp4"),
        turntable_text=_MODES.get(report["mode"], _MODES["sds"]),
        mesh=folder / "mesh.glb",
        figures=_figures(report, model_name, resolution),
        others=others,
        example=example,
        notes=_notes(resolution),
        footer=f"{_versions(report)}. This page needs no network.",
    )
    return write_page(page, folder / "index.html")


def _given_page(
    folder: Path, report: dict, posed: PosedPictures, picture_name: str, command: str
) -> Page:
    """The page of a run from given pictures with cameras."""
    name = readable_name(picture_name)
    shown = pick_some(len(posed))
    views = posed.on_white()
    return Page(
        title="Pictures to a 3D object",
        lead=(
            f"Made{f' from {name}' if name else ''} by iso3d_jax: a radiance field fitted to "
            f"{posed.source}, then a mesh. These pictures were given: no model drew anything."
        ),
        views=[views[k] for k in shown],
        view_labels=describe_cameras(posed.c2w[shown]),
        orbits=_orbits(posed.c2w[shown], posed.fov_deg[shown]),
        command=command,
        more=_exports(folder),
        views_text=f"Given with their cameras; {len(shown)} of {len(posed)} are shown, on white.",
        turntable=folder / report.get("turntable", "turntable.mp4"),
        turntable_text="The radiance field that was fitted to the pictures.",
        mesh=folder / "mesh.glb",
        figures=_figures(report, "", 0),
        notes=[
            "The object can be no better than its pictures and cameras: sides that no picture "
            "shows are guesses, and light that was on the object is painted on it.",
        ],
        footer=f"{_versions(report)}. This page needs no network.",
    )


def _orbits(c2w: np.ndarray, fov_deg: np.ndarray) -> list[Orbit]:
    return [orbit_of(*camera) for camera in zip(c2w, fov_deg, strict=True)]


def _exports(folder: Path) -> list[tuple[str, str]]:
    """Commands that write the mesh in other forms."""
    run = shlex.quote(readable_name(folder))
    return [
        ("The mesh for other programs: obj, ply, stl, 3mf, usdz.",
         f"iso3d export --run {run} --format obj"),
    ]  # fmt: skip


def _figures(report: dict, model_name: str, resolution: int) -> list[tuple[str, str]]:
    seconds = {k: v for k, v in report["seconds"].items() if isinstance(v, int | float)}
    rows = []
    if model_name:
        pixels = f", {resolution}×{resolution} pixels" if resolution else ""
        rows.append(("Model", model_name + pixels))
    rows.append(("Time in all", duration(sum(seconds.values()))))
    rows += [(f"· {name}", duration(value)) for name, value in seconds.items() if value >= 0.5]
    rows.append(("Iterations", f"{report['iterations']:,}"))
    given = report.get("given")
    if given:
        rows.append(("Pictures", f"{given['pictures']}, {given['side']}×{given['side']} pixels"))
        rows.append((f"Field beside {given['of_pictures']} of them", f"{given['psnr_db']:.1f} dB"))
    mesh = report["mesh"]
    rows.append(("Mesh", f"{mesh['faces']:,} triangles"))
    if "silhouette_iou" in mesh:
        rows.append(("Mesh and field: silhouettes’ overlap", f"{mesh['silhouette_iou']:.3f}"))
    if "psnr_db" in mesh:
        beside = f"{mesh['psnr_db']:.1f} dB, mask IoU {mesh['mask_iou']:.3f}"
        rows.append(("Mesh beside the field, 8 views", beside))
    if "as_optimised" in mesh:
        soft = "{psnr_db:.1f} dB, mask IoU {mask_iou:.3f}".format(**mesh["as_optimised"])
        rows.append(("· before the field’s edge was sharpened", soft))
    rows.append(("Seed", str(report["seed"])))
    device = " ".join(dict.fromkeys(report["device"].split()))  # "cpu cpu" is "cpu"
    rows.append(("Device", f"{device}, {os.cpu_count()} cores"))
    return rows


def _notes(resolution: int) -> list[str]:
    notes = [
        "The views come first and cost seconds: if they do not look like the object, neither will "
        "the mesh. Another seed draws others, most of all with more steps and a higher temperature "
        "(python -m iso3d_jax.sample).",
        "The model sees only an embedding of the picture, not its pixels (that is Isotropic3D’s "
        "idea), so colours and shape follow the picture, and details may not.",
    ]
    if 0 < resolution <= 128:
        notes.append(
            f"This model works at {resolution}×{resolution} pixels and has seen a few hundred "
            "pieces of furniture: expect coarse shapes and soft colours. The full-size model goes "
            "the same road at 256×256."
        )
    return notes


def _versions(report: dict) -> str:
    versions = report.get("versions", {})
    return ", ".join(f"{k} {versions[k]}" for k in ("iso3d_jax", "jax", "python") if k in versions)
