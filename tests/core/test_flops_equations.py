"""Counting operations: sums, kernels by their names, nested programs and devices."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core import flops
from iso3d_jax.core.flops import Flops


def counted(f, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.count(jax.jit(f).trace(*arguments).jaxpr)


def test_sums_and_multiples_of_each_kind():
    one, two = Flops(10.0, 2.0, 3.0), Flops(1.0, 0.5, 0.25)
    assert one + two == Flops(11.0, 2.5, 3.25) and one * 2.0 == Flops(20.0, 4.0, 6.0)
    assert one.useful == 8.0 and Flops() == Flops(0.0, 0.0, 0.0)


def test_products_over_several_axes_and_batches():
    work = counted(lambda x, y: jnp.einsum("bijk,bjkl->bil", x, y), (2, 3, 4, 5), (2, 4, 5, 6))
    assert work == Flops(2.0 * 2 * 3 * 6 * 20)
    assert counted(lambda x: x + jnp.sin(x).sum(), (7, 7)) == Flops()


def test_a_convolution_in_groups_and_spread_out():
    def conv(x, kernel, **how):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers, **how
        )

    whole = counted(conv, (2, 6, 5, 8), (3, 3, 8, 16))
    assert whole == Flops(2.0 * 2 * 6 * 5 * 16 * 9 * 8)
    grouped = counted(lambda x, k: conv(x, k, feature_group_count=4), (2, 6, 5, 8), (3, 3, 2, 16))
    assert grouped == Flops(2.0 * 2 * 6 * 5 * 16 * 9 * 2)
    spread = counted(lambda x, k: conv(x, k, lhs_dilation=(2, 3)), (1, 4, 4, 8), (3, 3, 8, 4))
    # Of 7 x 10 places only a sixth of what each product reads is there.
    assert spread.executed == pytest.approx(2.0 * 7 * 10 * 4 * 9 * 8 / 6)


def test_loops_choices_and_calls_within():
    def f(x, y):
        def body(carry, _):
            inner = jax.jit(lambda c: c @ y)(carry)
            chosen = jax.lax.cond(inner[0, 0] > 0, lambda c: (c @ y) @ y, lambda c: c @ y, inner)
            return chosen, None

        return jax.lax.scan(body, x, length=5)[0]

    assert counted(f, (3, 4), (4, 4)).executed == 5 * 3 * (2.0 * 3 * 4 * 4)


def test_what_remat_repeats_is_a_third_of_its_backward_pass():
    def loss(x, y):
        return jax.checkpoint(lambda x: jnp.sin(x @ y))(x).sum()

    found = counted(jax.grad(loss, argnums=(0, 1)), (3, 4), (4, 5))
    product = 2.0 * 3 * 4 * 5
    assert found.executed == pytest.approx(4 * product)  # forward, again, and two backward
    assert found.useful == pytest.approx(3 * product)
    assert counted(loss, (3, 4), (4, 5)) == Flops(product)


def test_every_device_of_a_shared_program_counts():
    inner = jax.make_jaxpr(lambda x, y: x @ y)(np.ones((2, 3)), np.ones((3, 4)))
    sizes = {"data": 2, "fsdp": 3, "tensor": 5}
    equation = types.SimpleNamespace(
        primitive=types.SimpleNamespace(name="shard_map"), invars=(), outvars=(),
        params=dict(jaxpr=inner, mesh=types.SimpleNamespace(shape=sizes),
                    newly_manual_axes={"data", "tensor"}),
    )  # fmt: skip
    assert flops._count_equation(equation, False, {}).executed == 10 * 2.0 * 2 * 3 * 4


def kernel(name, query, key, pallas=True, more=()):
    """An attention kernel's equation: whole numbers and small arrays beside its operands."""

    def variable(shape, dtype="bfloat16"):
        return types.SimpleNamespace(aval=types.SimpleNamespace(shape=shape, dtype=dtype))

    named = dict(name_and_src_info=f"{name} at x.py") if pallas else {}
    return types.SimpleNamespace(
        primitive=types.SimpleNamespace(name="pallas_call" if pallas else name),
        invars=[variable((4, 4, 4), "int32"), variable((7,)), variable(query), variable(key),
                variable(key)],
        outvars=[variable(query)], params=named,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, products, before",
    [("splash_mha_fwd", 2, 0), ("splash_mha_dkv", 4, 1), ("splash_mha_dq", 3, 2)],
)
def test_kernels_of_pallas_by_what_they_are_called(name, products, before):
    """[N, L, D] by [N, M, D]: a product is 2 N L D M operations."""
    work = 2.0 * 3 * 10 * 8 * 20
    equation = kernel(name, (3, 10, 8), (3, 20, 8))
    found = flops._count_equation(equation, False, {})
    assert found == Flops(products * work, before * work, products * work)
    again = flops._count_equation(equation, True, {})
    repeated = products if name.endswith("fwd") else before  # a forward pass again is all twice
    assert again == Flops(products * work, repeated * work, products * work)


@pytest.mark.parametrize(
    "name, products, before",
    [("dot_product_attention_fwd", 2, 0), ("dot_product_attention_bwd", 5, 1)],
)
def test_kernels_of_cudnn_have_the_length_before_the_heads(name, products, before):
    work = 2.0 * 2 * 10 * 3 * 8 * 20
    equation = kernel(name + "_wrapper", (2, 10, 3, 8), (2, 20, 3, 8), pallas=False)
    found = flops._count_equation(equation, False, {})
    assert found == Flops(products * work, before * work, products * work)


def test_a_kernel_of_another_name_is_none():
    equation = kernel("some_softmax", (3, 10, 8), (3, 20, 8))
    assert flops._count_equation(equation, False, {}) is None


def test_a_part_that_is_called_again_is_counted_as_often_and_walked_once(monkeypatch):
    part, seen = jax.jit(lambda x: x @ x), []
    count = flops._count_equation
    monkeypatch.setattr(
        flops, "_count_equation",
        lambda eqn, *rest: seen.append(eqn.primitive.name) or count(eqn, *rest),
    )  # fmt: skip
    found = counted(lambda x: part(part(part(x))), (4, 4))
    assert found == Flops(3 * 2.0 * 4**3)
    assert seen.count("dot_general") == 1
