"""What every value of every config may be: one table of (path, rule), the first match wins.

    config_checks.check(cfg)  # UserError on the first value that may not be

A path is what stands after `--config.`, and a comparison's sections (`stage1.`, `stage2.NAME.`,
`reconstruct.`) have the rules of the configs that they hold. Rules are about one value alone;
relations between several keys are checked where they matter. A key without a rule is taken as it
is, which is meant for configs of one's own: a test walks every preset of configs/ and fails where
a key has none. A new key gets its line in RULES below.

Commands ask for it before JAX or a weight is loaded, so this module imports neither.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from iso3d_jax.commands.config_rules import (
    LARGE,
    MOST,
    Rule,
    choice,
    either,
    is_number,
    is_row,
    is_whole,
    number,
    pair,
    ramp,
    row,
    subset,
    whole,
)
from iso3d_jax.core.errors import UserError


def _are_phases(value: Any) -> bool:
    if not is_row(value) or not len(value) or not all(is_row(phase, 3) for phase in value):
        return False
    limits = ((0, MOST), (1, 4096), (1, 1024))
    fit = all(
        is_whole(v) and low <= v <= high
        for phase in value
        for v, (low, high) in zip(phase, limits, strict=True)
    )
    return fit and all(a[0] <= b[0] for a, b in zip(value, value[1:], strict=False))


def _are_sets(value: Any) -> bool:
    return (
        is_row(value)
        and len(value) > 0
        and all(
            is_row(one, 2) and all(map(is_number, one)) and abs(one[0]) <= 360 and abs(one[1]) < 90
            for one in value
        )
    )


MODELS_OWN = Rule("() (the model's own way)", lambda v: is_row(v, 0))
BASES_OWN = Rule("None (the base's own)", lambda v: v is None)
TEXT = Rule("a text", lambda v: isinstance(v, str))
YES_NO = Rule("true or false", lambda v: isinstance(v, bool))
COUNT = whole(1)
OR_NEVER = whole(0, note=" (0: never)")
SIDE = whole(1, 8192)  # of a picture, in pixels
SHARE = number(0, 1)
BELOW_ONE = number(0, 1, below=True)
POSITIVE = number(0, above=True)
NOT_NEGATIVE = number(0)
RATE = number(0, 10, above=True)  # a learning rate
WEIGHT = ramp(NOT_NEGATIVE)  # of a loss
FIELD_OF_VIEW = Rule(
    "an angle above 0 and below 180 degrees", lambda v: is_number(v) and 0 < v < 180
)
ELEVATION = Rule("an angle between -90 and 90 degrees", lambda v: is_number(v) and abs(v) < 90)
PICTURES = ("centred", "framed", "launch", "i2i")
DTYPES = ("float32", "bfloat16")
SPLITS = ("train", "validation", "test", "all")
TRAINED_WITH = ("mvdream", "isotropic3d", "harmonics", "harmonics_lens")  # cameras
SAMPLED_WITH = (*TRAINED_WITH, "isotropic3d_sampling")

RULES: tuple[tuple[str, Rule], ...] = (
    # every config
    (r"seed", whole(0)),
    (r"preset|data|data_encoded|data_pictures|init_from|init\.\w+|model\.name", TEXT),
    (r"steps|batch_size|accumulate|data_variants|objects|seeds|keep", COUNT),
    (r"dtype", choice(*DTYPES)),
    # training (presets/common.py and the files beside it)
    (r"task", choice("autoencoder", "image_tower", "sampled_views", "denoiser")),
    (r"stage", whole(1, 2)),
    (r"learning_rate", RATE),
    (r"final_learning_rate", number(0, 10)),
    (r"lr_schedule", choice("cosine", "constant")),
    (r"warmup_steps", whole(0)),
    (r"weight_decay", NOT_NEGATIVE),
    (r"adam_b2|ema_decay", BELOW_ONE),
    (r"grad_clip", POSITIVE),
    (r"optimizer", choice("adamw", "adamw_bf16", "adafactor")),
    (r"on_bad_step", choice("stop", "skip")),
    (r"spike_factor", Rule(
        "0 (no loss is a spike) or a number above 1",
        lambda v: is_number(v) and (v == 0 or 1 < v <= LARGE),
    )),
    (r"max_skips", COUNT),
    (r"data_weights", row(POSITIVE)),
    (r"picture_share", BELOW_ONE),
    (r"read_processes", whole(0, 1024)),
    (r"max_damaged_share", BELOW_ONE),
    (r"log_every|checkpoint_every", COUNT),
    (r"(sample|ablate|save|preview)_every", OR_NEVER),
    (r"mesh\.(fsdp|tensor)", COUNT),
    (r"encoding", choice("once", "online")),
    (r"loader", choice("memory", "grain")),
    (r"(embedding|reference)_dropout|single_view_share|front_share", SHARE),
    (r"reference_dropped_with_embedding", YES_NO),
    (r"reference", choice("attention", "channels")),
    (r"ablation", choice("", "no_ema", "ccr", "no_stage1")),
    (r"num_views|views", whole(1, 64)),
    (r"loss_weighting", choice("plain", "min_snr")),
    (r"min_snr_gamma|lora_alpha", POSITIVE),
    (r"noise_offset|timestep_bias", number(0, 100)),
    (r"trainable", choice("all", "attention", "lora", "refine")),
    (r"lora_rank|drawn_views", COUNT),
    (r"remat", choice("none", "dots", "blocks")),
    (r"\w+_(weight|strength|noise)", NOT_NEGATIVE),
    (r"pictures", either(MODELS_OWN, subset(*PICTURES))),
    # a model, and its networks
    (r"model\.resolution", whole(8, 8192)),
    (r"model\.scale_factor", POSITIVE),
    # of these "" and None stand for the base's own
    (r"model\.parameterization", choice("", "eps", "v")),
    (r"model\.camera_encoding", choice("", *TRAINED_WITH)),
    (r"model\.sampling_camera_encoding", choice("", *SAMPLED_WITH)),
    (r"model\.picture", choice("", *PICTURES)),
    (r"model\.guidance_scale", either(BASES_OWN, number(0, 1000))),
    (r"model\.eta", either(BASES_OWN, SHARE)),
    (r"model\.temperature", either(BASES_OWN, number(0, 10))),
    (r"model\.steps", either(BASES_OWN, whole(1, 999))),
    (r"model\.spacing", either(BASES_OWN, choice("leading", "trailing"))),
    (r"model\.unet\.attention_resolutions", row(COUNT)),
    (r"model\.(unet|vae)\.(channel_mult|ch_mult)", Rule(
        "at least one whole number of at least 1",
        lambda v: is_row(v) and len(v) > 0 and all(map(COUNT.accepts, v)),
    )),
    (r"model\.unet\.(use_scale_shift_norm|shortcut)", YES_NO),
    (r"model\.unet\.(adm_in_channels|reference_channels|layout_size|num_res_blocks)", whole(0)),
    (r"model\.clip\.mlp_ratio", POSITIVE),
    (r"model\.(unet|vae|clip)\.\w+", COUNT),
    # a comparison
    (r"split", choice(*SPLITS)),
    (r"scenes", whole(0)),
    (r"ddim_steps", whole(1, 999)),
    (r"reference_l2", POSITIVE),
    # a reconstruction
    (r"mode", choice("sds", "views")),
    (r"init", TEXT),  # none, views, or the folder of a run
    (r"init_skip", BELOW_ONE),
    (r"picture", choice("", *PICTURES)),
    (r"phases", Rule(
        "one or more (until iteration, render resolution from 1 to 4096, groups of views from 1 to "
        "1024), the iterations in order",
        _are_phases,
    )),
    (r"steps_per_call|max_bad_steps", COUNT),
    (r"parallelism", choice("objects", "views")),
    (r"memory", choice("normal", "low")),
    (r"field\.(levels|features)", whole(1, 64)),
    (r"field\.log2_table_size", whole(1, 30)),
    (r"field\.(base_resolution|hidden)", SIDE),
    (r"field\.growth", number(1, 16)),
    (r"field\.blob_scale", NOT_NEGATIVE),
    (r"field\.(radius|blob_std)", POSITIVE),
    (r"render\.bound", choice("box", "sphere")),
    (r"render\.(step_size|candidates|samples|normals)", POSITIVE),
    (r"render\.(alpha_threshold|early_stop)", BELOW_ONE),
    (r"render\.chunk", whole(0, note=" (0: all at once)")),
    (r"occupancy\.resolution", whole(1, 1024)),
    (r"occupancy\.every", COUNT),
    (r"occupancy\.decay", SHARE),
    (r"occupancy\.threshold", NOT_NEGATIVE),
    (r"occupancy\.warmup", whole(0)),
    (r"camera\.fov_deg", pair(0, 180, "degrees above 0 and below 180")),
    (r"camera\.elevation_deg", pair(-90, 90, "degrees between -90 and 90")),
    (r"camera\.distance", pair(0, LARGE, "numbers above 0")),
    (r"guidance\.loss", choice("x0", "sds")),
    (r"guidance\.scale", number(0, 1000)),
    (r"guidance\.rescale", SHARE),
    (r"guidance\.(low|high)", ramp(SHARE)),
    (r"loss\.\w+|draft\.(mask|hull|opaque|sparsity|orientation)", WEIGHT),
    (r"(reference|draft)\.fov_deg", FIELD_OF_VIEW),
    (r"(reference|draft)\.distance", POSITIVE),
    (r"reference\.elevation_deg", ELEVATION),
    (r"reference\.mask", NOT_NEGATIVE),
    (r"shading\.start_step", whole(0)),
    (r"shading\.probability", SHARE),
    (r"optimizer\.(encoding|networks)|draft\.networks", RATE),
    (r"optimizer\.(b1|b2)", BELOW_ONE),
    (r"optimizer\.eps", number(0, 1, above=True)),
    (r"optimizer\.weight_decay", NOT_NEGATIVE),
    (r"optimizer\.final", SHARE),
    (r"draft\.(steps|rays)", COUNT),
    (r"draft\.sets", Rule(
        "at least one (azimuth from -360 to 360 degrees, elevation between -90 and 90 degrees)",
        _are_sets,
    )),
    (r"draft\.white", pair(-1e-9, 1, "shares of at least 0 and below 1", distinct=True)),
    (r"draft\.fill", YES_NO),
    (r"draft\.hull_resolution", whole(2, 1024)),
    (r"show\.sharpness", POSITIVE),
    (r"show\.surface", choice("outline", "hull")),
    (r"video\.frames", whole(1, 10_000)),
    (r"video\.resolution", whole(16, 4096)),
    (r"video\.seconds", POSITIVE),
    (r"mesh\.resolution", whole(16, 1024)),
    (r"mesh\.faces", whole(100)),
    (r"mesh\.texture", whole(64, 8192)),
    (r"mesh\.threshold", NOT_NEGATIVE),
    (r"mesh\.remove_outliers", SHARE),
)  # fmt: skip

_SECTION = re.compile(r"^(stage1|stage2\.\w+|reconstruct)\.")


def rule_for(path: str) -> Rule | None:
    """The first rule whose pattern is the whole path, or None."""
    path = _SECTION.sub("", path)
    return next((rule for pattern, rule in RULES if re.fullmatch(pattern, path)), None)


def leaves(cfg: Mapping | ConfigDict, above: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every single value."""
    for key, value in cfg.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def check(cfg: Mapping | ConfigDict) -> None:
    """UserError on a value that may not be: its key, what it may be, what it is, what to do."""
    for path, value in leaves(cfg):
        rule = rule_for(path)
        if rule is not None and not rule.accepts(value):
            raise UserError(refusal(f"--config.{path}", rule, value))


def refusal(name: str, rule: Rule, value: Any) -> str:
    """The sentence about a value that a rule does not accept."""
    near = difflib.get_close_matches(value, rule.names, 1) if isinstance(value, str) else []
    todo = f"did you mean '{near[0]}'?" if near else f"give such a value, as in {name}=VALUE"
    return f"{name} must be {rule.what}, not {value!r}: {todo}"
