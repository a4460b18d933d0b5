"""Weights from one layout to another, as the command does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import check_folder
from iso3d_jax.weights.folders import check_model
from iso3d_jax.weights.sources import check_place

LAYOUTS = ("jax", "torch", "diffusers", "compact")


def convert(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    to: str = "jax",
    arch: dict | None = None,
    dtype: str = "float32",
    leftovers: str | Path | None = None,
    report: Callable[[int, int, str], None] | None = None,
) -> list[str]:
    """Brings released weights here, or takes a model to another layout.

    Args:
      sources: files, folders or hub ids 'owner/name[/file]'; several make one model. For all
        but 'jax' a model folder.
      out: folder to write; a .ckpt or .pt file for 'torch'.
      to: one of `LAYOUTS`.
      arch: what shapes do not tell, as {'unet': {'num_head_channels': 64}}; for 'jax'.
      dtype: of the stored weights.
      leftovers: for 'torch', a checkpoint whose other keys are copied over.
      report: told bytes done, bytes in all, and the weight.

    Returns:
      Lines for people: what was found, what was left out.

    Raises:
      UserError: what is not there, not weights, or does not fit.
    """
    places = [str(s) for s in ([sources] if isinstance(sources, str | Path) else sources)]
    if to not in LAYOUTS:
        raise UserError(f"--to {to}: there is no such layout, only {', '.join(LAYOUTS)}")
    if to != "jax" and (arch or len(places) > 1):
        raise UserError(f"--to {to} takes one --from, a model folder, and no --arch")
    if leftovers and to != "torch":
        raise UserError("--leftovers goes with --to torch alone")
    for place in places:
        if to == "jax":
            check_place(place)
        else:
            _check_folder(place)
    check_folder(Path(out).parent if to == "torch" else out)
    if leftovers and not Path(leftovers).is_file():
        raise UserError(f"--leftovers {leftovers}: there is no such file")
    report = report or (lambda done, total, key: None)
    from iso3d_jax.weights import exporting  # these import JAX, which takes seconds
    from iso3d_jax.weights.importing import import_weights

    if to == "jax":
        return _describe(import_weights(places, out, arch or {}, dtype, report))
    if to == "torch":
        return exporting.export_torch(places[0], out, dtype, leftovers, report)
    if to == "diffusers":
        return exporting.export_diffusers(places[0], out, dtype, report)
    return exporting.export_compact(places[0], out)


def _check_folder(place: str) -> None:
    try:
        check_model(place)
    except UserError as error:
        raise UserError(f"--from: {error}") from None


def _describe(config) -> list[str]:
    """What an imported model is, in a line or two."""
    networks = [name for name in ("unet", "vae", "clip") if config.has(name)]
    notes = [f"{', '.join(networks)} of {config.name}"]
    if config.has("unet"):
        cameras = config.camera_encoding or "none learned yet"
        if sampled := config.sampling_camera_encoding:
            cameras += f", sampled with {sampled}"
        notes.append(
            f"cameras: {cameras}; predicts: {config.parameterization}; "
            f"pictures: {config.resolution} x {config.resolution}"
        )
    return notes
