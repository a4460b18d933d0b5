"""Trains a part of the model: the autoencoder, the image tower, stage 1 or stage 2.

    python -m iso3d_jax.train --config configs/stage1.py:tiny --workdir runs/stage1
    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

The same command goes on where a stopped run was. A workdir holds checkpoints/, the averaged weights
as a model folder model/, samples/, metrics.jsonl and tensorboard/.
"""

from iso3d_jax import command_line

flags = command_line.flags_for(__name__)

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
command_line.define_config_flag()


def main(_argv):
    cfg = command_line.get_config()
    from iso3d_jax.training.loop import fit
    from iso3d_jax.training.tasks import make_task

    fit(make_task(cfg), cfg, _WORKDIR.value)
    print(f"{_WORKDIR.value}/model holds the trained weights")


if __name__ == "__main__":
    command_line.run(main)
