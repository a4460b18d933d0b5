"""The numbers of a training as frozen dataclasses, made once from a config.

`presets/common.py` and the files beside it say what each number is; fields have the names of the
configs' keys, and every key has a field. A spec can be hashed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.core import specs
from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Learning rate, optimizer and guard; see `training/optimizer.py`."""

    steps: int
    learning_rate: float
    final_learning_rate: float
    lr_schedule: str
    warmup_steps: int
    weight_decay: float
    adam_b2: float
    grad_clip: float
    optimizer: str
    on_bad_step: str
    spike_factor: float
    max_skips: int
    ema_decay: float


@dataclass(frozen=True)
class DeviceMeshSpec:
    """Sizes of the device mesh's axes; the rest of the devices goes to `data`."""

    fsdp: int
    tensor: int


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(OptimizerSpec):
    """What the loop needs of every kind of training.

    Attributes:
      task: a name of `training/tasks/registry.py`.
      model: what the model's folder will say of it (`weights/bundle.make_config`).
      init_from: folder of the weights to start from; empty for none.
      sample_every, ablate_every: 0 is never.
      keep: how many checkpoints.
    """

    task: str
    seed: int
    data: str
    batch_size: int
    init_from: str
    log_every: int
    checkpoint_every: int
    sample_every: int
    ablate_every: int
    keep: int
    mesh: DeviceMeshSpec
    model: ModelSpec

    @property
    def batch_parts(self) -> int:
        """In how many parts, one after the other, a batch is gone through."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """The config that this was made from, as plain values, its keys in order."""
        return specs.in_order(dataclasses.asdict(self) | {"model": self.model.to_dict()})


@dataclass(frozen=True)
class InitSpec:
    """Folders of networks that stages 1 and 2 do not train; empty: the package's own, or none."""

    clip: str
    drawing: str
    vae: str


@dataclass(frozen=True, kw_only=True)
class StageSpec(TrainingSpec):
    """Stages 1 and 2; `presets/stage1.py` says what each value means."""

    stage: int
    init: InitSpec
    data_encoded: str
    data_weights: tuple[float, ...]
    data_pictures: str
    picture_share: float
    data_variants: int
    pictures: tuple[str, ...]
    encoding: str
    loader: str
    read_processes: int
    max_damaged_share: float
    embedding_dropout: float
    single_view_share: float
    front_share: float
    reference_dropout: float
    reference_dropped_with_embedding: bool
    reference: str
    ablation: str
    num_views: int
    loss_weighting: str
    min_snr_gamma: float
    noise_offset: float
    trainable: str
    lora_rank: int
    lora_alpha: float
    accumulate: int
    dtype: str
    remat: str
    timestep_bias: float

    @property
    def batch_parts(self) -> int:
        return self.accumulate


Spec = TypeVar("Spec", bound=TrainingSpec)


def make_spec(cls: type[Spec], config: ConfigDict) -> Spec:
    """A training's spec from its config, which stays as it is.

    Raises:
      UserError: a value that may not be, a key too many or one that is missing.
    """
    config_checks.check(config)
    try:
        return specs.make(cls, config.to_dict() | {"model": ModelSpec.read(config.model.to_dict())})
    except TypeError as error:
        raise UserError(
            f"this is no config of the task '{config.task}' by this version: {error}; compare it "
            "with its preset in configs/"
        ) from None
