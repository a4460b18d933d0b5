"""model.json and what stands beside weights: refused by name where it is not what it must be."""

import json

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.pictures import MODES
from iso3d_jax.weights import bundle, facts
from iso3d_jax.weights.folders import TINY
from iso3d_jax.weights.importing import _beside, import_weights
from iso3d_jax.weights.sources import Source

TOLD = json.loads((TINY / "model.json").read_text())


def test_the_names_of_preparations_are_the_pictures_own():
    assert facts.PICTURES == MODES


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": "64"}, {"resolution": 1 << 40}, {"resolution": True}, {"name": []},
        {"parameterization": "x0"}, {"scale_factor": -1}, {"camera_encoding": 3}, {"steps": 0},
        {"unet": []}, {"unet": TOLD["unet"] | {"model_channels": "64"}}, {"eta": {}},
        {"unet": TOLD["unet"] | {"channel_mult": []}}, {"unet": TOLD["unet"] | {"shortcut": 1}},
        {"unet": TOLD["unet"] | {"num_head_channels": 0}}, {"spacing": "x"}, {"picture": "x"},
        {"unet": TOLD["unet"] | {"transformer_depth": 10**6}}, {"a.b": 1, "unet": None},
        {"unet": TOLD["unet"] | {"num_groups": 7}}, {"unet": TOLD["unet"] | {"odd": 1}},
    ],
)  # fmt: skip
def test_a_model_json_that_describes_no_model_is_refused(tmp_path, change):
    (tmp_path / "model.json").write_text(json.dumps(TOLD | change))
    with pytest.raises(UserError) as error:
        bundle.abstract_network("unet", bundle.load_config(tmp_path))
    assert "\n" not in str(error.value)


UNET = {
    "_class_name": "UNet2DConditionModel", "norm_num_groups": 2, "attention_head_dim": [1, 2],
    "block_out_channels": [4, 8], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
}  # fmt: skip
CLIP = {"architectures": ["CLIPVisionModelWithProjection"], "num_attention_heads": 2}


@pytest.mark.parametrize(
    "config, words",
    [
        (UNET | {"act_fn": "mish"}, "activation is 'mish'"),
        (UNET | {"norm_num_groups": "2"}, "norm_num_groups"),
        (UNET | {"norm_num_groups": 0}, "norm_num_groups"),
        (UNET | {"attention_head_dim": [1]}, "do not fit each other"),
        (UNET | {"attention_head_dim": [0, 1]}, "do not fit each other"),
        (UNET | {"block_out_channels": 4}, "block_out_channels"),
        (UNET | {"down_block_types": "x"}, "down_block_types"),
        (UNET | {"sample_size": -1}, "sample_size"),
        (CLIP | {"hidden_act": "quick_gelu"}, "activation is 'quick_gelu'"),
        (CLIP | {"hidden_act": ["gelu"]}, "hidden_act"),
        (CLIP | {"vision_config": 3}, "vision_config"),
        (CLIP | {"num_attention_heads": "a"}, "num_attention_heads"),
        ({"architectures": 3}, "architectures"),
        ({"_class_name": "AutoencoderKL", "scaling_factor": "x"}, "scaling_factor"),
        ({"_class_name": "AutoencoderKL", "scaling_factor": 0}, "scaling_factor"),
    ],
)
def test_a_config_json_is_checked_entry_by_entry(tmp_path, config, words):
    with pytest.raises(UserError, match=words):
        _beside(Source(tmp_path / "x.safetensors", {}, config))


@pytest.mark.parametrize("prediction", [[], 3, "sample"])
def test_a_scheduler_that_predicts_something_else_is_refused(tmp_path, prediction):
    with pytest.raises(UserError, match="scheduler predicts"):
        _beside(Source(tmp_path / "x", {}, UNET, {"prediction_type": prediction}))


@pytest.mark.parametrize(
    "arch", [{"unet": {"num_groups": "x"}}, {"vae": {"patch": {}}}, {"resolution": []}]
)
def test_an_arch_of_no_numbers_is_refused(tmp_path, arch):
    with pytest.raises(UserError, match="--arch"):
        import_weights([], tmp_path, arch)
