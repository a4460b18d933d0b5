"""Where a model folder is, and which networks its file holds; found out without JAX."""

from __future__ import annotations

import hashlib
from pathlib import Path

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.hub import fetch_model, is_hub_id

TINY = Path(__file__).parents[1] / "tiny" / "weights"
WEIGHTS = "model.safetensors"


def find_bundle(path: str | Path | None) -> Path:
    """The folder that holds model.json: the given one, its `model/`, or the shipped one (None).

    A text 'owner/name' that is no path here is fetched from the hub (`hub.fetch_model`).
    """
    if isinstance(path, str) and is_hub_id(path):
        return fetch_model(path)
    path = TINY if path is None else Path(path)
    for folder in (path, path / "model"):
        if (folder / "model.json").exists():
            return folder
    if not path.exists():
        raise UserError(f"model folder not found: {path}")
    raise UserError(
        f"{path} holds no model: it has no model.json (a training folder gets one when it saves)"
    )


def model_digest(path: str | Path | None) -> str:
    """Which weights a model folder holds: 16 hex digits of its numbers and its weights' ends."""
    folder = find_bundle(path)
    digest = hashlib.sha256((folder / "model.json").read_bytes())
    with open(folder / WEIGHTS, "rb") as file:
        digest.update(file.read(1 << 20))
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read() + str(size).encode())
    return digest.hexdigest()[:16]


def check_model(path: str | Path | None, *networks: str) -> set[str]:
    """The networks that a model folder holds, read from its file's header.

    Args:
      path: as `find_bundle` takes it.
      networks: that must be among them.

    Raises:
      UserError: no such folder, a missing or damaged file, or a network that it lacks.
    """
    folder = find_bundle(path)
    held = {key.partition("/")[0] for key in open_weights(folder)}
    for name in networks:
        if name not in held:
            raise UserError(f"the model in {folder} has no weights for '{name}'")
    return held


def open_weights(folder: Path):
    """The tensors of a model folder's file, to be read one by one.

    Raises:
      UserError: no such file, or a damaged one.
    """
    from iso3d_jax.weights.safetensors_file import open_safetensors

    try:
        return open_safetensors(folder / WEIGHTS)
    except OSError as error:
        raise UserError(
            f"the model's weights cannot be read from {folder / WEIGHTS}: {error}"
        ) from None
