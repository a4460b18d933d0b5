"""Shards of a data set rendered by an Apache Beam pipeline: on one machine, Flink, Spark, Dataflow.

Each worker makes whole shards by the very function that `data.render --shard` calls, so what comes
out is the same as from any other engine, and a shard that a runner tries again goes on where it
broke off.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.data.multiview.shards import Shard

_MARK = "UserError: "


def render_shard(shard: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """What a worker does: `render.render_dataset` of one shard, as in "3/100"."""
    from iso3d_jax.data import render  # imported where it runs

    how, chosen = render.How(**arguments["how"]), render.Chosen(**arguments["chosen"])
    return render.render_dataset(**{**arguments, "how": how, "chosen": chosen, "shard": shard})


def run(options: str, shards: Sequence[Shard], arguments: Mapping[str, Any]) -> None:
    """Renders shards of a data set, and returns when all are done.

    Args:
      options: of the pipeline, as on a command line; "" runs it here.
      shards: which.
      arguments: of `render.render_dataset` but for `shard`, as what JSON can hold.

    Raises:
      UserError: Beam is not installed, does not know an option, or a worker refused its shard.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise extras.missing("apache_beam") from None
    try:
        known = PipelineOptions(shlex.split(options))
    except (ValueError, SystemExit) as e:
        raise UserError(f"--beam {shorten(options, 80)}: not options of Beam ({e})") from None
    names = [f"{shard.index}/{shard.count}" for shard in shards]
    try:
        with apache_beam.Pipeline(options=known) as pipeline:
            shown = pipeline | apache_beam.Create(names) | apache_beam.Reshuffle()
            _ = shown | apache_beam.Map(render_shard, dict(arguments))
    except Exception as e:  # runners pack what a worker raises into their own
        said = str(e)
        if not isinstance(e, UserError) and _MARK not in said:
            raise
        sentence = said.rpartition(_MARK)[2].splitlines()[0]
        raise UserError(sentence.partition(" [while running")[0]) from None
