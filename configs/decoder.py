"""Tunes a trained small model's decoder on the views that the model samples; the last step.

    python -m iso3d_jax.train --config configs/decoder.py --workdir runs/tiny \\
        --config.init_from=runs/stage2

Every number, and where it is from: iso3d_jax/presets/decoder.py.
"""

from iso3d_jax.presets import decoder

get_config = decoder.get_config
