"""Tunes a trained small model's decoder on the views that the model samples; the last step.

    python -m iso3d_jax.train --config configs/decoder.py --workdir runs/tiny \\
        --config.init_from=runs/stage2 --config.data=data/furniture64,data/stretch1,data/warp3

Its result is the whole model. Some 16 minutes of two cores, with the sampling of the
views: predicted from a fifth of the steps.
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.presets import common

PRESETS = ("tiny",)


def get_config(arg=None):
    config_presets.parse(arg, PRESETS)
    cfg = common.training()
    cfg.task = "sampled_views"
    cfg.model = common.tiny_model()  # what init_from holds counts; this names it
    cfg.init_from = ""
    cfg.objects = 4800  # whose views are sampled, once
    cfg.pictures = ("framed", "centred")
    cfg.colour_strength = 0.7
    cfg.mask_weight = 0.4
    cfg.ink_weight = 0.1
    cfg.edge_weight = 1.5
    cfg.chroma_weight = 2.0
    cfg.vividness_weight = 50.0
    cfg.steps, cfg.batch_size = 8000, 16
    cfg.learning_rate, cfg.final_learning_rate, cfg.warmup_steps = 2e-4, 1e-6, 30
    cfg.weight_decay = 0.0
    cfg.ema_decay = 0.98
    return cfg
