"""Which kernel takes which attention, against jax's limits; blocks against the softmax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from iso3d_jax.models import attention, device, kernels
from iso3d_jax.models.device import Target
from iso3d_jax.planning import absent, lowering

CPU, TPU, AMPERE, HOPPER = (
    Target("cpu"),
    Target("tpu"),
    Target("gpu", (8, 0)),
    Target("gpu", (9, 0)),
)
BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")

# What the full-size networks ask: type, rows, queries, keys, heads, width -> kernel by target.
UNET = [(4096, 5), (1024, 10), (256, 20), (64, 20)]  # four views: tokens and heads by level
TABLE = [
    *((BF16, 2, n, n, h, 64, {AMPERE: "cudnn", HOPPER: "cudnn"}) for n, h in UNET),
    (BF16, 2, 4096, 4096, 5, 64, {TPU: "splash", CPU: "cores"}),
    (BF16, 2, 1280, 1280, 10, 64, {TPU: "splash"}),
    (BF16, 2, 256, 256, 20, 64, {TPU: "xla", CPU: "xla"}),
    (BF16, 1, 257, 257, 16, 80, {AMPERE: "cudnn", HOPPER: "cudnn", TPU: "xla"}),  # image tower
    (BF16, 8, 1024, 1024, 1, 512, {AMPERE: "xla", HOPPER: "xla", TPU: "splash"}),  # autoencoder
    (BF16, 8, 4096, 4096, 1, 512, {HOPPER: "queries", TPU: "splash"}),  # of 512 x 512 pixels
    (BF16, 8, 1024, 1024, 1, 256, {AMPERE: "xla", HOPPER: "cudnn"}),
    (BF16, 8, 1024, 1024, 1, 132, {HOPPER: "xla"}),  # no multiple of 8
    (F32, 4, 4096, 4096, 5, 64, {AMPERE: "queries", HOPPER: "queries", TPU: "queries"}),
    (F32, 4, 1024, 1024, 10, 64, {HOPPER: "xla", CPU: "cores"}),
    (BF16, 2, 4096, 4096, 5, 64, {Target("gpu", (7, 5)): "queries", Target("gpu"): "queries"}),
    (jnp.dtype("float16"), 2, 4096, 4096, 5, 64, {HOPPER: "cudnn"}),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "-".join(map(str, row[:-1])))
def test_each_attention_of_the_networks_has_its_kernel(row):
    *shape, wanted = row
    for target, name in wanted.items():
        assert kernels.choose(kernels.Shape(*shape), target, devices=1) == name, target
        assert name in kernels.NAMES


def test_blocks_by_cores_are_for_one_device():
    shape = kernels.Shape(F32, 2, 4096, 4096, 5, 64)
    assert kernels.choose(shape, CPU, devices=8) == "xla"


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0)])
def test_cudnn_gets_what_it_takes_and_nothing_else(monkeypatch, capability):
    """jax refuses what cuDNN cannot do; the table must agree with it for every width of a head."""
    asked = lambda c: capability >= tuple(map(int, c.split(".")))  # noqa: E731
    monkeypatch.setattr(cudnn, "check_compute_capability", asked)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)
    for width, length in itertools.product(range(4, 520, 4), (64, 257, 4096)):
        q = jax.ShapeDtypeStruct((2, length, 3, width), jnp.bfloat16)
        layout = cudnn.AttentionLayout.BTNH.value
        try:
            cudnn.check_is_flash_attention(q, q, q, layout, absent.CUDNN, False, True)
            takes = capability >= (8, 0)  # jax leaves older cards to cuDNN itself
        except NotImplementedError:
            takes = False
        shape = kernels.Shape(BF16, 2, length, length, 3, width)
        chosen = kernels.choose(shape, Target("gpu", capability), devices=1)
        assert (chosen == "cudnn") == takes, (width, length)


def test_the_autoencoder_lowers_in_half_precision_for_both_generations_of_cards():
    """Its one head of 512 is wider than cuDNN takes; asking cuDNN for it is an error of jax's."""
    x = jax.ShapeDtypeStruct((8, 1024, 1, 512), jnp.bfloat16)
    narrow = jax.ShapeDtypeStruct((2, 1024, 10, 64), jnp.bfloat16)
    for name in ("a100", "h100"):
        assert "fmha" not in lowering.lower(attention.attend, (x, x, x), lowering.TARGETS[name])
        text = lowering.lower(attention.attend, (narrow,) * 3, lowering.TARGETS[name])
        assert text.count("@__cudnn$fmhaSoftmax(") == 1


def test_cards_that_are_not_here_are_known_by_name():
    def of(kind):
        return device._target(kind, None)

    assert of("NVIDIA H100 80GB HBM3") == of("NVIDIA H200") == HOPPER
    assert of("NVIDIA A100-SXM4-80GB") == AMPERE
    assert of("NVIDIA GeForce RTX 4090") == of("NVIDIA L40S") == Target("gpu", (8, 9))
    assert of("NVIDIA A10G") == of("NVIDIA GeForce RTX 3090") == Target("gpu", (8, 6))
    assert of("Tesla V100-SXM2-16GB") == Target("gpu")  # never taken for one that cuDNN serves
    assert of("TPU v5 lite") == TPU and of("cpu") == CPU


def test_a_card_that_is_here_says_its_own_capability():
    class Card:
        compute_capability = "8.9"

    class Other:
        compute_capability = "gfx942"  # AMD's

    assert device._target("NVIDIA Something New", Card()) == Target("gpu", (8, 9))
    assert device._target("AMD Instinct MI300X", Other()) == Target("gpu")


def _arrays(length, keys, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(2, length, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    return tuple(jnp.asarray(4 * rng.normal(size=shape), dtype) for shape in shapes)


@pytest.mark.parametrize(("length", "keys", "block"), [(64, 64, 16), (50, 77, 16), (5, 130, 8)])
def test_blocks_of_queries_are_the_softmax_and_so_are_their_gradients(length, keys, block):
    q, k, v = _arrays(length, keys)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def both(attend):
        loss = lambda q, k, v: ((out := attend(q, k, v)) * weights).sum() + 0 * out.sum()  # noqa: E731
        return jax.jit(attend)(q, k, v), jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

    found = both(lambda *a: attention.attend_by_queries(*a, block=block))
    wanted = both(lambda *a: jax.nn.dot_product_attention(*a, implementation="xla"))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_a_block_of_queries_keeps_its_scores_small(rows):
    shape = kernels.Shape(F32, rows, 4096, 4096, 5, 64)
    block = kernels.block_of_queries(shape)
    assert block == 4096 or 16 <= block < 4096
    assert shape._replace(length=block).score_bytes <= max(
        kernels.LARGE_SCORES, shape._replace(length=16).score_bytes
    )
    if block < 4096:  # and is no smaller than it has to be
        assert shape._replace(length=2 * block).score_bytes > kernels.LARGE_SCORES
