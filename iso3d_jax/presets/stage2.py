"""Stage 2: Explicit Multi-view Attention (EMA), from stage 1's result.

    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

Of the steps with the reference 30% see one view (2-a) and 70% four (2-b), as the paper's Figure 4
has it. A quarter of all steps goes without the reference (`reference_dropout`), which is the port's
own, so of all steps 22.5% are 2-a, 52.5% 2-b, 7.5% 1-a and 17.5% 1-b. The paper's 30% and 70% are
those of `--config.reference_dropout=0`; then no step is like sampling, which has no reference.

Presets as in `configs/stage1.py`. Each of them has the paper's ablations beside the method, as in
`configs/stage2.py:tiny,ablation=ccr`:

    no_ema      no step sees a reference view
    ccr         the reference enters as further input channels of every view
    no_stage1   starts from stage 1's base instead of its result
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.core.errors import UserError
from iso3d_jax.presets import common, stage1

ABLATIONS = ("", "no_ema", "ccr", "no_stage1")


def get_config(arg=None):
    preset, options = config_presets.parse(arg, stage1.PRESETS, ablation="")
    cfg = stage1.stage(common.training(), preset, 2)
    cfg.init_from = "runs/stage1" if preset != "full" else ""
    cfg.single_view_share = 0.3  # [paper], Figure 4
    cfg.reference_dropout = 0.25  # [ours]; [paper]: nothing is said of it, so 0
    cfg.reference_dropped_with_embedding = False  # [ours]; ImageDream drops both: True
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
