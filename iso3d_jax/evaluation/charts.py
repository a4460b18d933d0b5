"""Drawings of numbers for the pages, as SVG: bars by azimuth, and curves over steps."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from iso3d_jax.evaluation.isotropy import OCTANTS
from iso3d_jax.evaluation.report import number

COLOURS = ("#1f5fa8", "#c8541a", "#2c8a4b", "#8a3fa0", "#7a6a1f", "#b02a50")
Curve = Sequence[tuple[float, float]]  # (step, value), steps ascending


def bars(values: Sequence[float | None], title: str, digits: int) -> str:
    """A bar for each octant of azimuth, as SVG; the picture's side is in the middle."""
    order = [(k + OCTANTS // 2) % OCTANTS for k in range(OCTANTS)]
    known = [v for v in values if v is not None]
    low = min(0.0, *known) if known else 0.0
    span = max([*known, 1e-9]) - low or 1.0
    parts = []
    for place, k in enumerate(order):
        value, x = values[k], 8 + place * 44
        degrees = (k * 360 // OCTANTS + 180) % 360 - 180
        parts.append(f'<text x="{x + 18}" y="122" text-anchor="middle">{degrees}°</text>')
        if value is None:
            continue
        height = 84 * (value - low) / span
        parts.append(
            f'<rect x="{x}" y="{104 - height:.1f}" width="36" height="{height:.1f}" '
            'fill="#4d7fb8"/>'
            f'<text x="{x + 18}" y="{100 - height:.1f}" text-anchor="middle">'
            f"{number(value, digits)}</text>"
        )
    drawing = f'<svg width="368" height="128" font-size="10" role="img">{"".join(parts)}</svg>'
    return f"<figure>{drawing}<figcaption>{html.escape(title)}</figcaption></figure>"


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
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

    def points(curve: np.ndarray) -> str:
        x = left + wide * (curve[0] - first) / max(last - first, 1e-9)
        y = top + tall * (high - curve[1]) / max(high - low, 1e-9)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    parts = []
    for value in np.linspace(low, high, 5):
        y = top + tall * (high - value) / max(high - low, 1e-9)
        parts.append(
            f'<line x1="{left}" x2="{left + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>'
            f'<text x="{left - 5}" y="{y + 3:.1f}" text-anchor="end">{number(value, digits)}</text>'
        )
    for step in np.linspace(first, last, 5):
        x = left + wide * (step - first) / max(last - first, 1e-9)
        parts.append(
            f'<text x="{x:.1f}" y="{top + tall + 15}" text-anchor="middle">{step:.0f}</text>'
        )
    legend = []
    for k, (name, repeats) in enumerate(smoothed.items()):
        colour = COLOURS[k % len(COLOURS)]
        style = f'fill="none" stroke="{colour}"'
        if len(repeats) > 1:
            parts += [f'<polyline {style} opacity=".25" points="{points(c)}"/>' for c in repeats]
        length = max(c.shape[1] for c in repeats)
        mean = np.mean([c for c in repeats if c.shape[1] == length], 0)
        parts.append(f'<polyline {style} stroke-width="2" points="{points(mean)}"/>')
        legend.append(f'<span style="color:{colour}">&#9644; {html.escape(name)}</span>')
    drawing = (
        f'<svg width="{left + wide + 24}" height="{top + tall + 22}" font-size="10" '
        f'role="img">{"".join(parts)}</svg>'
    )
    return (
        f"<figure>{drawing}<figcaption>{html.escape(title)}<br>{' &nbsp; '.join(legend)}"
        "</figcaption></figure>"
    )
