"""Trains the small model's image tower.

    python -m iso3d_jax.train --config configs/image_tower.py --workdir runs/image_tower

Every number, and where it is from: iso3d_jax/presets/image_tower.py.
"""

from iso3d_jax.presets import image_tower

get_config = image_tower.get_config
