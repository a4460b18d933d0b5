"""Writes the result page: one HTML file with everything in it, for a file:// address, offline.

Pictures, video, mesh and the viewer (model-viewer, in `vendor/`) are embedded, so the file can be
moved or sent on its own.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from iso3d_jax.files import atomic_path

_MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".glb": "model/gltf-binary",
}


@dataclass
class Page:
    """What a page shows; whatever is None or empty is left out.

    Attributes:
      title: heading of the page.
      lead: one or two sentences below it.
      picture: the picture as it was given, RGBA uint8 [H, W, 4].
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
    views: Sequence[np.ndarray] = ()
    view_labels: Sequence[str] = ()
    views_text: str = "Drawn by the multi-view diffusion model from the picture's embedding alone."
    turntable: Path | None = None
    turntable_text: str = "The radiance field that score distillation made, rendered all round."
    mesh: Path | None = None
    front_deg: float = 0.0
    figures: Sequence[tuple[str, str]] = ()
    others: Sequence[tuple[str, np.ndarray, Sequence[np.ndarray]]] = ()
    notes: Sequence[str] = ()
    footer: str = ""


def write_page(page: Page, path: str | os.PathLike) -> Path:
    """Writes the page to `path` and returns its absolute path."""
    folder = resources.files("iso3d_jax.page")
    text = folder.joinpath("template.html").read_text(encoding="utf-8")
    scripts = ""
    if page.mesh is not None:
        viewer = folder.joinpath("vendor", "model-viewer-umd.min.js").read_text(encoding="utf-8")
        scripts = f"<script>{viewer}</script>"
    blocks = {
        "title": html.escape(page.title),
        "lead": html.escape(page.lead),
        "num_views_a_row": str(min(max(len(page.views), 1), 4)),
        "footer": html.escape(page.footer),
        "scripts": scripts,
        "body": "\n".join([_first(page), _rest(page), _others(page)]),
    }
    for name, value in blocks.items():
        text = text.replace("{{" + name + "}}", value)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path).resolve()


def _first(page: Page) -> str:
    """The picture and the views."""
    cards = []
    if page.picture is not None:
        image = Image.fromarray(page.picture)
        image.thumbnail((512, 512))
        cards.append(
            _card(
                "1. The picture",
                "What you gave.",
                f'<figure class="stage checks">{image_tag(image, "The picture")}</figure>',
            )
        )
    if len(page.views):
        figures = [
            f'<figure><div class="stage">{image_tag(_as_image(view), label)}</div>'
            f"<figcaption>{html.escape(label)}</figcaption></figure>"
            for view, label in zip(page.views, _labels(page), strict=True)
        ]
        cards.append(
            _card(
                "2. Views",
                page.views_text,
                f'<div class="grid views">{"".join(figures)}</div>',
            )
        )
    return f'<section class="grid first">{"".join(cards)}</section>' if cards else ""


def _rest(page: Page) -> str:
    """Turntable and figures in one column, mesh and notes in the other."""
    columns = [_turntable(page) + _figures(page), _mesh(page) + _notes(page)]
    columns = [f'<div class="column">{cards}</div>' for cards in columns if cards]
    return f'<section class="grid pair">{"".join(columns)}</section>' if columns else ""


def _others(page: Page) -> str:
    """Further pictures, each beside the views that the model drew of it."""
    rows = []
    for name, picture, views in page.others:
        image = Image.fromarray(picture)
        image.thumbnail((192, 192))
        cells = [f'<div class="stage checks">{image_tag(image, name)}</div>']
        cells += [f'<div class="stage">{image_tag(_as_image(view), name)}</div>' for view in views]
        cells = [f"<figure>{cell}</figure>" for cell in cells]
        rows.append(f'<div class="other">{"".join(cells)}</div>')
    if not rows:
        return ""
    text = (
        "Each row is a picture and four views, a quarter turn apart; from the picture's embedding "
        "alone, as they came out."
    )
    card = _card("5. More pictures", text, f'<div class="others">{"".join(rows)}</div>')
    return f"<section>{card}</section>"


def _turntable(page: Page) -> str:
    if page.turntable is None:
        return ""
    video = (
        f'<video src="{_file_uri(page.turntable)}" autoplay loop muted playsinline '
        'onclick="this.paused ? this.play() : this.pause()" '
        'aria-label="Turntable of the object"></video>'
    )
    return _card("3. Turntable", page.turntable_text, f'<div class="stage">{video}</div>')


def _mesh(page: Page) -> str:
    if page.mesh is None:
        return ""
    uri, name = _file_uri(page.mesh), html.escape(page.mesh.name)
    size = page.mesh.stat().st_size / 1e6
    viewer = (
        f'<model-viewer id="mesh" alt="The mesh" src="{uri}" camera-controls '
        f'camera-orbit="{page.front_deg + 35:g}deg 72deg auto" interaction-prompt="none" '
        'touch-action="pan-y" shadow-intensity="0.5" shadow-softness="1" exposure="0.9" '
        'tone-mapping="neutral"><div slot="progress-bar"></div></model-viewer>'
    )
    link = f'<a href="{uri}" download="{name}">{name}</a> ({size:.1f} MB)'
    return _card(
        "4. Mesh",
        "Drag to turn it, scroll to come closer, right-drag to move it.",
        f'<div class="stage square">{viewer}</div><p class="what">As a file: {link}</p>',
    )


def _figures(page: Page) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in page.figures
    )
    return f'<div class="card"><h2>Figures</h2><table>{rows}</table></div>' if rows else ""


def _notes(page: Page) -> str:
    paragraphs = "".join(f"<p>{html.escape(note)}</p>" for note in page.notes)
    return (
        f'<div class="card notes"><h2>What to expect</h2>{paragraphs}</div>' if paragraphs else ""
    )


def _card(heading: str, what: str, content: str) -> str:
    return (
        f'<div class="card"><h2>{html.escape(heading)}</h2>'
        f'<p class="what">{html.escape(what)}</p>{content}</div>'
    )


def _labels(page: Page) -> Sequence[str]:
    return page.view_labels or [f"view {k + 1}" for k in range(len(page.views))]


def _as_image(view: np.ndarray) -> Image.Image:
    if view.dtype != np.uint8:
        view = np.rint(np.clip(view, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(view)


def image_tag(image: Image.Image, alt: str) -> str:
    """An <img> with the picture inside it, as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f'<img src="{_data_uri(buffer.getvalue(), "image/png")}" alt="{html.escape(alt)}">'


def _file_uri(path: Path) -> str:
    return _data_uri(path.read_bytes(), _MIME[path.suffix.lower()])


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
