"""What is measured at which size: as released, or so small that a CPU does it in a minute."""

import dataclasses
import functools
from pathlib import Path

import jax.numpy as jnp
from measuring import random_model
from ml_collections import ConfigDict
from on_accelerator.record import Record

from iso3d_jax.commands import config_files
from iso3d_jax.planning import compile_for
from iso3d_jax.presets import common
from iso3d_jax.training.spec import StageSpec
from iso3d_jax.weights.model_spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers that `--tiny` changes."""

    matmul: int
    bandwidth_bytes: int
    points: tuple[int, ...]  # of the hash grid
    encoded: tuple[int, ...]  # pictures
    steps: int  # of DDIM
    warm_up: int  # iterations of a reconstruction before it is measured
    iterations: int  # that are timed together; 16 have one update of the occupancy grid
    batch: int  # of the training step, the first that is tried
    largest_batch: int
    repeats: int


FULL = Sizes(8192, 1 << 30, (1 << 20, 1 << 23), (8, 4), 50, 16, 16, 16, 4096, 5)
TINY = Sizes(256, 1 << 20, (1 << 10,), (2,), 2, 1, 2, 1, 1, 1)


def small_model() -> ConfigDict:
    """The released model's kinds of network, with few and narrow layers."""
    model = common.full_model()
    model.resolution = 16
    model.unet.update(
        model_channels=16, channel_mult=(1,), attention_resolutions=(1,), num_res_blocks=1,
        num_head_channels=16, context_dim=24, num_groups=8,
    )  # fmt: skip
    model.vae.update(ch=8, ch_mult=(1, 1), num_res_blocks=1, num_groups=8)
    model.clip.update(image_size=28, width=32, layers=1, heads=2, output_dim=24)
    return model


class Bench:
    """A run: its record, its sizes, and what several parts need, made when the first asks."""

    def __init__(self, record: Record, tiny: bool):
        self.record, self.tiny, self.sizes = record, tiny, TINY if tiny else FULL
        self.matmul_rate: float | None = None  # FLOP/s that the device was seen to reach
        self.kept: dict = {}  # what a later part goes on with

    def settings(self) -> ConfigDict:
        """The networks' numbers, as a training's config has them."""
        return small_model() if self.tiny else common.full_model()

    @functools.cached_property
    def model(self):
        """All networks in bfloat16 with random weights."""
        return random_model(ModelSpec.read(self.settings().to_dict()), jnp.bfloat16)

    def reconstruction(self) -> ConfigDict:
        """The released recipe, or one of its shape for a CPU."""
        cfg = config_files.load_config(str(ROOT / "configs" / "reconstruct.py") + ":isotropic3d")
        if self.tiny:  # both phases are then one program, which is compiled once
            cfg.phases = tuple((until, 8, 1) for until, *_ in cfg.phases)
            cfg.shading.probability = 0.0
            cfg.field.update(levels=2, log2_table_size=8, hidden=8)
            cfg.occupancy.resolution, cfg.steps_per_call = 8, 2
        return cfg

    def stage2(self, batch_size: int) -> StageSpec:
        """Stage 2 at full size: bfloat16, blocks computed twice to save memory."""
        cfg = config_files.load_config(str(ROOT / "configs" / "stage2.py"))
        cfg.model, cfg.batch_size = self.settings(), batch_size
        cfg.dtype, cfg.remat = "bfloat16", "blocks"
        return compile_for.settle(cfg)
