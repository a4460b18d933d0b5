"""Stage 1: a multi-view denoiser whose context is one image embedding.

    python -m iso3d_jax.train --config configs/stage1.py:tiny --workdir runs/stage1

Presets: `full` (the default) is Stable Diffusion 2.1's size at 256x256 and starts from a converted
text-to-3D model; `tiny` is the shipped model's size on the shipped 24 objects, a few minutes on
two cores; `furniture` is `tiny` as the shipped weights were trained, on the rendered furniture set
(`python -m iso3d_jax.data.render`, `python -m iso3d_jax.data.encode`).

A full-size run is trained with the cameras and the prediction of its base, and its first line says
which: MVDream's and Stable Diffusion's runs have true angles, the released Isotropic3D's have its
own. `--config.model.camera_encoding=X` changes them, and the run says so.

Nothing of stage 1 but what it is for is in the paper's figures and abstract: every number below is
the port's own, unless it is marked (`common.py`).
"""

from iso3d_jax.commands import config_presets
from iso3d_jax.presets import common

PRESETS = ("full", "tiny", "furniture")


def stage(cfg, preset, number):
    """What stages 1 and 2 have in common."""
    cfg.task = "denoiser"
    cfg.stage = number
    cfg.model = common.full_model_from_base() if preset == "full" else common.tiny_model()
    cfg.init_from = ""
    cfg.init = common.ConfigDict(dict(vae="", clip="", drawing=""))
    cfg.data_encoded = ""
    cfg.data_weights = ()  # of several sets, given with commas; none: each object is as likely
    cfg.data_pictures = ""  # an encoded set of plain pictures (data.encode --plain)
    cfg.picture_share = 0.0  # of the steps that read it; MVDream: 0.3 of LAION
    cfg.data_variants = 4
    # How references are fitted to the frame where they are not encoded before; (): the model's way.
    cfg.pictures = ()
    cfg.encoding = "once"  # or online: latents and embeddings anew in each step, from pictures
    cfg.loader = "memory"  # or grain: a global shuffle of a set on disk, read ahead by threads
    cfg.read_processes = 0  # of grain: so many processes read in the place of threads
    cfg.max_damaged_share = 0.001  # of the objects; so many that cannot be read are left out
    cfg.embedding_dropout = 0.1  # as often as ImageDream drops its image
    cfg.single_view_share = 0.3  # of 1-a; the paper gives stage 2's alone. MVDream: 30% 2-D data
    cfg.front_share = 0.6
    cfg.reference_dropout = 0.0
    cfg.reference_dropped_with_embedding = False
    cfg.reference = "attention"  # or channels: the ablation CCR
    cfg.ablation = ""
    cfg.num_views = 4  # [paper]; 6 and 8 need a data set with more views of each object
    cfg.loss_weighting = "plain"  # or min_snr
    cfg.min_snr_gamma = 5.0
    cfg.noise_offset = 0.0
    cfg.trainable = (
        "all"  # or attention, lora (on attention), refine (all but the layout's drawing)
    )
    cfg.lora_rank = 16
    cfg.lora_alpha = 16.0
    cfg.accumulate = 1  # a batch in so many parts, one after the other
    cfg.dtype = "float32"  # of the computation; weights and sums are float32
    cfg.remat = "none"  # or dots, blocks: less memory, more computation
    # Density of t proportional to t^bias. Small models learn pictures and cameras at high noise.
    cfg.timestep_bias = 0.0 if preset == "full" else 1.0
    if preset == "full":
        cfg.data, cfg.loader = "", "grain"
        cfg.dtype, cfg.remat = "bfloat16", "blocks"
        cfg.steps, cfg.batch_size = 50_000, 256
    elif preset == "tiny":
        cfg.steps, cfg.batch_size = 300, 16
        cfg.learning_rate, cfg.final_learning_rate = 1e-3, 5e-5
    else:
        furniture = ("furniture64", "stretch1", "stretch2", "warp3", "warp4")
        cfg.data = ",".join(f"data/{name}" for name in (*furniture, "zero_ad64", "zero_ad_stretch"))
        cfg.data_weights = (*[0.1] * len(furniture), 0.25, 0.25)
        # A run reads a seventh of what would have to be encoded once.
        cfg.encoding = "online"
        cfg.pictures = ("framed", "framed", "centred")
        cfg.init.vae, cfg.init.clip = "runs/autoencoder", "runs/image_tower"
        cfg.trainable = "refine"
        cfg.init.drawing = "runs/image_tower" if number == 1 else ""  # stage 2 has it from stage 1
        cfg.steps, cfg.batch_size, cfg.ema_decay = 5000, 16, 0.995
        cfg.learning_rate, cfg.final_learning_rate, cfg.warmup_steps = 8e-4, 2e-4, 50
    return cfg


def get_config(arg=None):
    preset, _ = config_presets.parse(arg, PRESETS)
    return stage(common.training(), preset, 1)
