"""The page of an evaluation: tables, isotropy as bars, and the pictures, best and worst first."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iso3d_jax.data.grids import to_image
from iso3d_jax.evaluation.charts import bars
from iso3d_jax.evaluation.report import digits_of, number, tables_of
from iso3d_jax.evaluation.scores import METRICS
from iso3d_jax.files import atomic_path
from iso3d_jax.page import build

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
  color: #1d2126; background: #f5f6f8; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; background: #fff; margin: .4rem 0 1.4rem; }
th, td { padding: .3rem .7rem; border: 1px solid #dde1e6; text-align: right; }
th.t, td.t, td:first-child { text-align: left; }
caption { text-align: left; padding: .3rem 0; color: #59636e; }
.object { background: #fff; border: 1px solid #dde1e6; border-radius: 6px; margin: .7rem 0;
  padding: .6rem .9rem; } .object h3 { font-size: 1rem; margin: 0 0 .4rem; font-weight: 600; }
.object h3 span { color: #59636e; font-weight: 400; }
.row { display: flex; align-items: center; gap: 4px; margin: 3px 0; flex-wrap: wrap; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(530px, 1fr)); gap: 0 1rem; }
.row i { width: 86px; text-align: center; font-style: normal; color: #59636e; font-size: .85em; }
.row b { width: 9rem; font-weight: 400; color: #59636e; flex: none; }
img { width: 84px; height: 84px; border: 1px solid #eceef1; }
.bars { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figcaption { color: #59636e; font-size: .9em; }
p.facts { color: #59636e; overflow-wrap: anywhere; }
.wide { overflow-x: auto; font-size: .84em; } .wide :is(td, th) { padding: .3rem .4rem; }
.wide td { white-space: nowrap; } .wide td:first-child { white-space: normal; min-width: 9rem; }
.gap { width: 1rem; flex: none; } summary { cursor: pointer; }
"""


def image_tag(picture: np.ndarray, alt: str) -> str:
    """A picture [H, W, 3] in [0, 1] inside the page."""
    return build.image_tag(to_image(np.asarray(picture)), alt)


def order_of(objects: Sequence[dict], metric: str, limit: int) -> tuple[list[int], list[int]]:
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
    body = [f"<h1>{html.escape(report['title'])}</h1>"]
    body += [table_html(*table) for table in tables_of(report)]
    if "views" in report:
        body.append(_isotropy(report))
        if pictures is not None and answers is not None:
            body.append(_objects(report, pictures, answers, limit))
    body.append(facts_html(report))
    return write_html(path, report["title"], "".join(body))


def table_html(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    left = [k == 0 or _words(rows, k) for k in range(len(head))]
    cells = "".join(_cell(c, "th", left=left[k]) for k, c in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(_cell(c, "td", left=left[k]) for k, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><tr>{cells}</tr>{lines}</table>"


def _words(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column has words, which stand on the left; figures stand on the right."""
    return any(row[column][:1].isalpha() for row in rows)


def _cell(text: str, tag: str, *, left: bool) -> str:
    return f"<{tag}{' class=t' if left else ''}>{html.escape(text)}</{tag}>"


def facts_html(report: dict) -> str:
    """What was measured and with what, in small print."""
    parts = []
    for heading in ("protocol", "model", "data", "settings", "code"):
        if heading in report:
            facts = report[heading]
            text = (
                facts if isinstance(facts, str) else "; ".join(f"{k} {v}" for k, v in facts.items())
            )
            parts.append(f'<p class="facts"><b>{heading}</b>: {html.escape(text)}</p>')
    return "".join(parts)


def write_html(path: str | Path, title: str, body: str) -> Path:
    """Writes a page in this module's style; returns its absolute path."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path).resolve()


def _isotropy(report: dict) -> str:
    metric = report["rank_by"]
    figures = [
        bars(row["isotropy"][metric]["octants"], name, digits_of(metric))
        for name, row in report["views"].items()
    ]
    return (
        f"<h2>{html.escape(METRICS[metric][0])} by azimuth from the picture’s side</h2>"
        f'<div class="bars">{"".join(figures)}</div>'
    )


def _objects(report: dict, pictures, answers: dict, limit: int) -> str:
    metric, objects = report["rank_by"], report["objects"]
    best, worst = order_of(objects, metric, limit)
    parts = []
    for heading, chosen in (("The best", best), ("The worst", worst)):
        if not chosen:
            continue
        narrow = len(next(iter(answers.values()))[0]) <= 4
        parts.append(
            f"<h2>{heading}, by {html.escape(METRICS[metric][0])}</h2>"
            f'<div class="{"two" if narrow else "one"}">'
        )
        for i in chosen:
            entry = objects[i]
            scores = ", ".join(
                f"{METRICS[k][0]} {number(v, digits_of(k))}" for k, v in entry["scores"].items()
            )
            given = image_tag(pictures[i], f"the picture of {entry['name']}")
            angles = "".join(f"<i>{azimuth:.0f}°</i>" for azimuth in entry.get("azimuth_deg", ()))
            rows = [
                f'<div class="row"><b>picture</b>{given}</div>',
                f'<div class="row"><b>azimuth from it</b>{angles}</div>',
            ] + [
                f'<div class="row"><b>{html.escape(name)}</b>'
                + "".join(image_tag(v, f"{name} of {entry['name']}") for v in views[i])
                + "</div>"
                for name, views in answers.items()
            ]
            parts.append(
                f'<div class="object"><h3>{html.escape(entry["name"])} <span>{html.escape(scores)};'
                f" nearest training object {html.escape(entry['nearest'])}</span></h3>"
                f"{''.join(rows)}</div>"
            )
        parts.append("</div>")
    return "".join(parts)
