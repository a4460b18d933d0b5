"""A training run as its own process, small enough to be killed often.

python tests/training/small_run.py WORKDIR key=json ...

Exit statuses are those of `python -m iso3d_jax.train`.
"""

import json
import sys

from iso3d_jax import command_line
from iso3d_jax.errors import UserError
from iso3d_jax.training import distributed

if __name__ == "__main__":
    command_line.use_compilation_cache()
    try:
        distributed.initialize(None)
        from conftest import SmallTask, small_config

        from iso3d_jax.training.loop import fit

        changes = {k: json.loads(v) for k, v in (a.split("=", 1) for a in sys.argv[2:])}
        one_program = dict(single_view_share=0.0, reference_dropout=0.0)
        cfg = small_config(**one_program | changes)
        fit(SmallTask(cfg), cfg, sys.argv[1])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
