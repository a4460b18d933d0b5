"""What is compared: the method, and the method with one idea taken out or a rival's put in.

Every run is the ordinary training and reconstruction with another config (configs/compare.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import Difference, ensure_same_folder
from iso3d_jax.evaluation.report import model_facts
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
    "sample_every", "ablate_every", "keep",
)  # fmt: skip


def check(cfg: ConfigDict) -> None:
    """UserError on a config that no comparison can be made with."""
    config_checks.check(cfg)
    if cfg.scenes > cfg.objects:
        raise UserError(
            f"config.scenes is {cfg.scenes} but config.objects {cfg.objects}: scenes are made of "
            "the first of the objects"
        )


def ensure_same_comparison(out: Path, cfg: ConfigDict) -> None:
    """Writes config.json into a new folder; refuses one of another comparison.

    The frozen networks are part of what it is: rows of two autoencoders do not belong in a table.
    """
    facts = cfg.to_dict()
    for network in ("vae", "clip"):
        of_network = model_facts(cfg.stage1.init[network] or None, network)
        facts[f"sha256 of {network}"] = of_network["sha256 of model.safetensors"]

    def refusal(found: list[Difference]) -> str:
        keys = dict.fromkeys(key.split(".")[0] for key, *_ in found)
        names = ", ".join(f"config.{key}" if key in cfg else f"the {key}" for key in keys)
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


def training_config(
    cfg: ConfigDict, name: str, seed: int, encoded: str, stage1: str | Path
) -> ConfigDict:
    """The config of one training.

    Args:
      name: 'stage1' or one of `TRAININGS`.
      encoded: folder of the encoded data that all share.
      stage1: workdir of this seed's stage 1.
    """
    source = cfg.stage1 if name == "stage1" else cfg.stage2[name]  # pyright: ignore[reportCallIssue]
    made = ConfigDict(source.to_dict())
    made.seed = source.seed + seed
    made.data, made.data_encoded = cfg.data, encoded
    if name != "stage1" and made.ablation != "no_stage1":
        made.init_from = str(stage1)
    return made


def scene_config(cfg: ConfigDict, run: Run) -> ConfigDict:
    """The reconstruction config of one run."""
    made = ConfigDict(cfg.reconstruct.to_dict())
    made.loss.reference_l2 = cfg.reference_l2 if run.reference_l2 else 0.0
    return made
