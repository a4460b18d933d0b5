"""The multi-view latent-diffusion UNet (Stable Diffusion 2.1's, with joint views and cameras).

Structure and names of `input_blocks`, `middle_block`, `output_blocks` follow the released
isotropic/ldm/modules/diffusionmodules/openaimodel.py:877 (MultiViewUNetModel); one code serves
the full size and the tiny one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from iso3d_jax.models.attention import SpatialTransformer
from iso3d_jax.models.embeddings import EmbeddingMLP, timestep_embedding
from iso3d_jax.models.layers import GroupNorm, LayerOptions, conv

# What the backward pass finds ready and what it computes again: everything is kept; matrix products
# without a batch axis are; only each block's input is.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class UNetConfig:
    """Constructor numbers, named as in the released yaml (isotropic/configs/mvd_infer.yaml).

    `adm_in_channels` and `use_scale_shift_norm` exist in Stable Diffusion's UNet code and are off
    in the released model. With the first, the mean context token also enters through the time
    embedding; with the second, that embedding scales as well as shifts (FiLM). Small models need
    both to make camera and embedding interact. With `reference_channels`, a clean reference latent
    of so many channels enters beside every noisy one (the project page's CCR, an ablation).
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_res_blocks: int = 2
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_head_channels: int = 64
    transformer_depth: int = 1
    context_dim: int = 1024
    camera_dim: int = 16
    num_groups: int = 32
    adm_in_channels: int = 0
    use_scale_shift_norm: bool = False
    reference_channels: int = 0


class SpatialPrior(Protocol):
    """What the prior slot takes: a module that maps embedding and cameras to every view's places.

    `__call__(token [B, E], camera [B, V, 16]) -> [B, V, H, W, num_inputs]`, of the latents' size.
    `to_channels` makes of it what is added to the UNet's first features.
    """

    num_inputs: int
    to_channels: Callable[[Array], Array]

    def __call__(
        self, token: Float[Array, "B E"], camera: Float[Array, "B V 16"]
    ) -> Float[Array, "B V H W D"]: ...


SLOTS = ("layout/", "shortcut/")  # what paths of weights in the two optional slots start with


class ResBlock(nnx.Module):
    """GroupNorm-SiLU-conv, plus the embedding, GroupNorm-SiLU-conv, plus the input."""

    def __init__(
        self, cin: int, cout: int, emb_dim: int, config: UNetConfig, **kwargs: Unpack[LayerOptions]
    ):
        self.scale_shift = config.use_scale_shift_norm
        self.norm_in = GroupNorm(cin, config.num_groups, epsilon=1e-5, **kwargs)
        self.conv_in = conv(cin, cout, **kwargs)
        self.emb = nnx.Linear(emb_dim, cout * (2 if self.scale_shift else 1), **kwargs)
        self.norm_out = GroupNorm(cout, config.num_groups, epsilon=1e-5, **kwargs)
        self.conv_out = conv(cout, cout, zero=True, **kwargs)
        self.skip = conv(cin, cout, 1, **kwargs) if cin != cout else None

    def __call__(self, x: Float[Array, "N H W C"], emb: Float[Array, "N E"]):
        h = self.conv_in(jax.nn.silu(self.norm_in(x)))
        emb = self.emb(jax.nn.silu(emb))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, -1)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + emb)
        h = self.conv_out(jax.nn.silu(h))
        return (x if self.skip is None else self.skip(x)) + h


class Upsample(nnx.Module):
    """Nearest twofold upsampling, then a 3x3 convolution."""

    def __init__(self, channels: int, **kwargs: Unpack[LayerOptions]):
        self.conv = conv(channels, channels, **kwargs)

    def __call__(self, x):
        return self.conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))


class FoldedContext(NamedTuple):
    """A context of one token as the network needs it; the same at every timestep.

    `token` [B, E] enters the time embedding of networks that have `label_embed`; `attention` has
    the cross-attention's output [B, 1, C] of every block, by transformer.
    """

    token: Array
    attention: tuple[tuple[Array, ...], ...]


class Stage(nnx.Module):
    """An entry of input_blocks or output_blocks: stem, ResBlock, transformer, resampling."""

    def __init__(self, *, stem=None, res=None, transformer=None, down=None, up=None):
        self.stem, self.res, self.transformer, self.down, self.up = stem, res, transformer, down, up

    def __call__(self, x, emb, context, num_views):
        if self.stem is not None:
            x = self.stem(x)
        if self.res is not None:
            x = self.res(x, emb)
        if self.transformer is not None:
            x = self.transformer(x, context, num_views)
        if self.down is not None:
            x = self.down(x)
        return x if self.up is None else self.up(x)


class MiddleBlock(nnx.Module):
    """ResBlock, transformer, ResBlock at the lowest resolution."""

    def __init__(self, res_in, transformer, res_out):
        self.res_in, self.transformer, self.res_out = res_in, transformer, res_out

    def __call__(self, x, emb, context, num_views):
        x = self.transformer(self.res_in(x, emb), context, num_views)
        return self.res_out(x, emb)


class NoCamera:
    """In the place of cameras: there are none, on purpose."""


class MultiViewUNet(nnx.Module):
    """Predicts noise (or v) for all views of an object at once.

    `__call__(z_t [B,V,H,W,C], t [B,V], context [B,M,E], camera [B,V,16]) -> [B,V,H,W,C]`.

    Timesteps are given per view: stage 2's noise-free reference view is a view with t = 0
    (Explicit Multi-view Attention; paper, Figure 2). Permuting views permutes outputs; V = 1 is
    an ordinary 2-D UNet.

    Two slots are empty in the method's network. `prior`, called with `rngs`, `dtype` and
    `param_dtype`, makes a `SpatialPrior`. `shortcut`, called with the numbers of its inputs, of
    its outputs and of the time embedding too, makes what is added to the output:
    `(inputs [N, H, W, D], emb [N, E]) -> [N, H, W, C]` of the noisy latents and the prior's map.
    Their weights' paths start with `layout/` and `shortcut/`.
    """

    def __init__(
        self,
        config: UNetConfig,
        prior: Callable[..., SpatialPrior] | None = None,
        shortcut: Callable[..., Any] | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.config, self.dtype = config, dtype
        self.remat = "none"  # a key of REMAT
        kwargs: LayerOptions = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        base, emb_dim = config.model_channels, config.model_channels * 4
        self.time_embed = EmbeddingMLP(base, emb_dim, **kwargs)
        self.camera_embed = (
            EmbeddingMLP(config.camera_dim, emb_dim, rngs=rngs, param_dtype=param_dtype)
            if config.camera_dim
            else None
        )
        self.label_embed = (
            EmbeddingMLP(config.adm_in_channels, emb_dim, **kwargs)
            if config.adm_in_channels
            else None
        )
        self.layout = prior(**kwargs) if prior else None

        def res(cin, cout):
            return ResBlock(cin, cout, emb_dim, config, **kwargs)

        def transformer(channels):
            head = config.num_head_channels
            return SpatialTransformer(
                channels,
                config.context_dim,
                channels // head,
                head,
                config.transformer_depth,
                num_groups=config.num_groups,
                **kwargs,
            )

        blocks = [Stage(stem=conv(config.in_channels + config.reference_channels, base, **kwargs))]
        skips, channels, ds = [base], base, 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                attn = transformer(mult * base) if ds in config.attention_resolutions else None
                blocks.append(Stage(res=res(channels, mult * base), transformer=attn))
                channels = mult * base
                skips.append(channels)
            if level < len(config.channel_mult) - 1:
                blocks.append(Stage(down=conv(channels, channels, stride=2, **kwargs)))
                skips.append(channels)
                ds *= 2
        self.input_blocks = nnx.List(blocks)
        self.middle_block = MiddleBlock(
            res(channels, channels), transformer(channels), res(channels, channels)
        )

        blocks = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                attn = transformer(mult * base) if ds in config.attention_resolutions else None
                block = res(channels + skips.pop(), mult * base)
                channels = mult * base
                last = level > 0 and i == config.num_res_blocks
                blocks.append(
                    Stage(
                        res=block,
                        transformer=attn,
                        up=Upsample(channels, **kwargs) if last else None,
                    )
                )
                ds = ds // 2 if last else ds
        self.output_blocks = nnx.List(blocks)
        straight = config.in_channels + (self.layout.num_inputs if self.layout else 0)
        self.shortcut = (
            shortcut(straight, config.out_channels, emb_dim, **kwargs) if shortcut else None
        )
        self.norm_out = GroupNorm(base, config.num_groups, epsilon=1e-5, **kwargs)
        self.conv_out = conv(base, config.out_channels, zero=True, **kwargs)

    def fold_context(self, context: Float[Array, "B 1 E"]) -> FoldedContext:
        """Everything that depends on the context alone; for loops over timesteps."""
        token = context.astype(self.dtype)
        stages = (*self.input_blocks, self.middle_block, *self.output_blocks)
        transformers = [s.transformer for s in stages if s.transformer is not None]
        return FoldedContext(context[:, 0], tuple(t.fold(token) for t in transformers))

    def __call__(
        self,
        z_t: Float[Array, "B V H W C"],
        t: Real[Array, "B V"],
        context: Float[Array, "B M E"] | FoldedContext,
        camera: Float[Array, "B V 16"] | NoCamera | None,
        reference: Float[Array, "#B 1 H W D"] | None = None,
    ) -> Float[Array, "B V H W out"]:
        """Runs the network; output in float32.

        Args:
          z_t: noisy latents (the reference view, if any, clean and at its own place).
          t: timesteps 0..999, one a view.
          context: embedding tokens, one image embedding [B, 1, E] in this project; or what
            `fold_context` made of one token.
          camera: float32 vectors of `geometry.cameras.camera_condition`; `NoCamera()` leaves the
            camera's part of the time embedding out, for pictures of which nobody knows the camera.
          reference: a clean latent, for networks with `reference_channels`; None is zeros, which
            training shows such a network as "no reference".
        """
        batch, num_views = z_t.shape[:2]
        straight = [z_t]
        if self.config.reference_channels:
            shape = (*z_t.shape[:-1], self.config.reference_channels)
            beside = jnp.zeros(shape) if reference is None else jnp.broadcast_to(reference, shape)
            z_t = jnp.concatenate([z_t, beside.astype(z_t.dtype)], -1)
        x = z_t.reshape(batch * num_views, *z_t.shape[2:]).astype(self.dtype)  # [B*V, H, W, C]
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels).astype(self.dtype))
        if self.camera_embed is not None and not isinstance(camera, NoCamera):
            emb = emb + self.camera_embed(_given(camera).astype(jnp.float32)).astype(emb.dtype)
        if not isinstance(context, FoldedContext) and context.shape[1] == 1:
            context = self.fold_context(context)
        token = context.token if isinstance(context, FoldedContext) else context.mean(1)  # [B, E]
        if self.label_embed is not None:
            emb = emb + self.label_embed(token.astype(self.dtype))[:, None, :]
        emb = emb.reshape(batch * num_views, -1)  # [B*V, E]
        of_transformers = _contexts(context, num_views, self.dtype)

        def run(block, x):
            own = next(of_transformers) if block.transformer is not None else None
            if self.remat == "none":
                return block(x, emb, own, num_views)
            again = jax.checkpoint(
                lambda block, *inputs: block(*inputs, num_views), policy=REMAT[self.remat]
            )
            return again(block, x, emb, own)

        skips = []
        for i, block in enumerate(self.input_blocks):
            x = run(block, x)
            if i == 0 and self.layout is not None:
                places = self.layout(token, _given(camera))
                straight.append(places)
                x = x + self.layout.to_channels(places).reshape(x.shape)
            skips.append(x)
        x = run(self.middle_block, x)
        for block in self.output_blocks:
            x = run(block, jnp.concatenate([x, skips.pop()], -1))
        x = self.conv_out(jax.nn.silu(self.norm_out(x)))
        if self.shortcut is not None:
            inputs = jnp.concatenate([part.astype(self.dtype) for part in straight], -1)
            x = x + self.shortcut(inputs.reshape(batch * num_views, *inputs.shape[2:]), emb)
        return x.reshape(batch, num_views, *x.shape[1:]).astype(jnp.float32)


class UNetWithReference(nnx.Module):
    """A network with `reference_channels` and the latent that it is always shown.

    Called as a network without them is. The reference is there with and without the embedding, so
    classifier-free guidance strengthens the embedding alone.
    """

    def __init__(self, unet: MultiViewUNet, reference: Float[Array, "1 1 H W C"]):
        self.unet, self.reference = unet, nnx.Variable(reference)

    def fold_context(self, context: Float[Array, "B 1 E"]) -> FoldedContext:
        """As of the network inside."""
        return self.unet.fold_context(context)

    def __call__(self, z_t, t, context, camera) -> Float[Array, "B V H W out"]:
        """As of the network inside, with the reference."""
        return self.unet(z_t, t, context, camera, self.reference.get_value())


def _given(camera: Array | NoCamera | None) -> Array:
    """The cameras, of networks that take them."""
    if camera is None or isinstance(camera, NoCamera):
        raise ValueError("this network takes cameras")
    return camera


def _contexts(context, num_views: int, dtype):
    """What each transformer attends to, in order, with a row for every view."""
    if isinstance(context, FoldedContext):
        for blocks in context.attention:
            yield tuple(jnp.repeat(constant, num_views, 0) for constant in blocks)
    else:
        tokens = jnp.repeat(context.astype(dtype), num_views, 0)  # [B*V, M, E]
        while True:
            yield tokens
