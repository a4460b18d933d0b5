"""Brings released weights here, and takes a model back to where it came from.

    python -m iso3d_jax.convert --from isotropic3d.ckpt --out models/isotropic3d
    python -m iso3d_jax.convert --from sd-2-1-base/ --from clip-vit-h.safetensors --out models/base
    python -m iso3d_jax.convert --from models/mine --to torch --out mine.ckpt
    python -m iso3d_jax.convert --from models/mine --to diffusers --out mine_diffusers
    python -m iso3d_jax.convert --from runs/stage2 --to compact --out models/small
    python -m iso3d_jax.convert --from models/a --from models/b --to average --out models/mean

Reads the checkpoints of Isotropic3D, MVDream and Stable Diffusion 2 (.ckpt, .pt, .safetensors),
diffusers' folders, and the CLIP vision towers of open_clip and transformers. --from is a file, a
folder, or a hub id owner/name, owner/name/file; several --from make one model. The architecture
is read off the weights; --arch gives what they cannot tell. docs/weights.md has all of it.
"""

import json
from pathlib import Path

from iso3d_jax import command_line, paths
from iso3d_jax.errors import UserError

flags = command_line.flags_for(__name__)

_FROM = flags.DEFINE_multi_string(
    "from", None, "weights file, folder or hub id; may be repeated", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "folder to write; a .ckpt or .pt file with --to torch", required=True
)
_TO = flags.DEFINE_enum("to", "jax", ["jax", "torch", "diffusers", "compact", "average"],
    "the layout to write; compact is our own with a byte a weight, average the mean of several",
)  # fmt: skip
_ARCH = flags.DEFINE_string(
    "arch", None, 'JSON file with what shapes do not tell, as {"unet": {"num_head_channels": 64}}'
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the stored weights")
_LEFTOVERS = flags.DEFINE_string(
    "leftovers", None, "with --to torch: a checkpoint whose other keys (text tower) are copied over"
)


def main(argv):
    """Checks what was given, converts."""
    del argv
    several = len(_FROM.value) > 1 and _TO.value != "average"
    if _TO.value != "jax" and (several or _ARCH.value):
        raise UserError(f"--to {_TO.value} takes one --from, a model folder, and no --arch")
    if _LEFTOVERS.value and _TO.value != "torch":
        raise UserError("--leftovers goes with --to torch alone")
    arch = _read_arch(_ARCH.value)
    from iso3d_jax.weights.sources import check_place

    for place in _FROM.value:
        if _TO.value == "jax":
            check_place(place)
        else:
            paths.model("--from", place)
    if _LEFTOVERS.value:
        paths.file("--leftovers", _LEFTOVERS.value)

    from iso3d_jax.progress import Progress

    progress = None

    def report(done, total, key):
        nonlocal progress
        size = -(-total >> 20)  # MiB, rounded up
        if progress is None or done == 0:
            progress = Progress(size, "converting", unit="MiB")
        if done == total:
            progress.update(size)
            progress.close()
        elif done >> 20 < size:
            progress.update(done >> 20)

    if _TO.value == "jax":
        from iso3d_jax.weights.importing import import_weights

        config = import_weights(_FROM.value, _OUT.value, arch, _DTYPE.value, report)
        networks = [name for name in ("unet", "vae", "clip") if name in config]
        notes = [f"{', '.join(networks)} of {config.name}"]
        if "unet" in config:
            size = config.resolution
            cameras = config.get("camera_encoding", "none learned yet")
            if sampled := config.get("sampling_camera_encoding"):
                cameras += f", sampled with {sampled}"
            notes.append(
                f"cameras: {cameras}; predicts: {config.parameterization}; "
                f"pictures: {size} x {size}"
            )
    elif _TO.value == "torch":
        from iso3d_jax.weights.exporting import export_torch

        notes = export_torch(_FROM.value[0], _OUT.value, _DTYPE.value, _LEFTOVERS.value, report)
    elif _TO.value == "compact":
        from iso3d_jax.weights.exporting import export_compact

        notes = export_compact(_FROM.value[0], _OUT.value)
    elif _TO.value == "average":
        from iso3d_jax.weights.averaging import average

        notes = average(_FROM.value, _OUT.value)
    else:
        from iso3d_jax.weights.exporting import export_diffusers

        notes = export_diffusers(_FROM.value[0], _OUT.value, _DTYPE.value, report)
    for note in notes:
        print(note)
    print(f"wrote {_OUT.value}")


def _read_arch(path: str | None) -> dict:
    if path is None:
        return {}
    try:
        arch = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"--arch file not found: {path}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"--arch {path} is not a JSON file that can be read: {error}") from None
    if not isinstance(arch, dict):
        raise UserError(f'--arch {path} must be an object, as {{"unet": {{...}}}}')
    return arch


if __name__ == "__main__":
    command_line.run(main)
