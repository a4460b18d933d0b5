"""Trains the tiny model's autoencoder: its components at once, then its decoder.

    python -m iso3d_jax.train --config configs/autoencoder.py --workdir runs/autoencoder

`--config.init_from=DIR` goes on with the decoder of another autoencoder, whose latents then stay
what the denoiser was trained on.
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.presets import common

PRESETS = ("tiny",)


def get_config(arg=None):
    config_presets.parse(arg, PRESETS)
    cfg = common.training()
    cfg.task = "autoencoder"
    cfg.model = common.tiny_model()
    cfg.steps = 5000
    cfg.batch_size = 16
    cfg.learning_rate, cfg.final_learning_rate = 2e-3, 4e-5
    cfg.ema_decay = 0.98
    cfg.colour_strength = 1.0
    cfg.background_weight = 1.0
    cfg.init_from = ""
    return cfg
