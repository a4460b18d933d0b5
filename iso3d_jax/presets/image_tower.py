"""Trains the tiny model's image tower.

python -m iso3d_jax.train --config configs/image_tower.py --workdir runs/image_tower
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.presets import common

PRESETS = ("tiny",)


def get_config(arg=None):
    config_presets.parse(arg, PRESETS)
    cfg = common.training()
    cfg.task = "image_tower"
    cfg.init_from = ""  # a tower to go on from, or a small model
    cfg.data_weights = ()  # each set's share of all rows; (): by its number of objects
    cfg.model = common.tiny_model()
    # How references are fitted to the frame, drawn with equal chances; what stands twice is drawn
    # twice as often. `model.picture` is how people's pictures will be.
    cfg.pictures = ("framed", "framed", "centred")
    cfg.steps = 7000
    cfg.batch_size = 128
    cfg.embedding_noise = 0.03
    cfg.drawn_views = 8
    cfg.learning_rate, cfg.final_learning_rate = 1e-3, 2e-5
    cfg.weight_decay = 0.005
    cfg.ema_decay = 0.99
    cfg.colour_strength = 1.0
    cfg.photo_strength = 1.0
    cfg.edge_weight = 1.0
    cfg.size_weight = 0.001
    cfg.front_share = 0.6
    return cfg
