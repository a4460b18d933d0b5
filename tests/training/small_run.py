"""A training run as its own process, small enough to be killed often.

python tests/training/small_run.py WORKDIR key=json ...

Says at its end how many programs it compiled that were not in the cache. Exit statuses are those
of `python -m iso3d_jax.train`.
"""

import json
import sys
from pathlib import Path

import jax

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.training import distributed

if __name__ == "__main__":
    command_line.use_compilation_cache()
    compiled = []
    jax.monitoring.register_event_listener(
        lambda event, **_: compiled.append(event) if event.endswith("cache_misses") else None
    )
    try:
        distributed.initialize(None)
        from iso3d_jax.training.loop import fit

        sys.path.insert(0, str(Path(__file__).parents[2]))
        from tests.small_training import ONE_PROGRAM, SmallTask, small_config

        changes = {k: json.loads(v) for k, v in (a.split("=", 1) for a in sys.argv[2:])}
        cfg = small_config(**ONE_PROGRAM | changes)
        fit(SmallTask(cfg), sys.argv[1])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        print(f"compiled {len(compiled)} new programs", file=sys.stderr)
