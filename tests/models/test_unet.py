"""Properties of the multi-view UNet that hold for any weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.models.params import InitialKeys
from iso3d_jax.models.unet import MultiViewUNet, UNetConfig
from tests.networks import drawn

CONFIG = UNetConfig(
    in_channels=3, out_channels=5, model_channels=16, attention_resolutions=(1, 2),
    num_res_blocks=1, channel_mult=(1, 2), num_head_channels=8, context_dim=7, num_groups=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    return drawn(lambda: MultiViewUNet(CONFIG, rngs=nnx.Rngs(0)))


def inputs(views, batch=2, seed=1):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    t = jnp.broadcast_to(jnp.asarray([[300.0], [700.0]][:batch]), (batch, views))
    return normal(batch, views, 4, 4, 3), t, normal(batch, 1, 7), normal(batch, views, 16)


run = jax.jit(lambda unet, *args: unet(*args))


def test_permuting_views_permutes_outputs(unet):
    z, t, context, camera = inputs(3)
    order = np.array([2, 0, 1])
    out = run(unet, z, t, context, camera)
    permuted = run(unet, z[:, order], t[:, order], context, camera[:, order])
    np.testing.assert_allclose(permuted, out[:, order], atol=2e-5)


def test_views_see_each_other_and_objects_do_not(unet):
    z, t, context, camera = inputs(3)
    out = run(unet, z, t, context, camera)
    changed = run(unet, z.at[0, 2].add(1.0), t, context, camera)
    assert np.abs(changed[0, 0] - out[0, 0]).max() > 1e-3
    np.testing.assert_array_equal(changed[1], out[1])


def test_one_view_is_a_plain_2d_network(unet):
    """Three objects of one view are one object's three views with attention cut between them."""
    z, t, context, camera = inputs(1)
    out = run(unet, z, t, context, camera)
    alone = jnp.concatenate(
        [run(unet, *(a[i : i + 1] for a in (z, t, context, camera))) for i in range(2)]
    )
    np.testing.assert_allclose(out, alone, atol=2e-5)


def test_reference_view_reaches_the_noisy_views_and_knows_its_own_timestep(unet):
    """Explicit Multi-view Attention: one more view, clean, at t = 0."""
    z, t, context, camera = inputs(5)
    t = t.at[:, 0].set(0.0)
    out = run(unet, z, t, context, camera)[:, 1:]
    other_reference = run(unet, z.at[:, 0].add(1.0), t, context, camera)[:, 1:]
    other_time = run(unet, z, t.at[:, 0].set(500.0), context, camera)[:, 1:]
    assert np.abs(other_reference - out).max() > 1e-3
    assert np.abs(other_time - out).max() > 1e-4


@pytest.mark.parametrize("part", [2, 3])
def test_embedding_and_camera_matter(unet, part):
    args = list(inputs(2))
    out = run(unet, *args)
    args[part] = args[part] + 1.0
    assert np.abs(run(unet, *args) - out).max() > 1e-3


def test_fresh_network_predicts_zero():
    """Its last convolution starts at zero, as the released one does."""
    smallest = dataclasses.replace(CONFIG, channel_mult=(1,), attention_resolutions=(1,))
    unet = MultiViewUNet(smallest, rngs=nnx.Rngs(0))  # initialised one weight at a time
    assert not np.any(run(unet, *inputs(2)))


def test_camera_path_stays_float32_under_bfloat16():
    unet = drawn(lambda: MultiViewUNet(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    assert unet.camera_embed.linear_in.dtype == jnp.float32
    assert unet.time_embed.linear_in.dtype == jnp.bfloat16
    out = run(unet, *inputs(2))
    assert out.dtype == jnp.float32 and np.isfinite(out).all()


def test_full_size_has_the_released_number_of_weights():
    shapes = nnx.eval_shape(lambda: MultiViewUNet(UNetConfig(), rngs=InitialKeys(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
    assert total == 867_572_164


def test_a_folded_context_is_the_context(unet):
    """Folded once outside, folded inside, and two equal tokens through the softmax: one result."""
    z, t, context, camera = inputs(2)
    out = run(unet, z, t, context, camera)
    fold = jax.jit(lambda unet, context: unet.fold_context(context))
    folded = fold(unet, context)
    np.testing.assert_allclose(run(unet, z, t, folded, camera), out, atol=1e-5)
    twice = run(unet, z, t, jnp.concatenate([context, context], 1), camera)
    np.testing.assert_allclose(twice, out, atol=1e-4)
    other = run(unet, z, t, fold(unet, context + 1.0), camera)
    assert np.abs(other - out).max() > 1e-3


def test_the_label_is_added_to_the_embedded_time():
    """A label whose embedding is constant is a shift of the time's."""
    config = dataclasses.replace(CONFIG, adm_in_channels=7)
    unet = drawn(lambda: MultiViewUNet(config, rngs=nnx.Rngs(0)))
    last = unet.label_embed.linear_out
    last.kernel[...] *= 0
    last.bias[...] = jnp.linspace(-1, 1, last.bias.shape[0])
    args = inputs(2)
    labelled = run(unet, *args)
    unet.time_embed.linear_out.bias[...] += last.bias[...]
    last.bias[...] *= 0
    np.testing.assert_allclose(run(unet, *args), labelled, atol=2e-5)
