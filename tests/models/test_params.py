"""A network's weights by path, and the keys of its first ones."""

import jax
from flax import nnx

from iso3d_jax.models.params import InitialKeys


def test_first_weights_are_those_of_flax():
    ours, flax = InitialKeys(3), nnx.Rngs(3)
    for _ in range(3):
        assert (jax.random.key_data(ours.params()) == jax.random.key_data(flax.params())).all()


def test_a_key_is_traced_in_as_many_operations_as_the_one_before():
    """`nnx.Rngs` writes its count into an array, which asks each time how all before it came."""

    def keys(count):
        def draw():
            ours = InitialKeys(0)
            return [ours.params() for _ in range(count)]

        return len(jax.make_jaxpr(draw)().jaxpr.eqns)

    assert keys(40) - keys(20) == keys(20) - keys(0) <= 60
