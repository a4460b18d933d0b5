"""Which class a config's `task` names; it is imported when it is asked for."""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.training.tasks.task import BaseTask

TASKS = {
    "denoiser": "iso3d_jax.training.tasks.stages:DenoiserTask",
    "autoencoder": "iso3d_jax.tiny.tasks.autoencoder:AutoencoderTask",
    "image_tower": "iso3d_jax.tiny.tasks.image_tower:ImageTowerTask",
    "sampled_views": "iso3d_jax.tiny.tasks.sampled_views:SampledViewsTask",
}


def make_task(config: ConfigDict) -> BaseTask:
    """The task that `config.task` names; the config stays as it is.

    Raises:
      UserError: a value of the config that may not be, or what a task needs is missing.
    """
    config_checks.check(config)
    module, _, name = TASKS[config.task].partition(":")
    return getattr(importlib.import_module(module), name).from_config(config)
