"""Fills in the templates of all pages: each is one file with all in it, which needs no network.

Whatever a template is given is escaped, unless it is `Markup`. Its own filters and tests:

    {{ x | uri }}              a picture, array or file as a data: address
    {% if rows is with_words(k) %}  whether column k of rows of texts has words and not figures
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.images import to_uint8

_MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".glb": "model/gltf-binary",
}


def render(template: str, **values) -> Markup:
    """The text of a file of `templates/` with `values` in it."""
    return Markup(_ENVIRONMENT.get_template(template).render(values))


def write(path: str | os.PathLike, template: str, **values) -> Path:
    """Writes a page and returns its absolute path."""
    text = render(template, **values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path).resolve()


def uri(shown: Image.Image | np.ndarray | Path | Markup) -> Markup:
    """A data: address of a picture, [H, W, C] in [0, 1] or uint8, or of a file; one that is there
    already stays."""
    if isinstance(shown, Markup):
        return shown
    if isinstance(shown, Path):
        return _data_uri(shown.read_bytes(), _MIME[shown.suffix.lower()])
    if not isinstance(shown, Image.Image):
        shown = Image.fromarray(to_uint8(shown))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return _data_uri(buffer.getvalue(), "image/png")


def _data_uri(data: bytes, mime: str) -> Markup:
    return Markup(f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}")


def _has_words(rows: list[list[str]], column: int) -> bool:
    return any(row[column][:1].isalpha() for row in rows)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("iso3d_jax.pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    auto_reload=False,  # a run that takes days keeps the templates that it began with
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["uri"] = uri
_ENVIRONMENT.tests["with_words"] = _has_words
