"""The numbers of every preset; `--config NAME:PRESET` finds them here, wherever it is typed.

The files of `configs/` in a checkout hand these over, and a config of one's own may start from one:

    from iso3d_jax.presets import stage1

    def get_config(arg=None):
        cfg = stage1.get_config(arg)
        cfg.learning_rate = 3e-5
        return cfg
"""

NAMES = (
    "stage1", "stage2", "reconstruct", "compare", "autoencoder", "image_tower", "decoder",
)  # fmt: skip
