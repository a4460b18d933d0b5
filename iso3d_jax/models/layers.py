"""Convolutions of the UNet and the autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from iso3d_jax.models import device, winograd

# XLA's CPU and GPU convolutions are built for pictures. On a 2x2 map one matrix product over the
# unrolled patches is about ten times as fast on a CPU and no slower elsewhere.
SMALL_MAP = 4
# With many channels it is faster on CPUs up to 8x8 (at 1280 channels 2.6 times at 4x4, 1.7 times
# at 8x8), and slower from 16x16.
SMALL_WIDE_MAP, WIDE = 64, 640
# Pixels from which on a GroupNorm on a TPU has XLA lay out a convolution's result before it is
# widened. Left alone, XLA widens first and copies float32: two residual blocks of 128 channels at
# 256x256 move 5.6 GB and not 2.5. What stays on the chip, as the UNet's maps, gains nothing by it.
LARGE_MAP = 64 * 64


class LayerOptions(TypedDict):
    """What every layer of a network is made with.

    Attributes:
      rngs: of the first weights.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    rngs: nnx.Rngs
    dtype: NotRequired[DTypeLike]
    param_dtype: NotRequired[DTypeLike]


class Conv(nnx.Conv):
    """`nnx.Conv` whose 3x3 stride-1 case goes the fastest way that its device has.

    One matrix product on maps of 2x2 or less everywhere, on CPUs also up to 8x8 where the channels
    are many; on CPUs `winograd.convolve` from 16x16 on.
    """

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        pixels, channels = x.shape[1] * x.shape[2], x.shape[3]
        if self.kernel_size != (3, 3) or self.padding != 1 or self.strides not in (1, (1, 1)):
            return super().__call__(x)
        if pixels <= SMALL_MAP:
            return self.multiply_patches(x)
        wide = pixels <= SMALL_WIDE_MAP and channels >= WIDE
        if wide and device.platform() == "cpu":
            return self.multiply_patches(x)
        dtype = jnp.dtype(self.dtype or x.dtype)
        if winograd.fits(x.shape, self.out_features, dtype):
            kernel = self.kernel[...].astype(dtype)
            return self._add_bias(winograd.convolve(x.astype(dtype), kernel))
        return super().__call__(x)

    def multiply_patches(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W D"]:
        """The 3x3 convolution as one matrix product."""
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifts, -1)  # [N, H, W, 9C]
        kernel = self.kernel[...].astype(self.dtype or x.dtype)
        return self._add_bias(patches @ kernel.reshape(-1, kernel.shape[-1]))

    def _add_bias(self, out):
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)


def conv(
    cin: int,
    cout: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: Sequence[tuple[int, int]] | None = None,
    zero: bool = False,
    **kwargs: Unpack[LayerOptions],
) -> Conv:
    """A square convolution with PyTorch's symmetric padding; `zero` starts it at zero output."""
    return Conv(
        cin,
        cout,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2 if padding is None else padding,
        kernel_init=nnx.initializers.zeros if zero else default_kernel_init,
        **kwargs,
    )


class GroupNorm(nnx.Module):
    """Group normalisation as one scale and one shift a channel, in float32 at least.

    The sums run over pixels first, channel by channel, and only then over a group's few channels:
    on a CPU that is several times as fast as reducing over [H, W, C / groups] at once.
    """

    def __init__(
        self,
        channels: int,
        num_groups: int,
        *,
        epsilon: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if channels % num_groups:
            raise ValueError(f"{channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.epsilon, self.dtype = num_groups, epsilon, dtype
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        n, height, width, channels = x.shape
        if device.platform() == "tpu" and height * width >= LARGE_MAP:
            x = jax.lax.optimization_barrier(x)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        count = height * width * channels // self.num_groups

        def group_mean(sums):  # [N, C] -> [N, C], the mean of each channel's group
            total = sums.reshape(n, self.num_groups, -1).sum(-1, keepdims=True) / count
            return jnp.broadcast_to(
                total, (n, self.num_groups, channels // self.num_groups)
            ).reshape(n, channels)

        mean = group_mean(wide.sum((1, 2)))
        variance = jnp.maximum(group_mean((wide * wide).sum((1, 2))) - mean**2, 0.0)
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        shift = self.bias[...] - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).astype(self.dtype)
