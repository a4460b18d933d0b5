"""Trains a part of the model: the autoencoder, the image tower, stage 1 or stage 2.

    python -m iso3d_jax.train --config configs/stage1.py:tiny --workdir runs/stage1
    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

The same command goes on where a stopped run was. A workdir holds checkpoints/, the averaged weights
as a model folder model/, samples/, metrics.jsonl and tensorboard/.

On several machines every one runs this command with --distributed and the same --workdir on shared
storage; launch/ has a script for each platform. SIGTERM saves and exits with status 143, and
75 says that another process of the run is gone: start again on both.
"""

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError

flags = command_line.flags_for(__name__)

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (needed to train)")
flags.DEFINE_alias("out", "workdir")  # what the other commands call it
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", None, "join the run's other processes (default: where the environment says so)"
)
_PROFILE = flags.DEFINE_integer("profile", 0, "trace so many steps to profile/", 0, 10_000)
_WANDB = flags.DEFINE_string("wandb", None, "Weights & Biases project that gets the numbers too")
_COMPILE_FOR = flags.DEFINE_string(
    "compile_for",
    None,
    "do not train: compile for chips such as v5p:4x4x4 or h100:8, print memory, time and cost",
)
_PRICE = flags.DEFINE_float("price", None, "dollars a chip and hour, for --compile_for", 0, 1e6)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"],
    "of the computation, in place of the config's; weights that are trained and sums are float32",
)  # fmt: skip
command_line.define_config_flag()


def main(_argv):
    """Trains, or says what training would need."""
    cfg = command_line.get_config()
    from iso3d_jax.training import run

    if _COMPILE_FOR.value:
        from iso3d_jax.planning import compile_for

        compile_for.prepare_environment(_COMPILE_FOR.value)
        cfg = run.with_dtype(cfg, _DTYPE.value)
        print(compile_for.report(compile_for.settle(cfg), _COMPILE_FOR.value, _PRICE.value))
        return
    if not _WORKDIR.value:
        raise UserError("--workdir is required")
    model = run.train(
        cfg, _WORKDIR.value, dtype=_DTYPE.value, distributed=_DISTRIBUTED.value,
        profile_steps=_PROFILE.value, wandb_project=_WANDB.value,
    )  # fmt: skip
    print(f"{model} holds the trained weights")


if __name__ == "__main__":
    command_line.run(main)
