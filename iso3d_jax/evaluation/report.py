"""What an evaluation found, as JSON and Markdown, with what is needed to do it again."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from iso3d_jax import __version__
from iso3d_jax.core.images import to_uint8
from iso3d_jax.evaluation.scores import METRICS, SHAPE_METRICS
from iso3d_jax.evaluation.views import ViewTask
from iso3d_jax.weights.bundle import find_bundle

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "trimesh")


def code_facts() -> dict[str, str]:
    """Versions of the packages, and the commit where the code is a git checkout."""
    facts = {"iso3d_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        try:
            git = ["git", "-C", str(root)]
            run = {"capture_output": True, "text": True, "check": True, "timeout": 20}
            commit = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
            changed = subprocess.run(
                [*git, "status", "--porcelain", "--untracked-files=no"], **run
            ).stdout
            facts["commit"] = commit + (" with changes" if changed.strip() else "")
        except (OSError, subprocess.SubprocessError):
            facts["commit"] = "unknown"
    device = jax.devices()[0]
    facts["device"] = f"{device.platform} {device.device_kind}"
    return facts


def model_facts(path: str | None, name: str) -> dict[str, str]:
    """Which model it is: where it was, its name, and digests of its two files."""
    folder = find_bundle(path)
    facts = {"path": path or "shipped with the package", "name": name}
    for file in ("model.json", "model.safetensors"):
        with open(folder / file, "rb") as stream:
            facts[f"sha256 of {file}"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return facts


def task_digest(task: ViewTask) -> str:
    """A digest of all that is asked and expected: names, pictures, cameras, true views."""
    digest = hashlib.sha256("\n".join(task.names).encode())
    for array in (task.pictures, task.truth):
        if array is not None:
            digest.update(to_uint8(array).tobytes())
    for array in (task.azimuth_deg, task.elevation_deg):
        digest.update(np.rint(np.asarray(array, np.float64) * 100).astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def choose_decimals(metric: str) -> int:
    """Decimals of a metric in tables."""
    return 2 if metric in ("psnr", "consistency") else 3


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def view_tables(report: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Caption, head and rows of each table about views."""
    answers = report["views"]
    metrics = [k for k in METRICS if k in next(iter(answers.values()))["mean"]["all"]]
    rows = []
    with_consistency = any("consistency" in row for row in answers.values())
    for name, row in answers.items():
        cells = [number(row["mean"]["all"][k], choose_decimals(k)) for k in metrics]
        if with_consistency:
            cells.append(number(row.get("consistency"), 2))
        rows.append([name, *cells])
    if "consistency_of_truth" in report:
        blank = ["–"] * len(metrics)
        rows.append(["the true views", *blank, number(report["consistency_of_truth"], 2)])
    head = ["answer", *(METRICS[k][0] for k in metrics)]
    count = report["data"]["objects"]
    note = f"{count} objects, {report['data']['views']} views each"
    if with_consistency:
        head.append(METRICS["consistency"][0])
        note += f"; consistency of {report['settings']['consistency_objects']} objects"
    tables = [(note, head, rows)]
    rows = []
    for name, row in answers.items():
        for metric in metrics:
            figures, digits = row["isotropy"][metric], choose_decimals(metric)
            rows.append(
                [
                    name,
                    METRICS[metric][0] if METRICS[metric][1] else f"1 - {METRICS[metric][0]}",
                    *(number(figures[k], digits) for k in ("front", "back")),
                    number(figures["back_to_front"], 3),
                    *(number(figures[k], digits) for k in ("spread", "spread_by_chance")),
                ]
            )
    head = ["answer", "score", "front", "back", "back / front", "spread", "spread by chance"]
    caption = (
        "Isotropy: views within 60 degrees of the picture's side, and 120 or more from it; the "
        "standard deviation over octants of azimuth, and what chance alone would give"
    )
    return [*tables, (caption, head, rows)]


def ablation_table(ablation: dict) -> tuple[str, list[str], list[list[str]]]:
    """Caption, head and rows of the ablation."""
    times = list(ablation["right"])
    rows = [[c.replace("_", " "), *(number(r[t], 2) for t in times)] for c, r in ablation.items()]
    caption = "One-step x0 of the latents from noise level t, dB; 0 is no better than their mean"
    return caption, ["given", *(f"t = {int(t[1:])}" for t in times)], rows


def sides_table(sides: dict) -> tuple[str, list[str], list[list[str]]]:
    """Caption, head and rows of how scores of meshes vary with the side they are seen from."""
    names = {
        "distance": "distance", "f_score": "F-score at 0.02",
        "normal_consistency": "normal consistency",
    }  # fmt: skip
    keys = ("front", "back", "back_to_front", "spread", "spread_by_chance")
    rows = [
        [answer, names[metric], *(number(figures[k], 4) for k in keys)]
        for answer, row in sides.items()
        for metric, figures in row.items()
    ]
    head = ["answer", "score", "front", "back", "back / front", "spread", "spread by chance"]
    caption = (
        "Isotropy of the surface seen from 16 sides: at most 60 degrees from the picture's, and "
        "120 or more from it; of the distance, less is better"
    )
    return caption, head, rows


def make_tables(report: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """All tables that a report has."""
    tables = view_tables(report) if "views" in report else []
    if report.get("ablation"):
        tables.append(ablation_table(report["ablation"]))
    if "shapes" in report:
        rows = [[n, *(number(r[k], 4) for k in SHAPE_METRICS)] for n, r in report["shapes"].items()]
        head = ["answer", *SHAPE_METRICS.values()]
        tables.append((f"{report['data']['objects']} meshes", head, rows))
    if "parts" in report:
        keys = [k for k in METRICS if any(k in row for row in report["parts"].values())]
        rows = [
            [n, *(number(r.get(k, np.nan), choose_decimals(k)) for k in keys)]
            for n, r in report["parts"].items()
        ]
        head = ["part", *(METRICS[k][0] for k in keys)]
        tables.append((f"{report['data']['objects']} objects, all their views", head, rows))
    if "sides" in report:
        tables.append(sides_table(report["sides"]))
    return tables


def markdown(report: dict) -> str:
    """All tables, and a last line that says of what."""
    parts = [f"{caption}:\n\n{table(head, rows)}" for caption, head, rows in make_tables(report)]
    facts = [f"{k} {v}" for k, v in report["data"].items()]
    facts += [f"{k} {v}" for k, v in report.get("settings", {}).items()]
    if "model" in report:
        facts.insert(0, f"model {report['model']['name']} ({report['model']['path']})")
    facts.append("code " + report["code"].get("commit", report["code"].get("iso3d_jax", "")))
    return "\n".join(parts) + "\n" + "; ".join(facts) + ".\n"
