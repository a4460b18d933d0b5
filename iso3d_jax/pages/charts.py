"""Drawings of numbers for the pages, as SVG: bars by azimuth, and curves over steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from iso3d_jax.evaluation.report import number
from iso3d_jax.metrics.isotropy import OCTANTS
from iso3d_jax.pages import html

COLOURS = ("#1f5fa8", "#b54a14", "#24773f", "#8a3fa0", "#7a6a1f", "#b02a50")
Curve = Sequence[tuple[float, float]]  # (step, value), steps ascending


def bars(values: Sequence[float | None], title: str, digits: int) -> str:
    """A bar for each octant of azimuth, as SVG; the picture's side is in the middle."""
    order = [(k + OCTANTS // 2) % OCTANTS for k in range(OCTANTS)]
    known = [v for v in values if v is not None]
    low = min(0.0, *known) if known else 0.0
    span = max([*known, 1e-9]) - low or 1.0
    drawn = []
    for place, k in enumerate(order):
        degrees = (k * 360 // OCTANTS + 180) % 360 - 180
        value = values[k]
        height, label = 0.0, ""
        if value is not None:
            height, label = 84 * (value - low) / span, number(value, digits)
        drawn.append((8 + place * 44, degrees, height, label))
    return html.render("bars.html", bars=drawn, title=title)


def running_mean(values: Sequence[float] | Float[np.ndarray, " N"], width: int) -> np.ndarray:
    """The mean of each value and those at most `width // 2` before and after it."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([np.mean(window) for window in windows])


def lines(
    curves: Mapping[str, Sequence[Curve]], title: str, smooth: int = 5, digits: int = 2
) -> str:
    """Curves over steps: every repeat thin, and the mean of those of the longest kind thick.

    Args:
      curves: by name; several repeats (seeds) of each. Empty ones are left out.
      smooth: points of the running mean that is drawn.
    """
    drawn = {name: [c for c in repeats if len(c) > 1] for name, repeats in curves.items()}
    drawn = {name: repeats for name, repeats in drawn.items() if repeats}
    if not drawn:
        return ""
    smoothed = {
        name: [np.stack([np.array(c)[:, 0], running_mean(np.array(c)[:, 1], smooth)]) for c in r]
        for name, r in drawn.items()
    }
    every = np.concatenate([c for repeats in smoothed.values() for c in repeats], 1)
    (first, last), (low, high) = ((float(v.min()), float(v.max())) for v in every)
    wide, tall, left, top = 470, 200, 46, 10

    def across(step):
        return left + wide * (step - first) / max(last - first, 1e-9)

    def down(value):
        return top + tall * (high - value) / max(high - low, 1e-9)

    def points(curve: np.ndarray) -> str:
        return " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(across(curve[0]), down(curve[1]), strict=True)
        )

    def curve(name: str, repeats: list[np.ndarray], colour: str) -> dict:
        length = max(c.shape[1] for c in repeats)
        mean = np.mean([c for c in repeats if c.shape[1] == length], 0)
        each = [points(c) for c in repeats] if len(repeats) > 1 else []
        return {"name": name, "colour": colour, "repeats": each, "mean": points(mean)}

    return html.render(
        "lines.html",
        left=left, wide=wide, top=top, tall=tall, title=title,
        values=[(down(v), number(v, digits)) for v in np.linspace(low, high, 5)],
        steps=[(across(s), f"{s:.0f}") for s in np.linspace(first, last, 5)],
        curves=[curve(*item, c) for item, c in zip(smoothed.items(), itertools.cycle(COLOURS))],
    )  # fmt: skip
