"""A whole training run from its config, as the command starts it."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks, paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import make_folder


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    dtype: str | None = None,
    distributed: bool | None = None,
    profile_steps: int = 0,
    wandb_project: str | None = None,
) -> Path:
    """Trains what a config says; the same call goes on where a stopped run was.

    Args:
      config: of `iso3d_jax/presets`: stage1, stage2, autoencoder, image_tower, decoder.
      workdir: folder of the run: checkpoints/, model/, samples/, metrics.jsonl, tensorboard/.
      dtype: of the computation, 'float32' or 'bfloat16', in place of the config's; stages 1 and 2.
      distributed: join the run's other processes; where the environment says so if None.
      profile_steps: so many steps are traced to profile/.
      wandb_project: where Weights & Biases gets the numbers too.

    Returns:
      The folder of the trained model.

    Raises:
      UserError: a value or a path of the config that cannot be right, a folder of another run, or
        losses that are not finite.
      SystemExit: stopped by a signal; what was done is saved.
    """
    config = with_dtype(config, dtype)
    config_checks.check(config)
    paths.training(config)
    workdir = make_folder(workdir)
    from iso3d_jax.training import distributed as processes

    processes.initialize(distributed)
    from iso3d_jax.training.loop import fit
    from iso3d_jax.training.tasks.registry import make_task

    fit(
        make_task(config),  # pyright: ignore[reportArgumentType] (a cached property is no property)
        workdir, profile_steps=profile_steps, wandb_project=wandb_project,
    )  # fmt: skip
    return workdir / "model"


def with_dtype(config: ConfigDict, dtype: str | None) -> ConfigDict:
    """A copy of a training config with another type of computation."""
    config = config.copy_and_resolve_references()
    if dtype:
        if "dtype" not in config:
            raise UserError(f"--dtype is for stages 1 and 2: the {config.task} trains in float32")
        config.dtype = dtype
    return config
