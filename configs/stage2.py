"""Stage 2: Explicit Multi-view Attention (EMA), from stage 1's result.

    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

30% of the steps see one view and the reference (2-a), 70% four and the reference (2-b), as the
paper's Figure 4 has it. Presets as in `configs/stage1.py`. Each of them has the paper's ablations
beside the method, as in `configs/stage2.py:tiny,ablation=ccr`:

    no_ema      no step sees a reference view
    ccr         the reference enters as further input channels of every view
    no_stage1   starts from stage 1's base instead of its result
"""

from configs import common, stage1
from iso3d_jax import config_presets
from iso3d_jax.errors import UserError

ABLATIONS = ("", "no_ema", "ccr", "no_stage1")


def get_config(arg=None):
    preset, options = config_presets.parse(arg, stage1.PRESETS, ablation="")
    cfg = stage1.stage(common.training(), preset, 2)
    cfg.init_from = "runs/stage1" if preset != "full" else ""
    cfg.single_view_share = 0.3
    cfg.reference_dropout = 0.25
    if preset == "full":
        cfg.steps = 20_000
    elif preset == "tiny":
        cfg.steps = 150
        cfg.learning_rate = 4e-4
    else:
        cfg.steps = 900
        cfg.learning_rate, cfg.final_learning_rate = 5e-4, 2e-5
    return ablate(cfg, options.ablation)


def ablate(cfg, name):
    """Takes one idea out of the method."""
    if name not in ABLATIONS:
        hint = config_presets.nearest(name, ABLATIONS[1:])
        raise UserError(f"unknown ablation '{name}': {hint}")
    cfg.ablation = name
    if name == "no_ema":
        cfg.reference_dropout = 1.0
    elif name == "ccr":
        cfg.reference = "channels"
        cfg.model.unet.reference_channels = cfg.model.unet.in_channels
    elif name == "no_stage1":
        cfg.init_from = ""
    return cfg
