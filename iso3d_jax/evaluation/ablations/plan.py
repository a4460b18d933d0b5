"""What is compared: the method, and the method with one idea taken out or a rival's put in.

Every run is the ordinary training and reconstruction with another spec (configs/compare.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.core import specs
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import Difference, ensure_same_folder
from iso3d_jax.evaluation.report import model_facts
from iso3d_jax.reconstruction import spec as reconstruction
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.training import spec as training
from iso3d_jax.training.spec import StageSpec

FREE_KEYS = ("seeds",)  # what may differ where a comparison goes on


@dataclass(frozen=True)
class Run:
    """A row of the table.

    Attributes:
      title: for people.
      training: the entry of `cfg.stage2` whose model it uses.
      reference_l2: whether score distillation also compares the picture's side with the picture.
    """

    title: str
    training: str
    reference_l2: bool = False


RUNS = {
    "method": Run("the method: stage 1, then EMA", "method"),
    "no_ema": Run("without EMA", "no_ema"),
    "ccr": Run("reference by channels (CCR)", "ccr"),
    "no_stage1": Run("without stage 1", "no_stage1"),
    "reference_l2": Run("L2 at the reference view in SDS", "method", reference_l2=True),
}
TRAININGS = tuple(dict.fromkeys(run.training for run in RUNS.values()))

# What a training's compiled step does not depend on: the host alone looks at it.
_HOST_KEYS = (
    "seed", "init_from", "ablation", "stage", "reference_dropout", "single_view_share",
    "front_share", "data", "data_encoded", "data_variants", "log_every", "checkpoint_every",
    "sample_every", "ablate_every", "keep", "data_weights", "read_processes",
    "max_damaged_share", "data_pictures", "picture_share", "pictures",
)  # fmt: skip


@dataclass(frozen=True)
class Trainings:
    """Stage 2 of the method and of what it is compared with."""

    method: StageSpec
    no_ema: StageSpec
    ccr: StageSpec
    no_stage1: StageSpec


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec:
    """`presets/compare.py` says what each value means."""

    preset: str
    seeds: int
    data: str
    split: str
    objects: int
    scenes: int
    ddim_steps: int
    reference_l2: float
    stage1: StageSpec
    stage2: Trainings
    reconstruct: ReconstructionSpec

    def to_dict(self) -> dict[str, Any]:
        """The config that this was made from, as plain values, its keys in order."""
        stage2 = {field.name: getattr(self.stage2, field.name) for field in fields(self.stage2)}
        return specs.in_order(
            asdict(self)
            | {
                "stage1": self.stage1.to_dict(),
                "stage2": {name: training.to_dict() for name, training in stage2.items()},
            }
        )


def make_spec(config: ConfigDict) -> ComparisonSpec:
    """The spec of a config of presets/compare.py, which stays as it is.

    Raises:
      UserError: a value that may not be, a key too many or one that is missing.
    """
    config_checks.check(config)
    if config.scenes > config.objects:
        raise UserError(
            f"config.scenes is {config.scenes} but config.objects {config.objects}: scenes are "
            "made of the first of the objects"
        )
    trainings = {name: training.make_spec(StageSpec, config.stage2[name]) for name in config.stage2}
    made = {
        "stage1": training.make_spec(StageSpec, config.stage1),
        "reconstruct": reconstruction.make_spec(config.reconstruct),
    }
    try:
        made["stage2"] = specs.make(Trainings, trainings)
        return specs.make(ComparisonSpec, config.to_dict() | made)
    except TypeError as error:
        raise UserError(
            f"this is no config of a comparison by this version: {error}; compare it with its "
            "preset in configs/compare.py"
        ) from None


def ensure_same_comparison(out: Path, cfg: ComparisonSpec) -> None:
    """Writes config.json into a new folder; refuses one of another comparison.

    The frozen networks are part of what it is: rows of two autoencoders do not belong in a table.
    """
    config = cfg.to_dict()
    facts = dict(config)
    for network in ("vae", "clip"):
        of_network = model_facts(getattr(cfg.stage1.init, network) or None, network)
        facts[f"sha256 of {network}"] = of_network["sha256 of model.safetensors"]

    def refusal(found: list[Difference]) -> str:
        keys = dict.fromkeys(key.split(".")[0] for key, *_ in found)
        names = ", ".join(f"config.{key}" if key in config else f"the {key}" for key in keys)
        return (
            f"{out} holds a comparison of another config or other networks ({names}); give another "
            "--out"
        )

    ensure_same_folder(out / "config.json", facts, refusal, free=FREE_KEYS)


def program_key(cfg: StageSpec) -> str:
    """Equal for trainings whose steps compile to the same programs.

    What a config leaves to its base is part of them, so this is of the spec and not of the config.
    """
    host = _HOST_KEYS
    if cfg.lr_schedule == "constant":  # then the number of steps says nothing
        host += ("steps", "final_learning_rate")
    return json.dumps({k: v for k, v in cfg.to_dict().items() if k not in host}, default=str)


def training_spec(
    cfg: ComparisonSpec, name: str, seed: int, encoded: str, stage1: str | Path
) -> StageSpec:
    """The spec of one training.

    Args:
      name: 'stage1' or one of `TRAININGS`.
      encoded: folder of the encoded data that all share.
      stage1: workdir of this seed's stage 1.
    """
    made: StageSpec = cfg.stage1 if name == "stage1" else getattr(cfg.stage2, name)
    begins = name == "stage1" or made.ablation == "no_stage1"
    return replace(
        made, seed=made.seed + seed, data=cfg.data, data_encoded=encoded,
        init_from=made.init_from if begins else str(stage1),
    )  # fmt: skip


def scene_spec(cfg: ComparisonSpec, run: Run) -> ReconstructionSpec:
    """The reconstruction of one run."""
    weight = cfg.reference_l2 if run.reference_l2 else 0.0
    return replace(cfg.reconstruct, loss=replace(cfg.reconstruct.loss, reference_l2=weight))
