"""The method beside the paper's comparisons: no EMA, CCR, no stage 1, L2 at the reference view.

    python -m iso3d_jax.compare --config configs/compare.py:tiny --out out/comparison

Presets: `tiny`, `furniture`.
Every number, and where it is from: iso3d_jax/presets/compare.py.
"""

from iso3d_jax.presets import compare

get_config = compare.get_config
