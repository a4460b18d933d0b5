"""The TPU's attention kernel, its steps run one by one on this machine, beside XLA's attention."""

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.models import attention, device, splash
from iso3d_jax.training import sharding


def test_kernel_is_attention():
    """Three blocks of queries and two of keys; also within a mesh, where it is a shard_map."""
    shapes = [(2, 384, 1, 16), (2, 256, 1, 16), (2, 256, 1, 16)]
    qkv = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    def both(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return (out**2).sum(), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*qkv)

    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        found = both(lambda q, k, v: splash.attend(q, k, v, interpret=True))
    want = both(attention.attend)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_which_lengths_are_for_the_kernel():
    fit = [length for length in (80, 320, 1024, 1280, 5120, 5121) if splash.fits(length, length)]
    assert fit == [1024, 1280, 5120]
    assert not splash.fits(4096, 77)  # text tokens


def test_traced_for_what_the_mesh_is_made_of(monkeypatch):
    class Mesh:
        size = 1

        class abstract_device:
            device_kind = "TPU v5 lite"

    assert device.platform() == jax.default_backend()
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: Mesh)
    assert device.platform() == "tpu"
    chosen = []
    monkeypatch.setattr(splash, "attend", lambda q, k, v: chosen.append(q.shape) or q)
    for length in (1024, 256):
        qkv = [jnp.zeros((1, length, 1, 8), jnp.bfloat16)] * 3
        attention.attend(*qkv)
    attention.attend(*[jnp.zeros((1, 1024, 1, 8))] * 3)  # float32 keeps XLA's exactness
    assert chosen == [(1, 1024, 1, 8)]
