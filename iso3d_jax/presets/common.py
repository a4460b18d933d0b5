"""What the training configs share: the two model sizes and the loop's defaults.

Where a number comes from is said beside it: [paper] the figures' captions of the Isotropic3D paper,
[released] its code for inference, [ours] this project. No training code was released, and neither
the paper's abstract and figures nor the project page give learning rates, batch sizes, steps,
dropout or the shares of stage 1: whatever has no mark in the functions of training is ours.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def full_model() -> ConfigDict:
    """The released Isotropic3D: Stable Diffusion 2.1's UNet and autoencoder, CLIP ViT-H/14.

    All numbers are [released].
    """
    model = ConfigDict()
    model.name = "isotropic3d"
    model.resolution = 256
    model.scale_factor = 0.18215
    model.parameterization = "eps"
    model.camera_encoding = "isotropic3d"
    model.sampling_camera_encoding = "isotropic3d_sampling"
    model.picture = "launch"
    model.guidance_scale = 10.0
    model.eta = 1.0
    model.unet = ConfigDict(
        dict(
            in_channels=4,
            out_channels=4,
            model_channels=320,
            attention_resolutions=(4, 2, 1),
            num_res_blocks=2,
            channel_mult=(1, 2, 4, 4),
            num_head_channels=64,
            transformer_depth=1,
            context_dim=1024,
            camera_dim=16,
        )
    )
    model.vae = ConfigDict(
        dict(ch=128, ch_mult=(1, 2, 4, 4), num_res_blocks=2, z_channels=4, embed_dim=4)
    )
    model.clip = ConfigDict(
        dict(
            image_size=224,
            patch_size=14,
            width=1280,
            layers=32,
            heads=16,
            mlp_ratio=4.0,
            output_dim=1024,
        )
    )
    return model


def full_model_from_base() -> ConfigDict:
    """A network of the released size that is trained here, from a base.

    What is empty is the base's own (`training/tasks/base.py`): cameras and prediction, without
    which its weights are another function, how pictures are prepared, and guidance and noise of
    sampling. A run that sets them departs from its base and says so. The released sampling numbers
    are for the released file, whose 2-D script's cameras are nothing that a network is trained with
    here.
    """
    model = full_model()
    model.camera_encoding = ""  # without a base that says one: mvdream, true angles
    model.parameterization = ""  # without: eps
    model.picture = ""  # without: launch
    model.guidance_scale = placeholder(float)
    model.eta = placeholder(float)
    del model.sampling_camera_encoding
    return model


def tiny_model() -> ConfigDict:
    """The model that ships with the package: the same code at 64x64, about 24 million weights.

    All numbers are [ours].

    What differs from the full model beside sizes, and why: v-prediction, because at high noise an
    eps-loss hardly weighs x0, which is where embedding and cameras are learned; camera angles
    counted from the picture's side, as harmonics, with the lens; the embedding also enters through
    the time embedding, and with the camera as a coarse layout; an image tower of dense layers and
    an autoencoder that encodes into principal components.
    """
    model = ConfigDict()
    model.name = "tiny"
    model.resolution = 64
    model.scale_factor = 1.0  # measured when the autoencoder is exported
    model.parameterization = "v"
    model.camera_encoding = "harmonics_lens"
    model.picture = "centred"
    model.guidance_scale = 1.3  # these five: the best on the validation split
    model.eta = 1.0
    model.temperature = 0.0
    model.steps = 2
    model.spacing = "trailing"
    model.unet = ConfigDict(
        dict(
            in_channels=8,
            out_channels=8,
            model_channels=64,
            attention_resolutions=(2, 4),
            num_res_blocks=1,
            channel_mult=(1, 2, 2),
            num_head_channels=32,
            transformer_depth=1,
            context_dim=512,
            camera_dim=16,
            adm_in_channels=512,
            use_scale_shift_norm=True,
            layout_size=8,
            shortcut=True,
        )
    )
    model.vae = ConfigDict(
        dict(components=8, ch=64, ch_mult=(1, 1), num_res_blocks=1, num_groups=16, patch=4)
    )
    model.clip = ConfigDict(
        dict(image_size=32, hidden=1024, layers=3, output_dim=512, features_at=112, components=32)
    )
    return model


def training() -> ConfigDict:
    """The loop's and the optimizer's defaults; all [ours]."""
    cfg = ConfigDict()
    cfg.seed = 0
    cfg.data = "samples"
    cfg.learning_rate = 1e-4
    cfg.final_learning_rate = 1e-5
    cfg.lr_schedule = "cosine"
    cfg.warmup_steps = 100
    cfg.weight_decay = 0.01
    cfg.adam_b2 = 0.99
    cfg.grad_clip = 1.0
    cfg.optimizer = "adamw"  # or adamw_bf16, adafactor: less memory
    cfg.on_bad_step = "stop"  # or skip: steps with NaN or a loss spike are left out
    cfg.spike_factor = 0.0  # a loss above so many times its running mean is a spike; 0: none is
    cfg.max_skips = 10  # so many in a row stop the run
    cfg.ema_decay = 0.999
    cfg.log_every = 10
    cfg.checkpoint_every = 500
    cfg.sample_every = 1000  # 0: at the end alone
    cfg.ablate_every = 0  # stages 1 and 2: the one-step table every so many steps; 0: never
    cfg.keep = 2
    cfg.mesh = ConfigDict(dict(fsdp=1, tensor=1))
    return cfg
