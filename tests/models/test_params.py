"""A network's weights by path, and the keys of its first ones."""

import jax
import pytest
from flax import nnx

from iso3d_jax.models.params import InitialKeys
from iso3d_jax.models.registry import SECTIONS
from iso3d_jax.weights import bundle


def test_first_weights_are_those_of_flax():
    ours, flax = InitialKeys(3), nnx.Rngs(3)
    for _ in range(3):
        assert (jax.random.key_data(ours.params()) == jax.random.key_data(flax.params())).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_shapes_are_known_without_a_count_that_is_traced(name, monkeypatch):
    """Each write to such a count asks how all that was traced before it came about."""

    def refuse(*_):
        raise AssertionError("a count in an array")

    monkeypatch.setattr(nnx.RngStream, "__init__", refuse)
    assert bundle.abstract_network(name, bundle.load_config(None))[1]
