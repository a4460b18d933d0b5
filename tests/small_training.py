"""A denoiser small enough to train in a test, on encoded data made of random numbers."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from iso3d_jax.data.encoded import EncodedTable
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import batches, denoiser, stages, trainable

# One program to compile, the same for any number of steps: one branch, and a rate without an end.
ONE_PROGRAM = dict(single_view_share=0.0, reference_dropout=0.0, lr_schedule="constant")


def small_config(**changes) -> ConfigDict:
    """What configs/stage2.py has, with small numbers."""
    cfg = ConfigDict(dict(
        task="denoiser", data="samples", data_encoded="", data_variants=1, pictures=(),
        init_from="", init=dict(vae="", clip="", drawing=""), ablate_every=0,
        seed=3, stage=2, steps=10, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-4,
        lr_schedule="cosine", warmup_steps=2, weight_decay=0.01, adam_b2=0.99, grad_clip=1.0,
        ema_decay=0.9, log_every=1, checkpoint_every=4, sample_every=100, keep=3,
        mesh=dict(fsdp=1, tensor=1), embedding_dropout=0.2, single_view_share=0.3,
        reference_dropout=0.25, reference_dropped_with_embedding=False, front_share=0.5,
        reference="attention", ablation="", num_views=4,
        loss_weighting="plain", min_snr_gamma=5.0, noise_offset=0.0, trainable="all", lora_rank=2,
        lora_alpha=2.0, accumulate=1, dtype="float32", remat="none", optimizer="adamw",
        on_bad_step="stop", spike_factor=0.0, max_skips=3, timestep_bias=0.0,
        loader="memory", encoding="once", data_weights=(), data_pictures="",
        picture_share=0.0, read_processes=0,
        max_damaged_share=0.001,
        model=dict(
            resolution=16, parameterization="v", camera_encoding="mvdream", scale_factor=0.7,
            unet=dict(in_channels=4, out_channels=4, model_channels=16, attention_resolutions=[1],
                      num_res_blocks=1, channel_mult=[1], num_head_channels=8, context_dim=16,
                      num_groups=4),
        ),
    ))  # fmt: skip
    with cfg.unlocked():
        cfg.update(changes)
    return cfg


def small_stage(**changes) -> StageSpec:
    """The same as functions take it."""
    return make_spec(StageSpec, small_config(**changes))


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
        names=[f"chair {i}" for i in range(objects)],
    )


class SmallTask:
    """A `loop.Task` without pictures."""

    label, summary = "test", ""
    train_step = staticmethod(denoiser.train_step)

    def __init__(self, config):
        self.cfg = cfg = make_spec(StageSpec, config)
        table = encoded_table(views=4 * (-(-cfg.num_views // 4) + 1))
        self.batches = batches.make_batches(cfg, table)
        self.position, self.restore_position = self.batches.position, self.batches.restore_position
        self.branch, self.batch = self.batches.branch, self.batches
        self.names = self.batches.names
        self.sharding_rules = denoiser.sharding_rules(cfg)
        self.graphdef, self.abstract_params, self.init_params = stages.network(cfg, None)

    def trained(self, params):
        return trainable.trained_paths(params, self.cfg)

    def on_devices(self, batch, mesh):
        return batch

    def preview(self, params):
        return None

    def export(self, params, folder):
        folder.mkdir(exist_ok=True)
        np.savez(folder / "params.npz", **trainable.merge_lora(params, self.cfg))


@pytest.fixture(scope="session")
def make_task():
    return SmallTask


@pytest.fixture(scope="session")
def make_config():
    return small_config


@pytest.fixture(scope="session")
def make_stage():
    return small_stage
