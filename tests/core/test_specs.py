"""Frozen dataclasses from configs."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from iso3d_jax.core import specs


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    phases: tuple
    inner: Inner


def test_nested_values_and_lists():
    config = ConfigDict(dict(name="x", phases=[[1, 64], (2, 256)], inner=dict(rate=0.5)))
    spec = specs.make(Outer, config)
    assert spec == Outer("x", ((1, 64), (2, 256)), Inner(0.5, 3))
    assert isinstance(hash(spec), int)
    config.inner.rate = 0.1
    assert spec.inner.rate == 0.5


@pytest.mark.parametrize(
    "values, said",
    [
        (dict(name="x", phases=[], inner=dict(rate=1), extra=1), "Outer has no field extra"),
        (dict(name="x", phases=[], inner=dict(rate=1, pace=1)), "Inner has no field pace"),
        (dict(name="x", phases=[]), "inner"),
    ],
)
def test_a_field_too_many_or_too_few(values, said):
    with pytest.raises(TypeError, match=said):
        specs.make(Outer, values)
