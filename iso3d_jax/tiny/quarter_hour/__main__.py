"""Trains a model of 128x128 pixels and 69 million weights in ten minutes of one GPU.

    python -m iso3d_jax.tiny.quarter_hour --data data/quarter_hour.zip --out out/quarter_hour

`iso3d_jax.tiny.quarter_hour.pack` makes the file of data. In order: the autoencoder, the image
tower, stage 1, stage 2, the decoder on sampled views, each with its share of --seconds, and scores
on held-out objects of each data set. The first steps of a part are timed, which says how many it
gets; schedule.json has what was chosen, and the same command goes on with it after it was killed.

--out gets at most eight files of 16 MB: the model in parts (after stage 1 the first whole one), for
which `iso3d_jax.tiny.quarter_hour.join` makes a model folder; table.md; schedule.json; and
details.zip, the numbers of all steps. Checkpoints, some gigabytes, are in --workdir.
"""

from iso3d_jax.commands import command_line

flags = command_line.flags_for(__name__)

_DATA = flags.DEFINE_string("data", None, "the packed file", required=True)
_OUT = flags.DEFINE_string("out", None, "folder of the results", required=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs/quarter_hour", "folder of the checkpoints")
_SECONDS = flags.DEFINE_float("seconds", 600.0, "of all parts together", 1.0, 1e6)
_SEED = flags.DEFINE_integer("seed", 0, "of all draws", 0, command_line.MOST)
_TINY = flags.DEFINE_bool("tiny", False, "networks of 32x32 pixels and three steps each: a try")


def main(_argv):
    """Trains, scores, prints the table."""
    from iso3d_jax.commands import paths

    paths.file("--data", _DATA.value)
    from iso3d_jax.tiny.quarter_hour.run import run

    print(
        run(
            _DATA.value, _OUT.value, _WORKDIR.value, seconds=_SECONDS.value, seed=_SEED.value,
            toy=_TINY.value,
        )
    )  # fmt: skip


if __name__ == "__main__":
    command_line.run(main)
