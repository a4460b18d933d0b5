"""A coarse picture of what each view shows, drawn from the embedding and the view's camera.

Stable Diffusion's layers take the embedding and the camera as vectors that are the same for all
pixels; that a chair's back is at the left of this view, a convolutional network has to work out
from those vectors and the frame's border. A large pretrained network does. A small one, trained
from nothing, learned colours and proportions that way and ignored the cameras, though a dense
network draws different sides from the same two vectors after a few hundred steps. So the image
tower of a small model is trained together with such a network (`tiny/tasks/image_tower.py`), and
the UNet is given its drawing beside the noisy latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models.layers import LayerOptions
from iso3d_jax.models.params import FlatParams, InitialKeys
from iso3d_jax.models.unet import MultiViewUNet, UNetConfig
from iso3d_jax.tiny.frequencies import to_pictures
from iso3d_jax.weights.bundle import load_weights

DRAWING = "drawing"  # a folder's section beside an image tower: the decoder that it trained with
IN_UNET = "layout/drawing/"  # where that decoder's weights are in a UNet
_CHANNELS = 4  # of the drawing: premultiplied RGBA, as long as nothing trains it further
_CAMERA = 96  # width of what is made of the camera


class Drawing(nnx.Module):
    """`__call__(token [B, E], camera [B, V, 16]) -> [B, V, size, size, 4]`."""

    def __init__(
        self,
        size: int,
        embedding_dim: int,
        camera_dim: int,
        *,
        width: int = 1024,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.size, self.dtype = size, dtype
        self.embedding_in = nnx.Linear(embedding_dim, width, **kwargs)
        self.embedding_hidden = nnx.Linear(width, width, **kwargs)
        self.turn_in = nnx.Linear(camera_dim, 2 * width, **kwargs)
        self.camera_in = nnx.Linear(camera_dim, _CAMERA, **kwargs)
        self.turn_hidden = nnx.Linear(_CAMERA, 2 * width, **kwargs)
        self.hidden = nnx.Linear(width, width, **kwargs)
        self.draw = nnx.Linear(width, size * size * _CHANNELS, **kwargs)

    def __call__(
        self, token: Float[Array, "B E"], camera: Float[Array, "B V 16"]
    ) -> Float[Array, "B V S S 4"]:
        """The camera scales what the embedding says: a turned object is a product of the two.

        A sum of the two would have to learn a rotation by detours (and in 1,000 steps did not).
        """
        camera = camera.astype(self.dtype)
        h = self.embedding_in(token.astype(self.dtype))
        h = (h + self.embedding_hidden(jax.nn.silu(h)))[:, None]  # [B, 1, width]
        scale, shift = jnp.split(self.turn_in(camera), 2, -1)
        h = h * (1.0 + scale) + shift  # [B, V, width]
        scale, shift = jnp.split(self.turn_hidden(jax.nn.silu(self.camera_in(camera))), 2, -1)
        h = h + self.hidden(jax.nn.silu(h * (1.0 + scale) + shift))
        frequencies = self.draw(h).reshape(*h.shape[:2], self.size, self.size, _CHANNELS)
        return to_pictures(frequencies)


class Layout(nnx.Module):
    """`__call__(token [B, E], camera [B, V, 16]) -> [B, V, size, size, 16]`.

    The drawing has twice `size` pixels a side; four neighbours are the numbers of one place.
    `to_channels` makes of them what is added to the UNet's first features.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        embedding_dim: int,
        camera_dim: int,
        *,
        width: int = 1024,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.drawing = Drawing(2 * size, embedding_dim, camera_dim, width=width, **kwargs)
        self.num_inputs = 4 * _CHANNELS
        # Starts silent, so that a trained network can be given a layout and go on from where it is.
        zeros = nnx.initializers.zeros
        self.to_channels = nnx.Linear(self.num_inputs, channels, kernel_init=zeros, **kwargs)

    def __call__(
        self, token: Float[Array, "B E"], camera: Float[Array, "B V 16"]
    ) -> Float[Array, "B V S S D"]:
        x = self.drawing(token, camera)
        b, v, s = x.shape[0], x.shape[1], x.shape[2] // 2
        return x.reshape(b, v, s, 2, s, 2, -1).swapaxes(3, 4).reshape(b, v, s, s, -1)


class Shortcut(nnx.Module):
    """A straight line from a small network's inputs to its output, place by place.

    `__call__(inputs [N, H, W, D], emb [N, E]) -> [N, H, W, C]`.

    What a drawing and noisy latents say of the target is mostly linear, with factors that depend on
    the noise level; a network of normalised layers takes thousands of steps to pass it through.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        zeros = nnx.initializers.zeros  # starts silent, as the network's own output does
        self.scale = nnx.Linear(emb_dim, inputs, kernel_init=zeros, **kwargs)
        self.line = nnx.Linear(inputs, outputs, kernel_init=zeros, **kwargs)

    def __call__(
        self, inputs: Float[Array, "N H W D"], emb: Float[Array, "N E"]
    ) -> Float[Array, "N H W C"]:
        scale = 1.0 + self.scale(jax.nn.silu(emb))
        return self.line(inputs * scale[:, None, None])


@dataclass(frozen=True)
class SpatialUNetConfig(UNetConfig):
    """The UNet's numbers, and those of what fills its two slots.

    With `layout_size`, the side of the latents, a coarse map drawn from embedding and camera is
    added to every view's first features; `layout_width` is the width of what draws it. With
    `shortcut` that map and the noisy latents also reach the output by a straight line.
    """

    layout_size: int = 0
    layout_width: int = 1024
    shortcut: bool = False


def spatial_unet(
    config: SpatialUNetConfig,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> MultiViewUNet:
    """The UNet with a layout and a shortcut where its numbers ask for them."""

    def layout(**kwargs: Unpack[LayerOptions]) -> Layout:
        sizes = config.layout_size, config.model_channels, config.context_dim, config.camera_dim
        return Layout(*sizes, width=config.layout_width, **kwargs)

    return MultiViewUNet(
        config,
        layout if config.layout_size else None,
        Shortcut if config.shortcut else None,
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
    )


def build_drawing(config: SpatialUNetConfig, embedding_dim: int) -> Drawing:
    """The decoder by itself, as a UNet of these numbers has it, with fresh weights."""
    return Drawing(2 * config.layout_size, embedding_dim, config.camera_dim, rngs=InitialKeys(0))


def load_drawing(path: str | Path | None) -> FlatParams:
    """The decoder of an image tower's training: beside the tower, or in a whole model's UNet."""
    beside = load_weights(path, (DRAWING,))[DRAWING]
    if beside:
        return beside
    unet = load_weights(path, ("unet",))["unet"]
    return {k.removeprefix(IN_UNET): w for k, w in unet.items() if k.startswith(IN_UNET)}
