"""The type checker that jaxtyping's import hook gives to every function while tests run."""

import collections.abc
import types
import typing

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype
from flax import nnx

# A whole number is given for a float, as Python's own rules for annotations (PEP 484) have it.
CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))
NUMBERS = bool | int | float | np.generic


def check(function):
    """Checks calls; as in all of `jax.numpy`, NumPy's arrays do for JAX's, numbers for scalars."""
    if isinstance(function, type):
        return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # of a name that is imported for type checkers alone
        return function
    function.__annotations__ = {name: widened(hint) for name, hint in hints.items()}
    return CHECK(function)


def widened(hint):
    """An annotation with what does for JAX's arrays beside each of them."""
    if isinstance(hint, type) and issubclass(hint, nnx.Module):
        return typing.Any  # a test gives a stand-in
    if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
        return typing.Any  # of its methods nothing can be asked at run time
    if hint is typing.Self:
        return typing.Any  # methods are checked one by one, without their class
    if hint is float:
        return float | np.floating | jax.Array
    if hint is int:
        return int | np.integer | jax.Array
    if hint is jax.Array:
        shape = jax.ShapeDtypeStruct  # in the place of weights, where there are none yet
        return jax.Array | np.ndarray | NUMBERS | shape
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        if hint.array_type is jax.Array:
            numpy = hint.dtype[np.ndarray, hint.dim_str]
            return typing.Union[hint, numpy, *([NUMBERS] if hint.dim_str in ("", "...") else [])]  # noqa: UP007
        return hint
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(widened, inner))]  # noqa: UP007
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable) and inner:
        return origin[tuple(part if part is ... else widened(part) for part in inner)]
    return hint
