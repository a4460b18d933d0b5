"""A module's weights as one flat dict of arrays: {"input_blocks/1/res/conv_in/kernel": ...}.

Optimizers, checkpoints, sharding rules and weight files all speak of weights by path, so this is
the form they live in outside the modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array

FlatParams = dict[str, Array]
Module = TypeVar("Module", bound=nnx.Module)


class InitialKeys(nnx.Rngs):
    """Random keys for a network's first weights: those of `nnx.Rngs(seed)`, counted by Python.

    `nnx.Rngs` keeps its count in an array, which under `nnx.eval_shape` is traced, and each write
    to it walks all that was traced before: 4.8 s of the 6.0 that the released UNet's shapes took.
    """

    _draw: Callable[[], Array]

    def __init__(self, seed: int):
        key = jax.random.key(seed)
        self._draw = (jax.random.fold_in(key, number) for number in itertools.count()).__next__

    def __call__(self) -> Array:
        """The next key."""
        return self._draw()

    def params(self) -> Array:
        """The next key, as layers ask for it."""
        return self()


def split_params(module: Module) -> tuple[nnx.GraphDef[Module], FlatParams]:
    """Takes a module apart: its static definition and its weights by path."""
    return _split(module, lambda leaf: leaf[...])


def split_shapes(
    module: Module,
) -> tuple[nnx.GraphDef[Module], dict[str, jax.ShapeDtypeStruct]]:
    """`split_params` of a module from `nnx.eval_shape`, whose weights are shapes."""
    return _split(module, lambda leaf: leaf.get_value())


def _split(
    module: Module, value: Callable[[Any], Any]
) -> tuple[nnx.GraphDef[Module], dict[str, Any]]:
    graphdef, state = nnx.split(module, nnx.Param)
    return graphdef, {
        "/".join(map(str, path)): value(leaf) for path, leaf in nnx.to_flat_state(state)
    }


def merge_params(
    graphdef: nnx.GraphDef[Module], flat: Mapping[str, Array | jax.ShapeDtypeStruct]
) -> Module:
    """Puts a module together again; traceable, call it inside the jitted function."""
    items = []
    for name, value in flat.items():
        path = tuple(int(part) if part.isdigit() else part for part in name.split("/"))
        items.append((path, nnx.Param(value)))
    return nnx.merge(graphdef, nnx.from_flat_state(items))


def count_params(flat: FlatParams) -> int:
    """Number of weights."""
    return sum(int(value.size) for value in flat.values())
