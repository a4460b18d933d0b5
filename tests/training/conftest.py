"""A denoiser small enough to train in a test, on encoded data made of random numbers."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax.data.encode import EncodedTable
from iso3d_jax.models.params import split_params
from iso3d_jax.training import denoiser
from iso3d_jax.weights import bundle


def small_config(**changes) -> ConfigDict:
    """What configs/stage2.py has, with small numbers."""
    cfg = ConfigDict(dict(
        seed=3, stage=2, steps=10, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-4,
        lr_schedule="cosine", warmup_steps=2, weight_decay=0.01, adam_b2=0.99, grad_clip=1.0,
        ema_decay=0.9, log_every=1, checkpoint_every=4, sample_every=100, keep=3,
        mesh=dict(fsdp=1, tensor=1), embedding_dropout=0.2, single_view_share=0.3,
        reference_dropout=0.25, front_share=0.5,
        model=dict(
            resolution=16, parameterization="v", camera_encoding="mvdream", scale_factor=0.7,
            unet=dict(in_channels=4, out_channels=4, model_channels=16, attention_resolutions=[1],
                      num_res_blocks=1, channel_mult=[1], num_head_channels=8, context_dim=16,
                      num_groups=4),
        ),
    ))  # fmt: skip
    cfg.update(changes)
    return cfg


def encoded_table(objects=6, views=8) -> EncodedTable:
    rng = np.random.default_rng(0)
    return EncodedTable(
        moments=rng.normal(size=(2, objects, views, 4, 4, 8)).astype(np.float16),
        embedding=rng.normal(size=(2, objects, views, 16)).astype(np.float16),
        mirrored=np.array([False, True]),
        azimuth_deg=(rng.uniform(0, 360, (objects, views // 4, 1)) + np.arange(4) * 90).reshape(
            objects, views
        ),
        elevation_deg=rng.uniform(0, 30, (objects, views)),
    )


class SmallTask:
    """A `loop.Task` without pictures."""

    label = "test"
    train_step = staticmethod(denoiser.train_step)

    def __init__(self, cfg):
        self.batches = denoiser.Batches(cfg, encoded_table())
        self.branch, self.batch = self.batches.branch, self.batches
        self.graphdef, self.init_params = split_params(
            bundle.build_network("unet", cfg.model, cfg.seed)
        )

    def preview(self, params):
        return None

    def export(self, params, folder):
        folder.mkdir(exist_ok=True)
        np.savez(folder / "params.npz", **params)


@pytest.fixture
def make_task():
    return SmallTask


@pytest.fixture
def make_config():
    return small_config
