"""The page of an evaluation: tables, isotropy as bars, and the pictures, best and worst first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iso3d_jax.evaluation.report import choose_decimals, make_tables, number
from iso3d_jax.evaluation.scores import METRICS
from iso3d_jax.pages import html
from iso3d_jax.pages.charts import bars


def rank_objects(objects: Sequence[dict], metric: str, limit: int) -> tuple[list[int], list[int]]:
    """The best objects, best first, and the worst of the rest, worst first."""
    ranked = sorted(range(len(objects)), key=lambda i: objects[i]["scores"][metric], reverse=True)
    limit = min(limit, len(ranked))
    best = ranked[: (limit + 1) // 2]
    return best, ranked[::-1][: limit - len(best)]


def write_page(
    path: str | Path,
    report: dict,
    pictures: np.ndarray | None = None,
    answers: dict[str, np.ndarray] | None = None,
    limit: int = 40,
) -> Path:
    """Writes the page, one file with everything in it.

    Args:
      report: with `title`, tables and, for views, `objects` and `rank_by`.
      pictures: what the model was given, [N, H, W, 3].
      answers: rows of views to show, name to [N, V, H, W, 3].
      limit: objects shown, half of them the best, half the worst.

    Returns:
      The page's absolute path.
    """
    shown = {"report": report, "tables": make_tables(report), "groups": ()}
    if "views" in report:
        metric = report["rank_by"]
        shown["metric"] = METRICS[metric][0]
        shown["octants"] = [
            bars(row["isotropy"][metric]["octants"], name, choose_decimals(metric))
            for name, row in report["views"].items()
        ]
        if pictures is not None and answers is not None:
            best, worst = rank_objects(report["objects"], metric, limit)
            shown["groups"] = (("The best", best), ("The worst", worst))
            shown["narrow"] = len(next(iter(answers.values()))[0]) <= 4
            shown |= {"pictures": pictures, "answers": answers, "scores": _scores}
    return html.write(path, "evaluation.html", **shown)


def _scores(entry: dict) -> str:
    named = entry["scores"].items()
    return ", ".join(f"{METRICS[k][0]} {number(v, choose_decimals(k))}" for k, v in named)
