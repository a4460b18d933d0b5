"""A coarse map of what each view shows, drawn from the embedding and the view's camera.

Stable Diffusion's layers take the embedding and the camera as vectors that are the same for all
pixels; that a chair's back is at the left of this view, a convolutional network has to work out
from those vectors and the frame's border. A large pretrained network does. A small one, trained
from nothing, learned colours and proportions that way and ignored the cameras, though a plain
two-layer network draws different sides from the same two vectors after a few hundred steps. So
small models are given such a network's map beside the noisy latents.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Layout(nnx.Module):
    """`__call__(token [B, E], camera [B, V, 16]) -> [B, V, size, size, channels]`."""

    def __init__(
        self,
        size: int,
        channels: int,
        embedding_dim: int,
        camera_dim: int,
        *,
        width: int = 256,
        planes: int = 16,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    ):
        kwargs = dict(rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.size, self.planes, self.dtype = size, planes, dtype
        self.embedding_in = nnx.Linear(embedding_dim, width, **kwargs)
        self.turn_in = nnx.Linear(camera_dim, 2 * width, **kwargs)
        self.camera_in = nnx.Linear(camera_dim, width, **kwargs)
        self.turn_hidden = nnx.Linear(width, 2 * width, **kwargs)
        self.hidden = nnx.Linear(width, width, **kwargs)
        self.draw = nnx.Linear(width, size * size * planes, **kwargs)
        # Starts silent, so that a trained network can be given a layout and go on from where it is.
        zeros = nnx.initializers.zeros
        self.to_channels = nnx.Linear(planes, channels, kernel_init=zeros, **kwargs)

    def __call__(
        self, token: Float[Array, "B E"], camera: Float[Array, "B V 16"]
    ) -> Float[Array, "B V S S C"]:
        """The camera scales what the embedding says: a turned object is a product of the two."""
        camera = camera.astype(self.dtype)
        h = self.embedding_in(token.astype(self.dtype))[:, None]  # [B, 1, width]
        scale, shift = jnp.split(self.turn_in(camera), 2, -1)
        h = h * (1.0 + scale) + shift  # [B, V, width]
        scale, shift = jnp.split(self.turn_hidden(jax.nn.silu(self.camera_in(camera))), 2, -1)
        h = h + self.hidden(jax.nn.silu(h * (1.0 + scale) + shift))
        planes = self.draw(h).reshape(*h.shape[:2], self.size, self.size, self.planes)
        return self.to_channels(planes)
