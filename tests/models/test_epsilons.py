"""What is added under the roots of norms, which comparisons of pictures hardly see."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.models import clip, layers, unet, vae

# Of the released code: openaimodel.py's GroupNorm32 (PyTorch's default), attention.py's Normalize
# and its LayerNorms, model.py's Normalize, and open_clip's LayerNorms.
RELEASED = {
    r"unet/.*transformer/norm": 1e-6,
    r"unet/.*transformer/blocks/\d+/norm[123]": 1e-5,
    r"unet/.*res\w*/norm\w*": 1e-5,
    r"unet/(out_norm|norm_out)": 1e-5,
    r"vae/.*": 1e-6,
    r"clip/.*": 1e-5,
}


def norms():
    """(path, epsilon) of every norm of the three networks."""
    networks = {
        "unet": lambda: unet.MultiViewUNet(
            unet.UNetConfig(
                model_channels=16, channel_mult=(1, 2), attention_resolutions=(1, 2),
                num_res_blocks=1, num_head_channels=8, context_dim=8, num_groups=4,
            ),
            rngs=nnx.Rngs(0),
        ),
        "vae": lambda: vae.AutoencoderKL(
            vae.VAEConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, num_groups=4), rngs=nnx.Rngs(0)
        ),
        "clip": lambda: clip.CLIPVisionTower(
            clip.CLIPConfig(image_size=8, patch_size=4, width=8, layers=1, heads=2, output_dim=4),
            rngs=nnx.Rngs(0),
        ),
    }  # fmt: skip
    for name, build in networks.items():
        for path, node in nnx.iter_modules(nnx.eval_shape(build)):
            if isinstance(node, nnx.LayerNorm | layers.GroupNorm):
                yield "/".join((name, *map(str, path))), node.epsilon


def test_every_norm_has_the_released_epsilon():
    seen = set()
    for path, epsilon in norms():
        rule = next((rule for rule in RELEASED if re.fullmatch(rule, path)), None)
        assert rule, f"no rule for {path}"
        assert epsilon == RELEASED[rule], path
        seen.add(rule)
    assert seen == set(RELEASED)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_the_epsilon_is_added_to_the_variance(epsilon):
    """Inputs so small that it decides."""
    norm = layers.GroupNorm(4, 2, epsilon=epsilon, rngs=nnx.Rngs(0))
    x = 1e-3 * np.random.default_rng(0).normal(size=(1, 3, 2, 4))
    groups = x.reshape(1, 6, 2, 2)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    want = ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    np.testing.assert_allclose(jax.jit(norm)(jnp.asarray(x, jnp.float32)), want, rtol=1e-3)
