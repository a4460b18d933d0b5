"""A model folder as a zip in parts of a bounded size, for what takes no large files.

`model.zip.000`, `model.zip.001` and so on, one after another, are the zip of the folder's files:
`cat model.zip.* > model.zip` and `unzip` put it together as well as `join_parts` does.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path, make_folder
from iso3d_jax.weights.folders import WEIGHTS, find_bundle

NAME = "model.zip"
MOST = 15_900_000  # bytes of a part
FILES = ("model.json", WEIGHTS)


def write_parts(model: str | Path, out: str | Path, most: int = MOST) -> list[Path]:
    """Writes a model folder's parts, in the place of those that are there.

    Args:
      model: its folder, best of a byte a weight (`compact.py`); such bytes become a tenth fewer.
      most: bytes of a part.

    Returns:
      The files.
    """
    folder, out = find_bundle(model), make_folder(out)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped:
        for name in FILES:
            zipped.write(folder / name, name)
    content = whole.getbuffer()
    files = []
    for number, start in enumerate(range(0, len(content), most)):
        files.append(out / f"{NAME}.{number:03d}")
        with atomic_path(files[-1]) as temporary:
            temporary.write_bytes(content[start : start + most])
    for file in find_parts(out):
        if file not in files:
            file.unlink()
    return files


def find_parts(folder: str | Path) -> list[Path]:
    """The parts in a folder, in order."""
    return sorted(Path(folder).glob(f"{NAME}.[0-9][0-9][0-9]"))


def join_parts(folder: str | Path, out: str | Path) -> Path:
    """Makes the model folder that parts are of.

    Args:
      folder: of the parts.
      out: of the model.

    Raises:
      UserError: there are none, or they do not fit each other.
    """
    parts = find_parts(folder)
    if not parts:
        raise UserError(f"{folder} holds no parts of a model, {NAME}.000 and so on")
    try:
        content = b"".join(part.read_bytes() for part in parts)
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            found = {name: zipped.read(name) for name in FILES}
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise UserError(
            f"the {len(parts)} parts in {folder} are no whole model ({shorten(error)}): one is "
            "missing or of another model"
        ) from None
    out = make_folder(out)
    for name in reversed(FILES):  # model.json last: with it the folder is a model
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(found[name])
    return out
