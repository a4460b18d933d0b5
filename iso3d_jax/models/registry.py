"""Which network a section of a model's config stands for.

The networks of the method are here from the start. A package beside them registers its own under
the entries that tell them apart (`register`); it is imported when a config has an entry that the
method's network does not know, so nothing here imports it and no user has to.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.clip import CLIPConfig, CLIPVisionTower
from iso3d_jax.models.params import FlatParams
from iso3d_jax.models.unet import MultiViewUNet, UNetConfig
from iso3d_jax.models.vae import AutoencoderKL, VAEConfig

# Modules that register networks when they are imported.
EXTENSIONS = ("iso3d_jax.tiny.register",)


class PriorWeights(NamedTuple):
    """The weights in a UNet's prior slot that another training made.

    Attributes:
      prefix: what their paths start with; `trainable="refine"` leaves these as they are.
      load: brings them from a model folder, by their paths without the prefix; empty where the
        folder has none.
      build: makes the network of these weights alone from the UNet's numbers and the width of an
        embedding; called with embeddings [B, E] and cameras [B, V, 16], it gives coarse pictures
        [B, V, S, S, 4], premultiplied RGBA.
    """

    prefix: str
    load: Callable[[str | Path | None], FlatParams]
    build: Callable[[Any, int], nnx.Module]


class Network(NamedTuple):
    """A kind of network: `module(config, rngs=, dtype=)` of an instance of the dataclass `config`.

    `prior` is None where nothing that is trained elsewhere belongs into it.
    """

    module: Callable[..., nnx.Module]
    config: type
    prior: PriorWeights | None = None


_ORDINARY = {
    "unet": Network(MultiViewUNet, UNetConfig),
    "vae": Network(AutoencoderKL, VAEConfig),
    "clip": Network(CLIPVisionTower, CLIPConfig),
}
_OTHERS: dict[str, dict[str, Network]] = {section: {} for section in _ORDINARY}
SECTIONS = tuple(_ORDINARY)


def register(
    section: str,
    tells: Collection[str],
    module: Callable[..., nnx.Module],
    config: type,
    prior: PriorWeights | None = None,
) -> None:
    """Makes another network known.

    Args:
      section: of a model's config: one of `SECTIONS`.
      tells: entries of the section; one of them says that it is this network.
      module: makes the network, called as `module(config, rngs=, dtype=)`.
      config: dataclass of the section's entries.
      prior: the weights in it that another training makes, if any.

    Raises:
      UserError: no such section.
    """
    _check(section)
    _OTHERS[section] |= dict.fromkeys(tells, Network(module, config, prior))


def find(section: str, entries: Collection[str]) -> Network:
    """The network that a section with these entries stands for.

    The method's own where none of the entries tells another; what it does not know is for the
    caller to refuse.

    Raises:
      UserError: no such section.
    """
    _check(section)
    ordinary = _ORDINARY[section]
    if set(entries) <= {field.name for field in dataclasses.fields(ordinary.config)}:
        return ordinary
    for name in EXTENSIONS:
        importlib.import_module(name)
    others = _OTHERS[section]
    return next((network for entry, network in others.items() if entry in entries), ordinary)


def find_by_numbers(section: str, numbers: Any) -> Network:
    """The network that an instance of its dataclass is the numbers of.

    Raises:
      UserError: no such section.
    """
    _check(section)
    for name in EXTENSIONS if type(numbers) is not _ORDINARY[section].config else ():
        importlib.import_module(name)
    networks = (_ORDINARY[section], *_OTHERS[section].values())
    return next(network for network in networks if network.config is type(numbers))


def _check(section: str) -> None:
    if section not in _ORDINARY:
        raise UserError(f"there is no network '{section}': known are {', '.join(SECTIONS)}")
