"""Reads a network's numbers off the shapes of its weights.

Shapes tell everything but a few numbers: the width of an attention head, the number of groups of
GroupNorm, the patch of the autoencoder. Those come from `--arch` or from the known models, and
are checked against the shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig

# (path of ours) -> shape of ours, or None where the source has no such weight.
ShapeOf = Callable[[str], tuple[int, ...] | None]

CLIP_HEADS = {768: 12, 1024: 16, 1280: 16, 1664: 16}  # ViT-B, L, H, bigG of open_clip
NOT_IN_SHAPES = {
    "unet": ("num_head_channels", "num_groups"),
    "vae": ("num_groups", "patch"),
    "clip": ("heads",),
}
# Entries of the released yaml files that say nothing about weights, or what our code fixes.
SILENT = frozenset(
    "image_size resolution dropout use_checkpoint legacy use_fp16 double_z use_spatial_transformer "
    "use_linear_in_transformer attn_resolutions".split()
)


def read_unet(shape_of: ShapeOf, levels: int, num_res_blocks: int, given: Mapping) -> UNetConfig:
    """The UNet's numbers.

    Args:
      shape_of: shapes of our weights as the source has them.
      levels, num_res_blocks: counted by the layout.
      given: `--arch`'s entries.
    """
    stem = _need(shape_of, "input_blocks/0/stem/kernel", "UNet")
    base = stem[-1]
    mults, resolutions, widths, depth, context_dim, film = [], [], [], 0, 0, False
    n = 1
    for level in range(levels):
        attentions = set()
        for _ in range(num_res_blocks):
            cout = _need(shape_of, f"input_blocks/{n}/res/conv_in/kernel", "UNet")[-1]
            film = _need(shape_of, f"input_blocks/{n}/res/emb/kernel", "UNet")[-1] == 2 * cout
            place = f"input_blocks/{n}/transformer"
            attentions.add(shape_of(f"{place}/norm/scale") is not None)
            if True in attentions:
                depth = _count(shape_of, place + "/blocks/{}/norm1/scale")
                key = _need(shape_of, f"{place}/blocks/0/attn2/to_k/kernel", "UNet")
                context_dim = key[0]
                widths.append(key[1])
            n += 1
        if len(attentions) > 1:
            raise UserError(f"the UNet has attention in some blocks of level {level} only")
        mults.append(cout / base)
        if True in attentions:
            resolutions.append(2**level)
        n += 1
    if not widths:
        raise UserError("the UNet has no attention in its levels, which this code cannot be")
    if any(mult != int(mult) for mult in mults):
        raise UserError(f"the UNet's widths are not multiples of {base}")
    camera = shape_of("camera_embed/linear_in/kernel")
    label = shape_of("label_embed/linear_in/kernel")
    return _finish(
        UNetConfig, "unet", given,
        lambda config: _check_heads(config.num_head_channels, widths),
        in_channels=stem[2],
        out_channels=_need(shape_of, "conv_out/kernel", "UNet")[-1],
        model_channels=base,
        attention_resolutions=tuple(reversed(resolutions)),
        num_res_blocks=num_res_blocks,
        channel_mult=tuple(int(mult) for mult in mults),
        transformer_depth=depth,
        context_dim=context_dim,
        camera_dim=camera[0] if camera else 0,
        adm_in_channels=label[0] if label else 0,
        use_scale_shift_norm=film,
    )  # fmt: skip


def _check_heads(head: int, widths: list[int]) -> str | None:
    if bad := [width for width in widths if head < 1 or width % head]:
        return f"attention of {bad[0]} channels does not divide into heads of {head}"
    return None


def read_vae(shape_of: ShapeOf, given: Mapping) -> VAEConfig:
    """The autoencoder's numbers."""
    first = _need(shape_of, "encoder/conv_in/kernel", "autoencoder")
    levels = _count(shape_of, "encoder/down/{}/block/0/conv1/kernel")
    widths = [
        _need(shape_of, f"encoder/down/{i}/block/0/conv1/kernel", "autoencoder")[-1]
        for i in range(levels)
    ]
    if any(width % first[-1] for width in widths):
        raise UserError(f"the autoencoder's widths are not multiples of {first[-1]}")
    patch = int(given.get("patch", 1))
    return _finish(
        VAEConfig, "vae", given, lambda config: None,
        ch=first[-1],
        ch_mult=tuple(width // first[-1] for width in widths),
        num_res_blocks=_count(shape_of, "encoder/down/0/block/{}/conv1/kernel"),
        z_channels=_need(shape_of, "encoder/conv_out/kernel", "autoencoder")[-1] // 2,
        embed_dim=_need(shape_of, "post_quant_conv/kernel", "autoencoder")[-2],
        in_channels=first[2] // patch**2,
        out_ch=_need(shape_of, "decoder/conv_out/kernel", "autoencoder")[-1] // patch**2,
    )  # fmt: skip


def read_clip(shape_of: ShapeOf, given: Mapping) -> CLIPConfig:
    """The vision tower's numbers; 256 patches and the class token mean 16 x 16 patches."""
    patch, _, _, width = _need(shape_of, "conv1/kernel", "vision tower")
    tokens = _need(shape_of, "positional_embedding", "vision tower")[0]
    side = math.isqrt(tokens - 1)
    if side * side != tokens - 1:
        raise UserError(f"the vision tower has {tokens} positions, which are no square and a class")
    heads = CLIP_HEADS.get(width, 0)

    def check(config):
        if config.heads == 0:
            return f"the number of heads of a tower {width} wide is not known"
        if config.heads < 0 or width % config.heads:
            return f"a width of {width} does not divide into {config.heads} heads"
        return None

    return _finish(
        CLIPConfig, "clip", {"heads": heads} | dict(given), check,
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=_count(shape_of, "blocks/{}/ln_1/scale"),
        mlp_ratio=_need(shape_of, "blocks/0/c_fc/kernel", "vision tower")[-1] / width,
        output_dim=_need(shape_of, "proj", "vision tower")[-1],
    )  # fmt: skip


def _need(shape_of: ShapeOf, path: str, what: str) -> tuple[int, ...]:
    shape = shape_of(path)
    if shape is None:
        raise UserError(f"the {what} cannot be recognised: nothing in the file is its {path}")
    return shape


def _count(shape_of: ShapeOf, path: str) -> int:
    count = 0
    while shape_of(path.format(count)) is not None:
        count += 1
    return count


def _finish(kind, name: str, given: Mapping, check, **read):
    """The config: what was read, plus what only `given` can say; disagreements are errors."""
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(given) - known - SILENT):
        said = shorten(", ".join(unknown))
        raise UserError(f"--arch: section '{name}' has unknown entries: {said}")
    extra = {key: given[key] for key in NOT_IN_SHAPES[name] if key in given}
    for key, value in read.items():
        if key in given and _numbers(key, given[key]) != _numbers(key, value):
            raise UserError(
                f"--arch: {name}.{key} is {given[key]}, but the weights' shapes say {value}"
            )
    config = kind(**read, **extra)
    if problem := check(config):
        names = " and ".join(f'"{key}"' for key in NOT_IN_SHAPES[name][:1])
        raise UserError(
            f'{problem}; say {names} in the section "{name}" of a JSON file given by --arch'
        )
    return config


def _numbers(key: str, value) -> list[float]:
    """Values in a comparable form; the order of attention's resolutions says nothing."""
    numbers = [float(v) for v in (value if isinstance(value, list | tuple) else [value])]
    return sorted(numbers) if key == "attention_resolutions" else numbers
