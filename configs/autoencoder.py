"""Trains the tiny model's autoencoder.

python -m iso3d_jax.train --config configs/autoencoder.py --workdir runs/autoencoder
"""

from configs import common
from iso3d_jax import config_presets

PRESETS = ("tiny",)


def get_config(arg=None):
    config_presets.parse(arg, PRESETS)
    cfg = common.training()
    cfg.task = "autoencoder"
    cfg.model = common.tiny_model()
    cfg.steps = 2150
    cfg.batch_size = 16
    cfg.learning_rate = 2e-3
    cfg.final_learning_rate = 5e-5
    cfg.ema_decay = 0.98
    cfg.colour_strength = 1.0
    cfg.kl_weight = 1e-3
    return cfg
