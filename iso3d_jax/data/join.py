"""Makes one data set of shards that were rendered apart.

    python -m iso3d_jax.data.render --assets MESHES --out DIR --shard 0/2     # here
    python -m iso3d_jax.data.render --assets MESHES --out DIR --shard 1/2     # or elsewhere
    python -m iso3d_jax.data.join --data DIR

Manifests alone are read: a million objects take a minute or two and little memory. What they make
is the same, bit for bit, as where one command rendered everything. DIR may be in a bucket.
With --drop_duplicates objects that look as an earlier one does are left out first, and the shards
that had them are written anew; for it `data.render --filters` must have named "duplicate".
"""

import time

from iso3d_jax.commands import command_line
from iso3d_jax.data import places
from iso3d_jax.data.multiview import joining

flags = command_line.flags_for(__name__)

_DATA = flags.DEFINE_string("data", None, "folder that data.render --out wrote", required=True)
_DROP = flags.DEFINE_boolean(
    "drop_duplicates", False, "leave out what looks as another object does"
)


def main(argv):
    """Joins and says how many objects each split has."""
    del argv
    start = time.time()
    root = places.place(_DATA.value)
    if _DROP.value:
        print(f"{joining.drop_duplicates(root)} objects look as another one does", flush=True)
    counts = joining.join_shards(root)
    left_out = counts.pop("left out")
    print(f"{', '.join(f'{s} {n}' for s, n in counts.items())} objects in {_DATA.value}")
    print(f"left out {left_out}, see skipped.txt in it; {time.time() - start:.0f} s in all")


if __name__ == "__main__":
    command_line.run(main)
