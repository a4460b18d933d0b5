"""Brings released weights here, and takes a model back to where it came from.

    python -m iso3d_jax.convert --from isotropic3d.ckpt --out models/isotropic3d
    python -m iso3d_jax.convert --from sd-2-1-base/ --from clip-vit-h.safetensors --out models/base
    python -m iso3d_jax.convert --from models/mine --to torch --out mine.ckpt
    python -m iso3d_jax.convert --from models/mine --to diffusers --out mine_diffusers
    python -m iso3d_jax.convert --from runs/stage2 --to compact --out models/small

Reads the checkpoints of Isotropic3D, MVDream and Stable Diffusion 2 (.ckpt, .pt, .safetensors),
diffusers' folders, and the CLIP vision towers of open_clip and transformers. --from is a file, a
folder, or a hub id owner/name, owner/name/file; several --from make one model. The architecture
is read off the weights; --arch gives what they cannot tell. docs/weights.md has all of it.
"""

from pathlib import Path

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import read_object

flags = command_line.flags_for(__name__)

_FROM = flags.DEFINE_multi_string(
    "from", None, "weights file, folder or hub id; may be repeated", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "folder to write; a .ckpt or .pt file with --to torch", required=True
)
_TO = flags.DEFINE_enum("to", "jax", ["jax", "torch", "diffusers", "compact"],
    "the layout to write; compact is our own with a byte a weight",
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
    arch = _read_arch(_ARCH.value)

    from iso3d_jax.core.progress import Progress
    from iso3d_jax.weights.convert import convert

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

    notes = convert(
        _FROM.value, _OUT.value, to=_TO.value, arch=arch, dtype=_DTYPE.value,
        leftovers=_LEFTOVERS.value, report=report,
    )  # fmt: skip
    for note in notes:
        print(note)
    print(f"wrote {_OUT.value}")


def _read_arch(path: str | None) -> dict:
    if path is None:
        return {}
    if not Path(path).is_file():
        raise UserError(f"--arch file not found: {path}")
    return read_object(path, 'it is to hold {"unet": {...}} and the like')


if __name__ == "__main__":
    command_line.run(main)
