"""Specs of trainings: all of their configs, and nothing else."""

import dataclasses
import json

import pytest

from iso3d_jax.commands.config_files import load_config
from iso3d_jax.core.errors import UserError
from iso3d_jax.tiny.tasks.autoencoder import AutoencoderSpec
from iso3d_jax.tiny.tasks.image_tower import ImageTowerSpec
from iso3d_jax.tiny.tasks.sampled_views import SampledViewsSpec
from iso3d_jax.training.spec import StageSpec, make_spec

PRESETS = {
    "stage1:full": StageSpec, "stage1:tiny": StageSpec, "stage1:furniture": StageSpec,
    "stage2:full": StageSpec, "stage2:tiny": StageSpec, "stage2:furniture": StageSpec,
    "stage2:tiny,ablation=ccr": StageSpec, "autoencoder": AutoencoderSpec,
    "image_tower": ImageTowerSpec, "decoder": SampledViewsSpec,
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_notes_the_config_that_it_was_given(preset):
    """What config.json holds of a spec is what it would hold of the config, to the letter."""
    config = load_config(preset)
    spec = make_spec(PRESETS[preset], config)
    assert json.dumps(spec.to_dict()) == json.dumps(config.to_dict())
    assert hash(spec) == hash(make_spec(PRESETS[preset], load_config(preset)))
    assert config == load_config(preset)


def test_nothing_of_a_spec_can_be_changed():
    spec = make_spec(StageSpec, load_config("stage2:tiny"))
    for target, name, value in ((spec, "steps", 1), (spec.mesh, "fsdp", 2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, value)
    with pytest.raises(AttributeError):
        spec.model.unet.model_channels = 1


def test_a_config_with_a_key_too_many_or_too_few_or_a_wrong_value_is_refused():
    config = load_config("stage1:tiny")
    del config["remat"]
    with pytest.raises(UserError, match="no config of the task 'denoiser' .*'remat'; compare"):
        make_spec(StageSpec, config)
    config = load_config("stage1:tiny")
    with config.unlocked():
        config.init.unet = "there"
    with pytest.raises(UserError, match="InitSpec has no field unet; compare it with"):
        make_spec(StageSpec, config)
    config = load_config("stage1:tiny")
    config.trainable = "lor"
    with pytest.raises(UserError, match="did you mean 'lora'"):
        make_spec(StageSpec, config)
