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


@dataclass
class Page:
    """What a page shows; whatever is None or empty is left out.

    Attributes:
      title: heading of the page.
      lead: one or two sentences below it.
      picture: the picture as it was given, RGBA uint8 [H, W, 4].
      seen: the picture as the model saw it, float [H, W, 3] in [0, 1].
      views: the generated views, float [H, W, 3] in [0, 1] or uint8.
      view_labels: a caption for each view.
      views_text: how they were made.
      turntable: an MP4.
      turntable_text: what it shows.
      mesh: a GLB.
      front_deg: where the mesh's front is, degrees counter-clockwise from glTF's +Z; the viewer
        starts there.
      figures: rows of the table of figures.
      others: further pictures, each a name, RGBA uint8 [H, W, 4] and its views.
      notes: paragraphs that say what is what, and what to expect.
      footer: a last line.
    """

    title: str
    lead: str = ""
    picture: np.ndarray | None = None
    seen: np.ndarray | None = None
    views: Sequence[np.ndarray] = ()
    view_labels: Sequence[str] = ()
    views_text: str = "Drawn by the multi-view diffusion model from the picture's embedding alone."
    turntable: Path | None = None
    turntable_text: str = "The radiance field that score distillation made, rendered all round."
    mesh: Path | None = None
    front_deg: float = 0.0
    figures: Sequence[tuple[str, str]] = ()
    others: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray] | np.ndarray]] = ()
    notes: Sequence[str] = ()
    footer: str = ""


def write_page(page: Page, path: str | os.PathLike) -> Path:
    """Writes the page to `path` and returns its absolute path."""
    viewer = resources.files("iso3d_jax.pages").joinpath("vendor", "model-viewer-umd.min.js")
    return html.write(
        path,
        "reconstruction.html",
        page=page,
        picture=None if page.picture is None else _thumbnail(page.picture, 512),
        cut_out=page.picture is not None and bool(page.picture[..., 3].min() < 255),
        others=[(name, _thumbnail(shown, 192), views) for name, shown, views in page.others],
        viewer=Markup(viewer.read_text(encoding="utf-8")) if page.mesh else "",
    )


def _thumbnail(picture: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return image
