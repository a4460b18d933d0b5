"""The table over runs and seeds, and the page with everybody's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iso3d_jax.evaluation.ablations.plan import RUNS
from iso3d_jax.evaluation.report import number, table
from iso3d_jax.pages import html
from iso3d_jax.pages.charts import Curve, lines

# key of a figure -> (heading, decimals)
COLUMNS = {
    "views/psnr": ("views: PSNR (dB)", 2),
    "views/mask_iou": ("mask IoU", 3),
    "views/embedding": ("embedding similarity", 3),
    "views/back_to_front": ("back / front", 3),
    "x0_db/t0980/right": ("x0 at t = 980 (dB)", 2),
    "x0_db/t0980/another_embedding": ("with another's embedding", 2),
    "scene/psnr": ("scene: PSNR (dB)", 2),
    "scene/mask_iou": ("mask IoU", 3),
    "scene/embedding": ("embedding similarity", 3),
    "scene/back_to_front": ("back / front", 3),
}


def over_seeds(each: Sequence[Mapping[str, float | None]]) -> dict[str, dict]:
    """Mean and sample standard deviation of each figure over seeds; what no seed knows is left out.

    One seed alone has no deviation.
    """
    keys = list(dict.fromkeys(key for figures in each for key in figures))
    summary = {}
    for key in keys:
        known = [v for f in each if (v := f.get(key)) is not None and np.isfinite(v)]
        if known:
            deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
            summary[key] = {"mean": float(np.mean(known)), "deviation": deviation, "n": len(known)}
    return summary


def cell(figure: Mapping | None, digits: int) -> str:
    """'12.30 ± 0.40', without the deviation where there is none."""
    if figure is None:
        return number(None)
    text = number(figure["mean"], digits)
    if figure["deviation"] is not None:
        text += f" ± {number(figure['deviation'], digits)}"
    return text


def make_table(report: dict) -> tuple[str, list[str], list[list[str]]]:
    """Caption, head and rows."""
    rows = {row["title"]: row["figures"] for row in report["runs"].values()} | report["baselines"]
    keys = [k for k in COLUMNS if any(k in figures for figures in rows.values())]
    body = [
        [title, *(cell(figures.get(k), COLUMNS[k][1]) for k in keys)]
        for title, figures in rows.items()
    ]
    data, seeds = report["data"], report["settings"]["seeds"]
    caption = (
        f"{data['objects']} objects with {data['views']} views each, scenes of {data['scenes']}; "
        f"mean ± standard deviation over {seeds} seeds"
    )
    return caption, ["run", *(COLUMNS[k][0] for k in keys)], body


def assemble(
    runs: Mapping[str, Sequence[dict]],
    baselines: Mapping[str, dict],
    losses: Mapping[str, Sequence[Curve]],
    facts: dict,
) -> dict:
    """The report: every figure of every seed, and the table's.

    Args:
      runs: figures of each seed, by run.
      baselines: figures, by name.
      losses: of each seed, by training; 'stage1' among them.
      facts: `title`, `protocol`, `data`, `settings`, `code`.
    """
    return facts | {
        "runs": {
            name: {"title": RUNS[name].title, "figures": over_seeds(each), "seeds": list(each)}
            for name, each in runs.items()
        },
        "baselines": {name: over_seeds([figures]) for name, figures in baselines.items()},
        "losses": losses,
    }


def markdown(report: dict) -> str:
    """The table and what it is of."""
    caption, head, rows = make_table(report)
    facts = [f"{k} {v}" for k, v in (report["data"] | report["settings"]).items()]
    facts.append("code " + report["code"].get("commit", report["code"].get("iso3d_jax", "")))
    return f"{caption}:\n\n{table(head, rows)}\n{'; '.join(facts)}.\n"


def write_page(
    path: Path,
    report: dict,
    given: np.ndarray,
    truth: np.ndarray | None,
    names: Sequence[str],
    shown: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
) -> Path:
    """The page: the table, then the objects with the views and scenes of every run.

    Args:
      given: the pictures [N, H, W, 3]. truth: true views [N, 4, H, W, 3].
      names: of the objects.
      shown: by run, for every seed, `views` [N, 4, H, W, 3] and `scene` [n, 4, H, W, 3], uint8.
    """
    nothing: dict[str, Any] = {"scene": ()}  # where no scenes were made
    seeds = [
        {RUNS[run].title: {**nothing, **each[k]} for run, each in shown.items()}
        for k in range(len(next(iter(shown.values()))))
    ]
    return html.write(
        path,
        "comparison.html",
        report=report,
        figures=make_table(report),
        curves=_curves(report["losses"]),
        given=given,
        truth=truth,
        names=names,
        seeds=seeds,
    )


def _curves(losses: Mapping[str, Sequence[Curve]]) -> list[str]:
    """Stage 1's loss, and beside it those of the runs that go on from it or do without."""
    titles = {run.training: run.title for run in reversed(RUNS.values())}
    after = {titles[name]: curves for name, curves in losses.items() if name != "stage1"}
    return [
        lines({"stage 1": losses.get("stage1", ())}, "loss of stage 1 by step"),
        lines(after, "loss of what follows; with EMA a step may see the reference view"),
    ]
