"""Stage 1: a multi-view denoiser whose context is one image embedding.

    python -m iso3d_jax.train --config configs/stage1.py:tiny --workdir runs/stage1

Presets: `full` (the default), `tiny`, `furniture`.
Every number, and where it is from: iso3d_jax/presets/stage1.py.

To change many numbers, copy this file anywhere and edit what comes back:

    def get_config(arg=None):
        cfg = stage1.get_config(arg)
        cfg.learning_rate = 3e-5
        return cfg
"""

from iso3d_jax.presets import stage1

get_config = stage1.get_config
