"""What trainers add to keys is taken off; what marks a training sets the model's facts."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.safetensors_file import write_safetensors
from iso3d_jax.weights.trainer_keys import clean_keys

LDM = ["model.diffusion_model.out.2.bias", "first_stage_model.quant_conv.bias", "betas"]
UNET = ["conv_in.weight", "down_blocks.0.resnets.0.norm1.weight"]


@pytest.mark.parametrize("keys", [LDM, UNET])
@pytest.mark.parametrize(
    "add",
    [
        "{}", "module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}",
        "module.module.{}", "_forward_module.{}", "model.{}", "module.model.{}", "model.module.{}",
        "net.model._orig_mod.{}", "ema_model.{}", "module.ema.{}", "model_ema.module.{}",
    ],
)  # fmt: skip
def test_prefixes_before_all_keys(keys, add):
    tensors = {add.format(key): index for index, key in enumerate(keys)}
    assert clean_keys(tensors, "x.ckpt").tensors == {key: i for i, key in enumerate(keys)}


def test_prefixes_within_and_before_some_keys():
    tensors = {
        "model._orig_mod.diffusion_model.out.2.bias": 0, "model.diffusion_model.module.a": 1,
        "module.first_stage_model._orig_mod.quant_conv.bias": 2, "betas": 3,
    }  # fmt: skip
    assert list(clean_keys(tensors, "x").tensors) == [
        LDM[0], "model.diffusion_model.a", LDM[1], "betas"
    ]  # fmt: skip


def test_an_average_beside_the_weights_is_left_out():
    for name in ("ema", "ema_model.module", "module_ema", "ema_model.model"):
        tensors = {key: 0 for key in UNET} | {f"{name}.{key}": 1 for key in UNET}
        tensors |= {f"{name.split('.')[0]}.decay": 2}
        assert clean_keys(tensors, "x").tensors == {key: 0 for key in UNET}


def test_the_same_key_twice_is_refused():
    with pytest.raises(UserError, match="x.ckpt has 'betas' twice"):
        clean_keys({"betas": 0, "module.betas": 1}, "x.ckpt")


def test_a_v_marker_sets_the_parameterization(golden_tensors, arch, tmp_path):
    values = {f"module.{key}": tensor.read() for key, tensor in golden_tensors.items()}
    values |= {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [(k, v.shape, v.dtype, lambda v=v: v) for k, v in values.items()])
    arch = {key: value for key, value in arch.items() if key != "parameterization"}
    assert import_weights([str(path)], tmp_path / "out", arch).parameterization == "v"


def test_a_lora_is_named_as_such(tmp_path):
    value = np.zeros((1, 2), np.float32)
    entries = [("lora_unet_conv_in.lora_down.weight", value.shape, value.dtype, lambda: value)]
    write_safetensors(tmp_path / "x.safetensors", entries)
    with pytest.raises(UserError, match="holds a LoRA"):
        import_weights([str(tmp_path / "x.safetensors")], tmp_path / "out")
