"""Small networks with every weight drawn: nothing at zero hides what feeds it, nothing compiles."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from iso3d_jax.models.params import merge_params, split_shapes


def drawn(build, seed=0):
    """The module that `build()` would make, with weights drawn in numpy.

    Matrices keep the size of what goes through them; vectors are small numbers, and those called
    `scale` about one.
    """
    graphdef, shapes = split_shapes(nnx.eval_shape(build))
    draw = np.random.default_rng(seed).standard_normal
    weights = {}
    for name, leaf in sorted(shapes.items()):
        value = draw(leaf.shape)
        value *= 0.1 if len(leaf.shape) < 2 else np.prod(leaf.shape[:-1]) ** -0.5
        weights[name] = jnp.asarray(value + name.endswith("scale"), leaf.dtype)
    return merge_params(graphdef, weights)
