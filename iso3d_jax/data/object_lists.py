"""Lists of objects and what is known of them: uid files and metadata as Objaverse publishes them.

A list is a text file of one uid a line, a CSV whose first column is the uid, or JSON: a list of
uids, or an object whose keys are uids or whose values are lists of them (the LVIS categories).
Metadata is JSON, an object of one object a uid, in a file or in all files of a folder. Both may
end in .gz. An object's uid is its file's name without folder and suffix.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from etils import epath

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.data import places

# Names of Creative Commons licences as Sketchfab, and with it Objaverse, gives them: version 4.0.
_PARTS = re.compile(r"^(?:cc[- ])?by(-nc)?(-sa|-nd)?$")
_WORDS = (("attribution", "by"), ("non-?commercial", "-nc"), ("share-?alike", "-sa"),
          ("no-?derivat", "-nd"))  # fmt: skip


def spdx_name(text: str) -> str:
    """SPDX name of a licence as a list of objects has it; the text itself where it is unknown."""
    plain = text.strip().lower()
    if plain in ("cc0", "cc-0", "cc0-1.0") or "public domain" in plain:
        return "CC0-1.0"
    if "creative commons" in plain:
        plain = "".join(part for word, part in _WORDS if re.search(word, plain))
    if match := _PARTS.match(plain):
        return f"CC-BY{(match[1] or '').upper()}{(match[2] or '').upper()}-4.0"
    return text.strip() or "unknown"


class Known(NamedTuple):
    """What metadata says of an object; "" where it says nothing."""

    title: str = ""
    category: str = ""
    creator: str = ""
    license: str = ""


def _read(file: epath.Path) -> str:
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as e:
        raise UserError(f"the list {file} cannot be read: {shorten(e)}") from None


def _read_json(file: epath.Path) -> Any:
    try:
        return json.loads(_read(file))
    except (ValueError, RecursionError) as e:
        raise UserError(f"the list {file} is damaged: {shorten(e)}") from None


def read_uids(path: str) -> set[str]:
    """The uids of a list.

    Raises:
      UserError: it cannot be read, or holds none.
    """
    file = places.place(path)
    name = file.name.removesuffix(".gz")
    if name.endswith(".json"):
        content = _read_json(file)
        if isinstance(content, dict) and any(isinstance(v, list) for v in content.values()):
            content = [uid for uids in content.values() if isinstance(uids, list) for uid in uids]
        found = {_uid(text) for text in content} if isinstance(content, (list, dict)) else set()
    elif name.endswith(".csv"):
        found = {_uid(row[0]) for row in csv.reader(io.StringIO(_read(file))) if row}
    else:
        found = {_uid(line) for line in _read(file).splitlines()}
    found.discard("")
    if not found:
        raise UserError(f"the list {path} holds no uids: one a line, or a list of JSON")
    return found


def _uid(text: Any) -> str:
    """The uid in a line, which may also be a path of the file."""
    name = str(text).strip().replace("\\", "/").rpartition("/")[2]
    return re.sub(r"\.(glb|gltf|obj|ply|stl|off|zip)$", "", name)


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    root = places.place(path)
    files = [root]
    if root.is_dir():
        names = sorted(places.names(root))
        files = [root / n for n in names if n.removesuffix(".gz").endswith(".json")]
    if not files or not files[0].exists():
        raise UserError(f"--metadata {path}: there is no such file, or no JSON in the folder")
    for file in files:
        content = _read_json(file)
        if not isinstance(content, dict):
            raise UserError(f"--metadata {file}: it is no JSON object of one object a uid")
        yield from content.items()


def read_metadata(path: str, uids: Collection[str]) -> dict[str, Known]:
    """What is known of some objects, by uid; one file is in memory at a time.

    Raises:
      UserError: it cannot be read or is of another kind.
    """
    found = {}
    for key, entry in _entries(path):
        uid = _uid(key)
        if uid in uids and isinstance(entry, dict):
            found[uid] = Known(
                title=_text(entry.get("name")),
                category=_text(entry.get("categories")),
                creator=_text(entry.get("user")),
                license=spdx_name(_text(entry.get("license"))),
            )
    return found


def _text(value: Any) -> str:
    """A text, or the name that an object, or the first of a list, has."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("displayName") or value.get("name") or value.get("username") or ""
    text = str(value or "").encode("utf-8", "replace").decode()
    return " ".join(text.split())[:200]
