"""3x3 convolutions on a CPU by Winograd's minimal filtering, F(2x2, 3x3).

Four neighbouring outputs take 16 products a pair of channels where the sum over a window takes 36
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1). The
products are 16 matrix products over channels; the transforms before and after add and subtract,
and only weights are scaled, by 1/2 and 1/4. Against float64 the mean error of a convolution is 1.0
to 1.8 times that of the sum in float32. Larger tiles would save more, and round worse.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax.models import device

# In one dimension: of four inputs, of three weights, and of four products to two outputs.
INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
WEIGHT = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)

# Tiles of 2x2 outputs at a time, so that what is between the transforms stays in a core's cache.
TILES = 128
# With fewer channels the transforms cost more than the products save; on smaller maps the weights'
# transform does.
CHANNELS, SMALLEST = 128, 16 * 16


def fits(shape: tuple[int, ...], outputs: int, dtype: jnp.dtype) -> bool:
    """Whether a 3x3 convolution of maps [N, H, W, C] is faster this way than XLA's own.

    On CPUs, in float32, on one device: the blocks are a loop, which a mesh would have divided.
    """
    _, height, width, channels = shape
    if device.platform() != "cpu" or (jax.sharding.get_abstract_mesh().size or 0) > 1:
        return False
    if dtype != jnp.float32 or height % 2 or width % 2 or height * width < SMALLEST:
        return False
    images, rows = _block(shape)
    return min(channels, outputs) >= CHANNELS and 4 * images * rows * (width // 2) >= TILES


@jax.custom_vjp
def convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "N H W D"]:
    """The convolution with stride 1 and a border of zeros, of maps with even sides."""
    return convolve_by_tiles(x, kernel)


def _forward(x, kernel):
    """Keeps what the gradients that are asked for need: each is of the other's values."""
    saved = x.value if kernel.perturbed else None, kernel.value if x.perturbed else None
    return convolve_by_tiles(x.value, kernel.value), saved


def _backward(saved, cotangent):
    x, kernel = saved
    by_x = by_kernel = None  # zero
    if kernel is not None:
        by_x = convolve_by_tiles(cotangent, kernel[::-1, ::-1], transposed=True)
    if x is not None:
        weights = jax.ShapeDtypeStruct((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
        (by_kernel,) = jax.linear_transpose(lambda w: plain(x, w), weights)(cotangent)
    return by_x, by_kernel


convolve.defvjp(_forward, _backward, symbolic_zeros=True)


def plain(x: Float[Array, "N H W C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "N H W D"]:
    """What `convolve` computes, by XLA's convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _block(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many maps and how many rows of tiles are one block: about `TILES` tiles."""
    n, height, width, _ = shape
    rows, across = height // 2, width // 2
    if rows * across > TILES:
        return 1, _divisor(rows, TILES // across)
    return _divisor(n, TILES // (rows * across)), rows


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`; at least 1."""
    return next((d for d in range(min(number, most), 1, -1) if number % d == 0), 1)


@functools.partial(jax.jit, static_argnames="transposed")
def convolve_by_tiles(x, kernel, transposed=False):
    """Of maps [N, H, W, C] with a kernel [3, 3, C, D], or [3, 3, D, C] if `transposed`."""
    n, height, width, channels = x.shape
    outputs, across = kernel.shape[2 if transposed else 3], width // 2
    images, rows = _block(x.shape)
    high = height // 2 // rows  # blocks in a map
    tiles = images * rows * across
    weights = _transform_weights(_after(x, kernel)).reshape(16, *kernel.shape[2:])
    first = x[0, 0, 0, 0]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add_block(i, out):
        start = i // high * images, i % high * 2 * rows, 0, 0
        part = jax.lax.dynamic_slice(x, start, (images, 2 * rows + 2, width + 2, channels))
        entering = _transform_input(part).reshape(16, tiles, channels)
        # Weights that were transposed before their transform would be read with long steps: slow.
        products = jnp.matmul(entering, weights.swapaxes(1, 2) if transposed else weights)
        block = _transform_output(products.reshape(16, images, rows, across, outputs))
        return jax.lax.dynamic_update_slice(out, block, start)

    # All of it is overwritten. Zeros would be written, and held, from the program's start on.
    out = jnp.broadcast_to(first, (n, height, width, outputs))
    return jax.lax.fori_loop(0, n // images * high, add_block, out)


def _after(x: Array, kernel: Array) -> Array:
    """The kernel, once x is there: XLA would transform all layers' at the program's start.

    Held until they are needed, they took 0.2 GB of an encoder. XLA drops `optimization_barrier`
    before it orders operations, so 0 is added that it cannot know: the smaller of a bit and 0.
    """
    bit = jax.lax.bitcast_convert_type(x[0, 0, 0, 0], jnp.int32) & 1
    return kernel + jnp.minimum(bit, 0).astype(kernel.dtype)


# Each transform is one sum in which every term has its coefficient, mostly 0 or +-1: XLA makes one
# loop of it. Sums of the few terms that are not 0, stacked, are slower.


def _transform_weights(kernel: Float[Array, "3 3 C D"]) -> Float[Array, "4 4 C D"]:
    pairs = [(a, b) for a in range(3) for b in range(3)]
    return sum(_outer(WEIGHT, a, b)[:, :, None, None] * kernel[a, b] for a, b in pairs)  # pyright: ignore


def _transform_input(x: Float[Array, "N h w C"]) -> Float[Array, "4 4 N R T C"]:
    """Of windows of 4x4 with stride 2."""
    rows, across = (side // 2 * 2 - 2 for side in x.shape[1:3])
    out = jnp.float32(0)
    for a in range(4):
        for b in range(4):
            coefficients = _outer(INPUT, a, b)[:, :, None, None, None, None]
            out = out + coefficients * x[:, a : a + rows : 2, b : b + across : 2]
    return out


def _transform_output(products: Float[Array, "16 N R T D"]) -> Float[Array, "N h w D"]:
    """To tiles of 2x2 side by side."""
    _, n, rows, across, channels = products.shape
    out = jnp.float32(0)
    for a in range(4):
        for b in range(4):
            coefficients = _outer(OUTPUT, a, b)[None, None, :, None, :, None]
            out = out + coefficients * products[4 * a + b][:, :, None, :, None]
    return out.reshape(n, 2 * rows, 2 * across, channels)


def _outer(matrix: np.ndarray, a: int, b: int) -> np.ndarray:
    """What the input (a, b) of a two-dimensional transform adds to each of its outputs."""
    return matrix[:, a, None] * matrix[None, :, b]
