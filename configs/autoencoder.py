"""Trains the tiny model's autoencoder.

    python -m iso3d_jax.train --config configs/autoencoder.py --workdir runs/autoencoder

Presets: `tiny` (the default) trains all of it from nothing; `decoder` goes on with the decoder
alone, whose latents then stay what the denoiser was trained on:

    python -m iso3d_jax.train --config configs/autoencoder.py:decoder --workdir runs/decoder \\
        --config.init_from=runs/autoencoder
"""

from configs import common
from iso3d_jax import config_presets

PRESETS = ("tiny", "decoder")


def get_config(arg=None):
    preset, _ = config_presets.parse(arg, PRESETS)
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
    cfg.background_weight = 0.0
    cfg.trainable = "all"  # or decoder
    cfg.init_from = ""
    if preset == "decoder":
        cfg.trainable = "decoder"
        cfg.steps, cfg.batch_size = 700, 16
        cfg.learning_rate = 1e-3
        cfg.background_weight = 2.0
    return cfg
