"""What training adds to the keys of a state dict, taken off again before layouts are recognised.

| added by | what |
| --- | --- |
| DistributedDataParallel, DeepSpeed | `module.` before all keys, or before those of one network |
| torch.compile | `_orig_mod.` |
| FSDP, activation checkpointing | `_fsdp_wrapped_module.`, `_checkpoint_wrapped_module.` |
| Lightning's strategies | `_forward_module.` |
| a trainer's own module | `model.`, `net.`, `unet.` and the like before all keys |
| averaging (EMA) | a second copy under `ema.`, `model_ema.`, `ema_model.` ... |
| single files of Stable Diffusion | `v_pred`, `ztsnr`: empty tensors that mark how it was trained |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.weights.tensors import LazyTensor

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|"
    r"_forward_module)\."
)
_AVERAGES = re.compile(
    r"(?:(?:ema|model_ema|ema_model|module_ema|ema_unet|unet_ema|averaged_model|online_model)\.)"
    r"(?:(?:ema_model|shadow_params|module|model)\.(?!diffusion_model\.))*"
)
_HOLDERS = ("model.", "net.", "network.", "unet.", "vae.", "denoiser.", "image_encoder.")
_MARKERS = ("v_pred", "ztsnr")
# Keys by which a layout is recognised (`conversion.find_parts`): where one stands at the
# beginning, what comes before the others is no holder's name.
_KNOWN = re.compile(
    r"(?:model\.diffusion_model|first_stage_model|down_blocks\.0\.resnets|encoder\.down_blocks|"
    r"vision_model\.embeddings|visual)\."
)


class Cleaned(NamedTuple):
    """A state dict under the keys of its layout, and the marker keys that were in it."""

    tensors: dict[str, LazyTensor]
    markers: frozenset[str]


def clean_keys(tensors: Mapping[str, LazyTensor], what: str) -> Cleaned:
    """Takes off what trainers add.

    An average beside the weights is left out, as the released code reads the weights; where there
    is nothing else it is what is read.

    Args:
      tensors: by the file's keys.
      what: the file's name, for the message.

    Raises:
      UserError: two keys become the same.
    """
    named = _rename(tensors, lambda key: _WRAPPERS.sub("", key), what)
    markers = frozenset(key for key in _MARKERS if key in named)
    named = {key: tensor for key, tensor in named.items() if key not in markers}
    averages = {key for key in named if _AVERAGES.match(key)}
    rest = {key: tensor for key, tensor in named.items() if key not in averages}
    if averages and _recognisable(rest):
        # latent-diffusion's own copy is named in its layout's leftovers
        named = {k: t for k, t in named.items() if k in rest or k.startswith("model_ema.")}
    elif averages:
        only = {key: named[key] for key in averages if _AVERAGES.sub("", key, count=1)}
        renamed = _rename(only, lambda key: _AVERAGES.sub("", key, count=1), what)
        if _recognisable(renamed):
            named = renamed
    return Cleaned(_unhold(named, what), markers)


def _recognisable(tensors: Mapping[str, LazyTensor]) -> bool:
    return any(_KNOWN.match(_bare(key)) for key in tensors)


def _bare(key: str) -> str:
    """A key without the names of holders, as far as a layout begins after them."""
    while not _KNOWN.match(key):
        holder = next((h for h in _HOLDERS if key.startswith(h)), None)
        if holder is None:
            return key
        key = key.removeprefix(holder)
    return key


def _unhold(tensors: dict[str, LazyTensor], what: str) -> dict[str, LazyTensor]:
    """Takes holders' names off while all keys have the same and no layout is recognised."""
    while tensors and not any(_KNOWN.match(key) for key in tensors):
        first = next(iter(tensors))
        holder = next((h for h in _HOLDERS if first.startswith(h)), None)
        if holder is None or not all(key.startswith(holder) for key in tensors):
            break
        tensors = _rename(tensors, lambda key, holder=holder: key.removeprefix(holder), what)
    return tensors


def _rename(tensors: Mapping[str, LazyTensor], name, what: str) -> dict[str, LazyTensor]:
    renamed: dict[str, LazyTensor] = {}
    for key, tensor in tensors.items():
        short = name(key)
        if short in renamed:
            raise UserError(
                f"{what} has '{shorten(short)}' twice, once with the prefix of a trainer: take one "
                "of the two out"
            )
        renamed[short] = tensor
    return renamed
