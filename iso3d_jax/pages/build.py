"""Writes the result page: one HTML file with everything in it, for a file:// address, offline.

Pictures, video, mesh and the viewer (model-viewer, in `vendor/`) are embedded, so the file can be
moved or sent on its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from iso3d_jax.pages import html
from iso3d_jax.pages.orbits import Orbit

PANELS = ("Colour", "Normals", "Opacity")  # of a turntable's video, from left to right


@dataclass(frozen=True)
class Example:
    """An object that was made from given pictures, for comparison.

    Attributes:
      title, text: say what it is.
      views: some of the pictures, [H, W, 3].
      mesh: a GLB.
    """

    title: str
    text: str
    views: Sequence[np.ndarray]
    mesh: Path


@dataclass(frozen=True)
class Page:
    """What a page shows; whatever is None or empty is left out.

    Attributes:
      title: heading of the page.
      lead: one or two sentences below it.
      picture: the picture as it was given, RGBA uint8 [H, W, 4].
      seen: the picture as the model saw it, float [H, W, 3] in [0, 1].
      views: the generated or given views, float [H, W, 3] in [0, 1] or uint8.
      view_labels: a caption for each view.
      orbits: from where the mesh looks as in each view; a ring round it where there are none.
      views_text: how they were made.
      turntable: an MP4, or a .webp or .gif, which only moves.
      turntable_text: what it shows.
      panels: names of the pictures side by side in the video, each a square.
      mesh: a GLB.
      command: what made it.
      more: further commands, each what it does and the command.
      figures: rows of the table of figures.
      others: further pictures, each a name, RGBA uint8 [H, W, 4] and its views.
      example: an object from true views.
      notes: paragraphs that say what is what, and what to expect.
      footer: a last line.
    """

    title: str
    lead: str = ""
    picture: np.ndarray | None = None
    seen: np.ndarray | None = None
    views: Sequence[np.ndarray] = ()
    view_labels: Sequence[str] = ()
    orbits: Sequence[Orbit] = ()
    views_text: str = "Drawn by the multi-view diffusion model from the picture's embedding alone."
    turntable: Path | None = None
    turntable_text: str = "The radiance field that score distillation made."
    panels: Sequence[str] = PANELS
    mesh: Path | None = None
    command: str = ""
    more: Sequence[tuple[str, str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    others: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray] | np.ndarray]] = ()
    example: Example | None = None
    notes: Sequence[str] = ()
    footer: str = ""


def write_page(page: Page, path: str | os.PathLike) -> Path:
    """Writes the page to `path` and returns its absolute path."""
    viewer = resources.files("iso3d_jax.pages").joinpath("vendor", "model-viewer-umd.min.js")
    compared = _compared(page)
    farthest = max((orbit.radius or 0.0 for _, _, orbit, _ in compared), default=0.0)
    return html.write(
        path,
        "reconstruction.html",
        page=page,
        picture=None if page.picture is None else thumbnail(page.picture, 512),
        cut_out=is_cut_out(page.picture),
        compared=compared,
        moves_by_itself=page.turntable is not None and page.turntable.suffix != ".mp4",
        farthest=f"{2 * farthest:.4f}m" if farthest else "auto",  # auto would hold cameras nearer
        others=[(name, thumbnail(shown, 192), views) for name, shown, views in page.others],
        viewer=Markup(viewer.read_text(encoding="utf-8")) if page.mesh else "",
    )


def _compared(page: Page) -> list[tuple[str, Image.Image | np.ndarray, Orbit, bool]]:
    """What the mesh is shown beside: name, picture, from where, whether it is see-through."""
    count = len(page.views)
    orbits = page.orbits or [Orbit(360.0 * k / count) for k in range(count)]
    labels = page.view_labels or [f"view {k + 1}" for k in range(count)]
    found = []
    if page.picture is not None:
        shown = thumbnail(page.picture, 512) if page.seen is None else page.seen
        found.append(("The picture", shown, orbits[0] if orbits else Orbit(), page.seen is None))
    views = zip(labels, page.views, orbits, strict=True)
    found += [(label, view, orbit, False) for label, view, orbit in views]
    return found


def is_cut_out(picture: np.ndarray | None) -> bool:
    """Whether something of an RGBA picture is transparent."""
    return picture is not None and bool(picture[..., 3].min() < 255)


def thumbnail(picture: np.ndarray, side: int) -> Image.Image:
    """A picture [H, W, C], uint8, no larger than a side."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return image
