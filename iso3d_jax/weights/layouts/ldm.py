"""The layout of latent-diffusion checkpoints: Stable Diffusion's, MVDream's and Isotropic3D's.

The keys of the released file are listed in isotropic/ldm (openaimodel.py, model.py) and in
open_clip's transformer.py. `UNET` and `VAE` have the prefixes below; the tower's is in `clip`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from iso3d_jax.diffusion.schedule import NUM_TIMESTEPS
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.weights.rules import Rule, nest

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.model.visual."

# Keys of such files that belong to no network of ours: the text tower of which Isotropic3D keeps
# the embeddings and MVDream and Stable Diffusion everything, and averaged or loss weights.
LEFTOVERS = (
    r"cond_stage_model\.model\."
    r"(positional_embedding|text_projection|logit_scale|attn_mask|token_embedding\.|ln_final\.|transformer\.)",
    r"cond_stage_model\.transformer\.",
    r"model_ema\.",
    r"logvar$",
)

RES = (
    Rule(r"norm_in/*", "in_layers.0.*"),
    Rule(r"conv_in/*", "in_layers.2.*"),
    Rule(r"emb/*", "emb_layers.1.*"),
    Rule(r"norm_out/*", "out_layers.0.*"),
    Rule(r"conv_out/*", "out_layers.3.*"),
    Rule(r"skip/*", "skip_connection.*"),
)


def transformer(ours: str, theirs: str, first: int) -> list[Rule]:
    """A SpatialTransformer at a place whose expression has `first - 1` groups."""
    block = rf"{theirs}transformer_blocks.\{first}."
    part = rf"{block}\{first + 1}."
    return [
        Rule(ours + r"(norm|proj_in|proj_out)/*", rf"{theirs}\{first}.*"),
        Rule(ours + r"blocks/(\d+)/(attn[12])/(to_[qkv])/*", rf"{part}\{first + 2}.*"),
        Rule(ours + r"blocks/(\d+)/(attn[12])/to_out/*", f"{part}to_out.0.*"),
        Rule(ours + r"blocks/(\d+)/ff/proj_in/*", f"{block}ff.net.0.proj.*"),
        Rule(ours + r"blocks/(\d+)/ff/proj_out/*", f"{block}ff.net.2.*"),
        Rule(ours + r"blocks/(\d+)/(norm[123])/*", f"{part}*"),
    ]


def count_unet(keys: Iterable[str]) -> tuple[int, int]:
    """(levels, residual blocks a level): levels are counted by their downsampling."""
    keys = list(keys)
    downs = {int(m[1]) for k in keys if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", k))}
    stages = {int(m[1]) for k in keys if (m := re.match(r"input_blocks\.(\d+)\.", k))}
    return len(downs) + 1, (min(downs) if downs else max(stages) + 1) - 1


def unet(config: UNetConfig) -> list[Rule]:
    """Stage n's parts are numbered as they come: ResBlock 0, transformer 1, upsampling last."""
    stage, key = r"(input|output)_blocks/(\d+)/", r"\1_blocks.\2."
    rules = [
        Rule(r"(time|camera)_embed/linear_in/*", r"\1_embed.0.*"),
        Rule(r"(time|camera)_embed/linear_out/*", r"\1_embed.2.*"),
        Rule(r"label_embed/linear_in/*", "label_emb.0.0.*"),
        Rule(r"label_embed/linear_out/*", "label_emb.0.2.*"),
        Rule(r"input_blocks/0/stem/*", "input_blocks.0.0.*"),
        *nest(stage + "res/", key + "0.", RES),
        *transformer(stage + "transformer/", key + "1.", 3),
        Rule(r"input_blocks/(\d+)/down/*", r"input_blocks.\1.0.op.*"),
        *nest("middle_block/res_in/", "middle_block.0.", RES),
        *transformer("middle_block/transformer/", "middle_block.1.", 1),
        *nest("middle_block/res_out/", "middle_block.2.", RES),
        Rule(r"norm_out/*", "out.0.*"),
        Rule(r"conv_out/*", "out.2.*"),
    ]
    levels, stages = len(config.channel_mult), config.num_res_blocks + 1
    for level in range(levels - 1, 0, -1):
        n = (levels - level) * stages - 1
        part = 2 if 2**level in config.attention_resolutions else 1
        rules.append(Rule(rf"output_blocks/{n}/up/conv/*", f"output_blocks.{n}.{part}.conv.*"))
    return rules


_BLOCK = r"(norm1|conv1|norm2|conv2|nin_shortcut)/*"

VAE = (
    Rule(r"(encoder|decoder)/(conv_in|norm_out|conv_out)/*", r"\1.\2.*"),
    Rule(rf"(encoder|decoder)/(down|up)/(\d+)/block/(\d+)/{_BLOCK}", r"\1.\2.\3.block.\4.\5.*"),
    Rule(r"encoder/down/(\d+)/resample/*", r"encoder.down.\1.downsample.conv.*"),
    Rule(r"decoder/up/(\d+)/resample/*", r"decoder.up.\1.upsample.conv.*"),
    Rule(rf"(encoder|decoder)/mid/(block_[12])/{_BLOCK}", r"\1.mid.\2.\3.*"),
    Rule(r"(encoder|decoder)/mid/attn_1/(norm|q|k|v|proj_out)/*", r"\1.mid.attn_1.\2.*"),
    Rule(r"((?:post_)?quant_conv)/*", r"\1.*"),
)


def schedule_buffers() -> dict[str, np.ndarray]:
    """The twelve arrays [1000] at the top of such a file (ldm/models/diffusion, register_schedule).

    Computed in float64 and stored in float32.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, NUM_TIMESTEPS, dtype=np.float64) ** 2
    alphas = 1.0 - betas
    bar = np.cumprod(alphas)
    previous = np.append(1.0, bar[:-1])
    variance = betas * (1.0 - previous) / (1.0 - bar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - bar),
        "log_one_minus_alphas_cumprod": np.log(1.0 - bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / bar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1.0 - bar),
        "posterior_mean_coef2": (1.0 - previous) * np.sqrt(alphas) / (1.0 - bar),
    }
    return {name: value.astype(np.float32) for name, value in buffers.items()}
