"""The mean of several models' weights, as model soups have it (Wortsman et al. 2022).

Models that were trained on from the same weights, on different data, often lie in one valley: their
mean does better than each of them. The small model that ships is such a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from iso3d_jax.errors import UserError
from iso3d_jax.weights import bundle


def average(models: Sequence[str | Path], out: str | Path) -> list[str]:
    """Writes the mean of the weights of model folders or training runs, in float32.

    Returns:
      What was averaged, a line.

    Raises:
      UserError: fewer than two models, or models of different configs or weights.
    """
    if len(models) < 2:
        raise UserError("--to average takes two or more --from, models of the same config")
    config = bundle.load_config(models[0])
    total = bundle.load_weights(models[0], tuple(bundle.NETWORKS))
    for other in models[1:]:
        if bundle.load_config(other) != config:
            raise UserError(f"{other} has another config than {models[0]}: their mean is no model")
        weights = bundle.load_weights(other, tuple(bundle.NETWORKS))
        for name, mine in total.items():
            shapes = [{k: v.shape for k, v in w.items()} for w in (mine, weights[name])]
            if shapes[0] != shapes[1]:
                raise UserError(f"the weights of '{name}' in {other} do not fit {models[0]}'s")
            total[name] = {
                k: jnp.asarray(v, jnp.float32) + jnp.asarray(weights[name][k], jnp.float32)
                for k, v in mine.items()
            }
    mean = {
        name: {k: v / len(models) for k, v in weights.items()}
        for name, weights in total.items()
        if weights
    }
    bundle.save_bundle(Path(out), config, mean, dtype=jnp.float32)
    return [f"the mean of {len(models)} models: {', '.join(mean)} of {config.name}"]
