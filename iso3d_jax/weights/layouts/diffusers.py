"""diffusers' layout: `UNet2DConditionModel` and `AutoencoderKL`.

Its blocks are counted by level and place, ours (and latent-diffusion's) in one row, so the
tables depend on the number of levels and of residual blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig
from iso3d_jax.weights.layouts.ldm import transformer
from iso3d_jax.weights.rules import Rule, nest

RES = (
    Rule(r"norm_in/*", "norm1.*"),
    Rule(r"conv_in/*", "conv1.*"),
    Rule(r"emb/*", "time_emb_proj.*"),
    Rule(r"norm_out/*", "norm2.*"),
    Rule(r"conv_out/*", "conv2.*"),
    Rule(r"skip/*", "conv_shortcut.*"),
)


def count_unet(keys: Iterable[str]) -> tuple[int, int]:
    """(levels, residual blocks a level)."""
    pattern = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.")
    places = [m.groups() for key in keys if (m := pattern.match(key))]
    return 1 + max(int(level) for level, _ in places), 1 + max(int(block) for _, block in places)


def unet(config: UNetConfig) -> list[Rule]:
    """The 2-D part of the UNet."""
    levels, blocks = len(config.channel_mult), config.num_res_blocks
    rules = [
        Rule(r"time_embed/linear_in/*", "time_embedding.linear_1.*"),
        Rule(r"time_embed/linear_out/*", "time_embedding.linear_2.*"),
        Rule(r"input_blocks/0/stem/*", "conv_in.*"),
        *nest("middle_block/res_in/", "mid_block.resnets.0.", RES),
        *transformer("middle_block/transformer/", "mid_block.attentions.0.", 1),
        *nest("middle_block/res_out/", "mid_block.resnets.1.", RES),
        Rule(r"norm_out/*", "conv_norm_out.*"),
        Rule(r"conv_out/*", "conv_out.*"),
    ]
    for level in range(levels):
        first = 1 + level * (blocks + 1)
        for i in range(blocks):
            rules += _stage(f"input_blocks/{first + i}/", f"down_blocks.{level}.", i)
        down = f"down_blocks.{level}.downsamplers.0.conv.*"
        rules.append(Rule(rf"input_blocks/{first + blocks}/down/*", down))
        first = level * (blocks + 1)
        for i in range(blocks + 1):
            rules += _stage(f"output_blocks/{first + i}/", f"up_blocks.{level}.", i)
        up = f"up_blocks.{level}.upsamplers.0.conv.*"
        rules.append(Rule(rf"output_blocks/{first + blocks}/up/conv/*", up))
    return rules


def _stage(ours: str, theirs: str, i: int) -> list[Rule]:
    return [
        *nest(ours + "res/", f"{theirs}resnets.{i}.", RES),
        *transformer(ours + "transformer/", f"{theirs}attentions.{i}.", 1),
    ]


BLOCK = (
    Rule(r"(norm1|conv1|norm2|conv2)/*", r"\1.*"),
    Rule(r"nin_shortcut/*", "conv_shortcut.*"),
)


def count_vae(keys: Iterable[str]) -> int:
    """Levels."""
    places = [m.group(1) for k in keys if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", k))]
    return 1 + max(int(level) for level in places)


def vae(config: VAEConfig) -> list[Rule]:
    """The autoencoder. Its decoder counts levels from the coarsest, ours from the finest."""
    levels, blocks = len(config.ch_mult), config.num_res_blocks
    rules = [
        Rule(r"(encoder|decoder)/norm_out/*", r"\1.conv_norm_out.*"),
        Rule(r"(encoder|decoder)/(conv_in|conv_out)/*", r"\1.\2.*"),
        Rule(r"((?:post_)?quant_conv)/*", r"\1.*"),
    ]
    for half in ("encoder", "decoder"):
        mid = f"{half}.mid_block."
        attention = mid + "attentions.0."
        rules += [
            *_blocks(f"{half}/mid/block_1/", mid + "resnets.0."),
            *_blocks(f"{half}/mid/block_2/", mid + "resnets.1."),
            Rule(rf"{half}/mid/attn_1/norm/*", attention + "group_norm.*"),
            Rule(rf"{half}/mid/attn_1/(q|k|v)/*", attention + r"to_\1.*", "linear"),
            Rule(rf"{half}/mid/attn_1/proj_out/*", attention + "to_out.0.*", "linear"),
        ]
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}.", f"decoder.up_blocks.{levels - 1 - level}."
        for i in range(blocks + 1):
            rules += _blocks(f"encoder/down/{level}/block/{i}/", f"{down}resnets.{i}.")
            rules += _blocks(f"decoder/up/{level}/block/{i}/", f"{up}resnets.{i}.")
        rules.append(Rule(rf"encoder/down/{level}/resample/*", down + "downsamplers.0.conv.*"))
        rules.append(Rule(rf"decoder/up/{level}/resample/*", up + "upsamplers.0.conv.*"))
    return rules


def _blocks(ours: str, theirs: str) -> list[Rule]:
    return nest(ours, theirs, BLOCK)


# Names of the middle attention's matrices before diffusers 0.18.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"(attentions\.0\.)(query|key|value|proj_attn)\.")


def modern_name(key: str) -> str:
    """A key of an old autoencoder file as today's."""
    return _OLD.sub(lambda m: f"{m[1]}{_OLD_NAMES[m[2]]}.", key)


def unet_settings(config: UNetConfig, latent_size: int) -> dict:
    """`unet/config.json` of a UNet."""
    widths = [config.model_channels * mult for mult in config.channel_mult]
    cross = [2**level in config.attention_resolutions for level in range(len(widths))]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        # diffusers' name for the number of heads
        "attention_head_dim": [width // config.num_head_channels for width in widths],
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": config.context_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": config.num_groups,
        "out_channels": config.out_channels,
        "sample_size": latent_size,
        "transformer_layers_per_block": config.transformer_depth,
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        "use_linear_projection": True,
    }


def vae_settings(config: VAEConfig, scale_factor: float) -> dict:
    """`vae/config.json` of an autoencoder."""
    levels = len(config.ch_mult)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [config.ch * mult for mult in config.ch_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.z_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.num_groups,
        "out_channels": config.out_ch,
        "scaling_factor": scale_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def scheduler_settings(parameterization: str) -> dict:
    """`scheduler/scheduler_config.json`: DDIM as the released guidance sets it up."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction" if parameterization == "v" else "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
