"""report.json of a finished reconstruction, checked where it is read."""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import Any

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import need, read_object

FILE = "report.json"


def provenance(metadata: dict[str, Any]) -> dict[str, Any]:
    """Where a mesh comes from, to be kept in its file.

    Args:
      metadata: of the run, `state.load_metadata`.
    """
    return {
        "generator": f"iso3d_jax {importlib.metadata.version('iso3d_jax')}",
        "model": metadata.get("model", ""),
        "seed": metadata["config"].get("seed", 0),
        "picture_sha256": metadata.get("picture", ""),
    }


def read_report(folder: str | Path) -> dict[str, Any]:
    """What a run noted of itself when it was finished.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no finished reconstruction: {FILE} is missing")
    remedy = "delete it, and the same reconstruct command writes it again"
    report = read_object(path, remedy, finite=False)
    for key, kind in (("mode", str), ("device", str), ("seed", int), ("iterations", int)):
        need(report, key, kind, path)
    seconds = need(report, "seconds", dict, path)
    for key in seconds:
        if key != "of_optimisation":
            need(seconds, key, float, path, least=0)
    need(report, "versions", dict, path, default={})
    given = need(report, "given", dict, path, default={})
    for key in ("pictures", "side", "of_pictures") if given else ():
        need(given, key, int, path, least=1)
    if given:
        need(given, "psnr_db", float, path)
    mesh = need(report, "mesh", dict, path)
    need(mesh, "threshold", float, path, least=0)
    need(mesh, "faces", int, path, least=0)
    if "psnr_db" in mesh or "mask_iou" in mesh:
        _agreement(mesh, path)
    need(mesh, "silhouette_iou", float, path, default=0.0)
    if "as_optimised" in mesh:
        _agreement(need(mesh, "as_optimised", dict, path), path)
    return report


def _agreement(facts: dict[str, Any], path: Path) -> None:
    for key in ("psnr_db", "mask_iou"):
        need(facts, key, float, path, least=-math.inf, most=math.inf)
