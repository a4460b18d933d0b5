"""Attention by blocks against the softmax written out, and what chooses it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.models import attention


def arrays(length, keys, heads=2, dim=8, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(2, length, heads, dim), (2, keys, heads, dim), (2, keys, heads, dim)]
    # Scores in the tens: without the maximum taken off, exp overflows.
    return tuple(jnp.asarray(4 * rng.normal(size=shape), dtype) for shape in shapes)


def written_out(q, k, v):
    """float64 in numpy."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    scores = np.einsum("nlhd,nmhd->nhlm", q, k) * q.shape[-1] ** -0.5
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nhlm,nmhd->nlhd", p / p.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("length", "keys"), [(256, 256), (300, 77), (5, 130)])
def test_attention_by_blocks_is_the_softmax(length, keys):
    q, k, v = arrays(length, keys)
    got = jax.jit(attention.attend_by_cores)(q, k, v)
    np.testing.assert_allclose(got, written_out(q, k, v), atol=1e-4)


def test_attention_by_blocks_in_bfloat16():
    q, k, v = arrays(200, 200, dtype=jnp.bfloat16)
    got = jax.jit(attention.attend_by_cores)(q, k, v)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), written_out(q, k, v), atol=0.1)


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_with_no_batch_dims_saveable])
def test_gradients_by_blocks_are_the_plain_ones(policy):
    q, k, v = arrays(150, 140)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def gradients(attend):
        loss = lambda q, k, v: (attend(q, k, v) * weights).sum()  # noqa: E731
        return jax.jit(jax.grad(jax.checkpoint(loss, policy=policy), (0, 1, 2)))(q, k, v)

    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    for ours, theirs in zip(gradients(attention.attend_by_cores), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_many_tokens_never_hold_all_scores():
    """Only the compiled program's memory is looked at, of both passes; nothing runs."""
    q = jax.ShapeDtypeStruct((1, 2048, 2, 16), jnp.float32)
    for f in (attention.attend, jax.grad(lambda *a: attention.attend(*a).sum(), (0, 1, 2))):
        memory = jax.jit(f).lower(q, q, q).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.25 * 2 * 2048 * 2048 * 4
