"""Where a model folder is, and which networks its file holds; found out without JAX."""

from __future__ import annotations

from pathlib import Path

from iso3d_jax.errors import UserError

TINY = Path(__file__).parent / "tiny"
WEIGHTS = "model.safetensors"


def find_bundle(path: str | Path | None) -> Path:
    """The folder that holds model.json: the given one, its `model/`, or the shipped one (None)."""
    if path is None:
        path = TINY
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "model.json").exists():
            return folder
    if not path.exists():
        raise UserError(f"model folder not found: {path}")
    raise UserError(
        f"{path} holds no model: it has no model.json (a training folder gets one when it saves)"
    )


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
