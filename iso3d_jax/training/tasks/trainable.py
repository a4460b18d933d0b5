"""Which weights are trained: all, those of attention, or low-rank changes of them (LoRA).

`refine` is all but what the UNet's prior slot holds of another training (`models/registry.py`):
there it saw every view of an object at every step, which the stages do not.

LoRA (Hu et al. 2021, equation 3): a kernel W of attention becomes W + (alpha / r) A B with A random
and B zero at the start; only A and B are trained. They are weights by path as all others,
`.../to_q/lora_a` beside `.../to_q/kernel`, and are added to their kernels before the network runs,
so neither the network nor a model folder knows of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from iso3d_jax.core.errors import UserError
from iso3d_jax.models import registry
from iso3d_jax.models.params import FlatParams
from iso3d_jax.training.spec import StageSpec

_ATTENTION = re.compile(r"/attn[12]/to_(q|k|v|out)/")


def add_lora(params: FlatParams, cfg: StageSpec) -> FlatParams:
    """`params` with `lora_a` [in, r] and `lora_b` [r, out] beside every kernel of attention."""
    if cfg.trainable != "lora":
        return params
    rank = cfg.lora_rank
    added = dict(params)
    for i, path in enumerate(sorted(params)):
        if not (_ATTENTION.search(path) and path.endswith("/kernel")):
            continue
        size_in, size_out = params[path].shape
        layer = path.removesuffix("kernel")
        key = jax.random.fold_in(jax.random.key(cfg.seed), i)
        added[layer + "lora_a"] = jax.random.normal(key, (size_in, rank)) / size_in**0.5
        added[layer + "lora_b"] = jnp.zeros((rank, size_out))
    return added


def trained_paths(params: Iterable[str], cfg: StageSpec) -> list[str]:
    """Paths of the weights that `cfg.trainable` names.

    Raises:
      UserError: a network without attention.
    """
    kind = cfg.trainable
    if kind == "all":
        return sorted(params)
    if kind == "lora":
        paths = [path for path in params if path.endswith(("/lora_a", "/lora_b"))]
    elif kind == "refine":
        prior = registry.find_by_numbers("unet", cfg.model.network("unet")).prior
        paths = [path for path in params if not (prior and path.startswith(prior.prefix))]
    else:
        paths = [path for path in params if _ATTENTION.search(path)]
    if not paths:
        raise UserError(f"trainable is '{kind}', but the network has no attention")
    return sorted(paths)


def merge_lora(params: FlatParams, cfg: StageSpec) -> FlatParams:
    """The network's own weights, low-rank changes added to their kernels."""
    if cfg.trainable != "lora":
        return params
    scale = cfg.lora_alpha / cfg.lora_rank
    merged = {}
    for path, value in params.items():
        if path.endswith(("/lora_a", "/lora_b")):
            continue
        layer = path.removesuffix("kernel")
        if path.endswith("/kernel") and layer + "lora_a" in params:
            value = value + scale * (params[layer + "lora_a"] @ params[layer + "lora_b"])
        merged[path] = value
    return merged
