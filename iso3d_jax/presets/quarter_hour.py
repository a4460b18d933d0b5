"""Ten minutes of one GPU: a model of 128x128 pixels and 69 million weights, part by part.

    python -m iso3d_jax.tiny.quarter_hour --data data/quarter_hour.zip --out out/quarter_hour

Not on `--config`: how many steps a part has is found out while it runs. All numbers are [ours],
carried over from the small model's presets by what is known of larger networks and batches; none
was tried on a GPU yet. `toy` is the same of a size that a CPU goes through in seconds.

What differs from the small model beside sizes: the rate of the autoencoder, the image tower and
stage 1 is constant, since their steps are counted only once the first ones have been timed, and
their weights are averaged; stage 2 and the last step end in a cosine. No step sees a single view:
each kind of step is a program, which takes most of a minute to compile.
"""

from ml_collections import ConfigDict

from iso3d_jax.presets import autoencoder as of_autoencoder
from iso3d_jax.presets import common, decoder, image_tower, stage1, stage2

PICTURES = ("framed", "framed", "centred")  # as which references are prepared
VARIANTS = 2  # colours that latents are computed of


def model(toy: bool = False) -> ConfigDict:
    """The networks: UNet 62.0, image tower 6.9 and autoencoder 0.5 million weights."""
    made = common.tiny_model()
    if toy:
        made.resolution = 32
        made.unet.update(model_channels=32, channel_mult=(1,), attention_resolutions=(1,))
        made.unet.update(num_head_channels=16, layout_size=4, context_dim=32, adm_in_channels=32)
        made.vae.update(ch=16, num_groups=8)
        made.clip.update(image_size=8, hidden=16, layers=1, output_dim=32)
        del made.clip["features_at"]  # nor EfficientNet, which compiles for longer than the rest
        return made
    made.resolution = 128
    made.unet.update(model_channels=128, channel_mult=(1, 2, 2, 2), num_res_blocks=2)
    made.unet.layout_size = 16
    made.clip.update(hidden=640, layers=2, features_at=128, components=24)
    return made


def autoencoder(toy: bool = False) -> ConfigDict:
    """Its components at once, then its decoder."""
    cfg = _part(of_autoencoder.get_config(), toy, 64)
    cfg.learning_rate, cfg.lr_schedule, cfg.warmup_steps = 1e-3, "constant", 50
    cfg.ema_decay = 0.995
    return cfg


def tower(toy: bool = False) -> ConfigDict:
    """The image tower and the decoder that becomes the UNet's layout."""
    cfg = _part(image_tower.get_config(), toy, 256)
    cfg.pictures = PICTURES
    cfg.learning_rate, cfg.lr_schedule = 1e-3, "constant"
    cfg.ema_decay = 0.998
    return cfg


def first_stage(toy: bool = False) -> ConfigDict:
    """Stage 1, on four views at every step."""
    cfg = _stage(stage1.get_config("furniture"), toy)
    cfg.learning_rate, cfg.lr_schedule, cfg.warmup_steps = 4e-4, "constant", 200
    cfg.ema_decay = 0.999
    return cfg


def second_stage(toy: bool = False) -> ConfigDict:
    """Stage 2: a quarter of the steps without the reference, as in the small model's."""
    cfg = _stage(stage2.get_config("furniture"), toy)
    cfg.learning_rate, cfg.final_learning_rate, cfg.warmup_steps = 4e-4, 1e-5, 20
    cfg.ema_decay = 0.998
    cfg.reference_dropout = 0.0 if toy else cfg.reference_dropout  # one program less
    return cfg


def last_step(toy: bool = False) -> ConfigDict:
    """The decoder, on views that the model samples."""
    cfg = _part(decoder.get_config(), toy, 64)
    cfg.objects = 4 if toy else 800
    return cfg


def _stage(cfg: ConfigDict, toy: bool) -> ConfigDict:
    cfg = _part(cfg, toy, 128)
    # Every object is seen dozens of times, so it is encoded once, in the memory.
    cfg.encoding, cfg.data_weights, cfg.data_variants = "once", (), VARIANTS
    cfg.single_view_share = 0.0
    cfg.dtype = "float32" if toy else "bfloat16"
    cfg.init.drawing = ""
    return cfg


def _part(cfg: ConfigDict, toy: bool, batch: int) -> ConfigDict:
    cfg.model = model(toy)
    cfg.batch_size = 4 if toy else batch
    cfg.log_every = 1 if toy else 20
    cfg.sample_every, cfg.keep = 0, 1
    return cfg
