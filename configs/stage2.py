"""Stage 2: Explicit Multi-view Attention (EMA), from stage 1's result.

    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

30% of the steps see one view and the reference (2-a), 70% four and the reference (2-b), as the
paper's Figure 4 has it. Presets as in `configs/stage1.py`.
"""

from configs import common, stage1
from iso3d_jax import config_presets


def get_config(arg=None):
    preset, _ = config_presets.parse(arg, stage1.PRESETS)
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
        cfg.steps = 600
        cfg.learning_rate, cfg.final_learning_rate = 5e-4, 2e-5
    return cfg
