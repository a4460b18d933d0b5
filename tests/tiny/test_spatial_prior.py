"""The coarse map that small models are given: silent at first, one map a view."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iso3d_jax.models.params import merge_params, split_params
from iso3d_jax.models.unet import MultiViewUNet
from iso3d_jax.tiny.spatial_prior import Layout, SpatialUNetConfig, spatial_unet

CONFIG = SpatialUNetConfig(
    in_channels=3, out_channels=5, model_channels=16, attention_resolutions=(1,),
    num_res_blocks=1, channel_mult=(1,), num_head_channels=8, context_dim=7, num_groups=4,
)  # fmt: skip


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_a_trained_network_that_is_given_a_layout_is_unchanged_at_first():
    plain = MultiViewUNet(CONFIG, rngs=nnx.Rngs(0))
    _, weights = split_params(plain)
    weights["conv_out/kernel"] = normal(*weights["conv_out/kernel"].shape)
    with_layout = spatial_unet(dataclasses.replace(CONFIG, layout_size=4), rngs=nnx.Rngs(1))
    graphdef, fresh = split_params(with_layout)
    assert set(fresh) - set(weights) == {p for p in fresh if p.startswith("layout/")} != set()
    inputs = normal(2, 3, 4, 4, 3), jnp.full((2, 3), 500.0), normal(2, 1, 7), normal(2, 3, 16)
    run = jax.jit(lambda unet, *args: unet(*args))
    before = run(merge_params(split_params(plain)[0], weights), *inputs)
    np.testing.assert_allclose(run(merge_params(graphdef, fresh | weights), *inputs), before)

    weights["layout/to_channels/kernel"] = normal(*fresh["layout/to_channels/kernel"].shape)
    unet = merge_params(graphdef, fresh | weights)
    spoken = run(unet, *inputs)
    assert np.abs(spoken - before).max() > 1e-2
    folded = jax.jit(lambda unet, context: unet.fold_context(context))(unet, inputs[2])
    np.testing.assert_allclose(run(unet, *inputs[:2], folded, inputs[3]), spoken, atol=1e-5)


def test_views_are_drawn_one_by_one_and_the_camera_multiplies_the_embedding():
    module = Layout(4, 6, embedding_dim=7, camera_dim=16, rngs=nnx.Rngs(0))
    module.to_channels.kernel[...] = normal(16, 6)

    def layout(token, camera):
        return module.to_channels(module(token, camera))

    token, camera = normal(2, 7), normal(2, 3, 16, seed=1)
    maps = layout(token, camera)
    assert maps.shape == (2, 3, 4, 4, 6)
    np.testing.assert_allclose(layout(token, camera[:, ::-1]), maps[:, ::-1], atol=1e-5)
    # Were the two only added up, the difference that a camera makes would not depend on the token.
    turned = layout(token, camera + 1.0) - maps
    assert (
        np.abs(
            turned[0] - (layout(token[::-1], camera + 1.0) - layout(token[::-1], camera))[0]
        ).max()
        > 1e-2
    )


def test_a_shortcut_is_silent_at_first_and_then_a_line_scaled_by_the_noise_level():
    config = dataclasses.replace(CONFIG, layout_size=4, shortcut=True)
    graphdef, weights = split_params(spatial_unet(config, rngs=nnx.Rngs(0)))
    z_t, t, context = normal(2, 3, 4, 4, 3), jnp.full((2, 3), 500.0), normal(2, 1, 7)
    camera = normal(2, 3, 16)
    run = jax.jit(lambda weights, *args: merge_params(graphdef, weights)(*args))
    np.testing.assert_array_equal(run(weights, z_t, t, context, camera), 0.0)

    # With the network itself still silent, the output is the line alone.
    line = normal(*weights["shortcut/line/kernel"].shape)
    weights["shortcut/line/kernel"] = line
    unet = merge_params(graphdef, weights)
    straight = jnp.concatenate([z_t, unet.layout(context[:, 0], camera)], -1) @ line
    np.testing.assert_allclose(run(weights, z_t, t, context, camera), straight, atol=1e-4)
    np.testing.assert_allclose(
        run(weights, z_t[:, ::-1], t, context, camera[:, ::-1]), straight[:, ::-1], atol=1e-4
    )

    weights["shortcut/scale/kernel"] = 0.1 * normal(*weights["shortcut/scale/kernel"].shape)
    early, late = (run(weights, z_t, jnp.full((2, 3), s), context, camera) for s in (20.0, 980.0))
    assert np.abs(early - late).max() > 1e-2
