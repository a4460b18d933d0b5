"""Trains the small model's autoencoder: its components at once, then its decoder.

    python -m iso3d_jax.train --config configs/autoencoder.py --workdir runs/autoencoder

Every number, and where it is from: iso3d_jax/presets/autoencoder.py.
"""

from iso3d_jax.presets import autoencoder

get_config = autoencoder.get_config
