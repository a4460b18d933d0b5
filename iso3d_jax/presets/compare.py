"""The method beside the paper's comparisons: no EMA, CCR, no stage 1, L2 at the reference view.

    python -m iso3d_jax.compare --out out/comparison

Presets:
  tiny       networks of a million weights on the shipped 24 objects: shows that all of it runs;
             no figure of it says how good a method is.
  furniture  the shipped model's size and data (`python -m iso3d_jax.data.render`), for an
             accelerator.

Options: `:tiny,steps=400` trains longer; `seeds=1`.
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.presets import common, reconstruct, stage1, stage2

PRESETS = ("tiny", "furniture")


def small(cfg, steps):
    """A training config cut down for one core: small, and few programs to compile.

    At a constant learning rate runs of any length share their programs, and with four views in
    every step there are two of a kind: with the reference and without.
    """
    cfg.model.unet.update(
        model_channels=32, attention_resolutions=(2,), channel_mult=(1, 2), num_head_channels=16,
        num_groups=8,
    )  # fmt: skip
    cfg.steps, cfg.batch_size, cfg.data_variants = steps, 8, 1
    cfg.learning_rate, cfg.lr_schedule, cfg.warmup_steps = 1e-3, "constant", 10
    cfg.single_view_share = 0.0
    cfg.ema_decay = 0.95
    cfg.checkpoint_every, cfg.log_every = 50, 5
    return cfg


def get_config(arg=None):
    preset, options = config_presets.parse(arg, PRESETS, steps=0, seeds=3)
    c = common.ConfigDict()
    c.preset = preset
    c.seeds = options.seeds
    c.data = "samples" if preset == "tiny" else "data/furniture64"
    c.split = "test"
    c.objects = 4 if preset == "tiny" else 16  # whose views are generated and scored, evenly spaced
    c.scenes = 1 if preset == "tiny" else 4  # and the first so many of them become scenes
    c.ddim_steps = 20 if preset == "tiny" else 50
    c.reference_l2 = 1000.0  # of the run with the L2 loss; the guidance sums over latents
    c.stage1 = stage1.get_config(preset)
    c.stage2 = common.ConfigDict()
    for name in ("method", "no_ema", "ccr", "no_stage1"):
        ablation = "" if name == "method" else name
        c.stage2[name] = stage2.get_config(f"{preset},ablation={ablation}")
    c.reconstruct = reconstruct.get_config("tiny,steps=400")
    if preset == "tiny":
        steps = options.steps or 100
        small(c.stage1, steps)
        for name in c.stage2:
            small(c.stage2[name], steps)
        c.reconstruct = reconstruct.get_config("tiny,steps=100")
        c.reconstruct.video.update(frames=8, resolution=64, seconds=1.0)
        c.reconstruct.mesh.update(resolution=48, faces=2000, texture=128)
        c.reconstruct.preview_every = 0
    elif options.steps:
        c.stage1.steps = options.steps
        for name in c.stage2:
            c.stage2[name].steps = options.steps
    c.reconstruct.init = "none"  # score distillation alone is compared, not drafts of the views
    c.stage2.no_stage1.steps += c.stage1.steps  # as many in all as the others had
    for training in (c.stage1, *(c.stage2[name] for name in c.stage2)):
        training.sample_every = training.steps  # the comparison makes its own
        training.keep = 1
    return c
