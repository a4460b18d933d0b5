"""The features of EfficientNet-Lite0 (Tan and Le 2019; Lite by Google, 2020), for inference.

Convolutions that were trained on ImageNet, few enough for a CPU: no squeeze and excitation, ReLU6
as the only activation. Batch norms are folded when weights are loaded (`efficient_net_weights.py`),
so what is here are convolutions with a bias. Borders are TensorFlow's SAME, counted from the size
of each map, and pixels are normalised as (value of 0 to 255 - 127) / 128. Source: tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py; the same in PyTorch is
efficientnet_lite_pytorch/model.py of the package `efficientnet-lite-pytorch`.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.core.errors import UserError
from iso3d_jax.models import device
from iso3d_jax.models.layers import LayerOptions

# Pixels that go through the network together on a CPU: what a block makes of them stays in its
# caches. A batch of 64 as a whole takes up to twice the time (`benchmarks/efficient_net.py`).
PIXELS_AT_ONCE = 2 * 224 * 224


class Stage(NamedTuple):
    """Blocks of the same kind; the first has the stride and changes the channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM = 32
STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip


def _same(size: int, kernel: int, stride: int) -> tuple[int, tuple[int, int]]:
    """Pixels of the result, and those to add before and behind."""
    out = -(-size // stride)
    padding = max((out - 1) * stride + kernel - size, 0)
    return out, (padding // 2, padding - padding // 2)


class Depthwise(nnx.Module):
    """A convolution of each channel with a kernel of its own, borders as SAME."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.stride, self.dtype = stride, dtype
        shape = (kernel, kernel, channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype) / kernel)
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
        # With XLA's own the whole network takes 12 times as long on a CPU.
        kernel, stride = self.kernel[...].astype(self.dtype), self.stride
        n, height, width, channels = x.shape
        (rows, above), (columns, left) = (_same(s, len(kernel), stride) for s in (height, width))
        x = jnp.pad(x, ((0, 0), above, left, (0, 0)))
        total = self.bias[...].astype(self.dtype)
        for i in range(len(kernel)):
            for j in range(len(kernel)):
                end = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
                shifted = jax.lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
                total = total + shifted * kernel[i, j]
        return total


class Block(nnx.Module):
    """An inverted residual: more channels, a depthwise convolution, fewer channels."""

    def __init__(self, channels: int, stage: Stage, stride: int, **kwargs: Unpack[LayerOptions]):
        inner = channels * stage.expansion
        self.residual = stride == 1 and channels == stage.channels
        self.expand = nnx.Linear(channels, inner, **kwargs) if stage.expansion > 1 else None
        self.depthwise = Depthwise(inner, stage.kernel, stride, **kwargs)
        self.project = nnx.Linear(inner, stage.channels, **kwargs)

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        h = x if self.expand is None else jax.nn.relu6(self.expand(x))
        h = self.project(jax.nn.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nnx.Module):
    """`__call__(pixels [N, H, W, 3] in [0, 1]) -> features [N, h, w, channels]`, of `dtype`.

    Call it inside `jax.jit`. Features are the last block's sums, with no activation behind them.

    Args:
      stages: where it ends, 1 to 7; layers behind are not made. After 5 a feature stands for 16
        pixels (h = H / 16, rounded up) and has 112 channels, after 7 for 32 and has 320.

    Raises:
      UserError: there is no such stage.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        stages: int = len(STAGES),
    ):
        if stages not in range(1, len(STAGES) + 1):
            raise UserError(f"EfficientNet-Lite0 has stages 1 to {len(STAGES)}, not {stages}")
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.dtype = dtype
        self.stem = nnx.Conv(3, STEM, (3, 3), strides=2, padding="SAME", **kwargs)
        blocks, channels = [], STEM
        for stage in STAGES[:stages]:
            for number in range(stage.blocks):
                blocks.append(Block(channels, stage, 1 if number else stage.stride, **kwargs))
                channels = stage.channels
        self.blocks = nnx.List(blocks)
        self.channels = channels

    def __call__(self, pixels: Float[Array, "N H W 3"]) -> Float[Array, "N h w C"]:
        together = max(1, PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
        if device.platform() != "cpu" or len(pixels) <= together:
            return self.forward(pixels)
        return jax.lax.map(lambda p: self.forward(p[None])[0], pixels, batch_size=together)

    def forward(self, pixels: Float[Array, "N H W 3"]) -> Float[Array, "N h w C"]:
        """The features of all pictures at once."""
        x = ((pixels * 255.0 - 127.0) / 128.0).astype(self.dtype)
        x = jax.nn.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x
