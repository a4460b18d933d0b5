"""Stage 2: Explicit Multi-view Attention (EMA), from stage 1's result.

    python -m iso3d_jax.train --config configs/stage2.py:tiny --workdir runs/stage2 \\
        --config.init_from=runs/stage1

Presets: `full` (the default), `tiny`, `furniture`; each with the paper's ablations beside the
method, as in `:tiny,ablation=ccr`.
Every number, and where it is from: iso3d_jax/presets/stage2.py.
"""

from iso3d_jax.presets import stage2

get_config = stage2.get_config
