"""Stage 1 from a 2-D model: a diffusers pipeline without cameras, converted, then trained on."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.models.params import merge_params
from iso3d_jax.training import sharding
from iso3d_jax.training.tasks import denoiser, registry
from iso3d_jax.weights.exporting import export_diffusers
from iso3d_jax.weights.importing import import_weights

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def golden_model(tmp_path):
    arch = json.loads((GOLDEN / "config.json").read_text())
    import_weights([str(GOLDEN / "isotropic3d_tiny_fp16.ckpt")], tmp_path / "golden", arch)
    return tmp_path / "golden"


@pytest.mark.slow
def test_stage_1_starts_from_a_2d_model(golden_model, tmp_path):
    """Its camera MLP is silent at first, so the loss is the 2-D model's; its gradient is not."""
    export_diffusers(golden_model, tmp_path / "pipeline")
    base = import_weights([str(tmp_path / "pipeline")], tmp_path / "base", {})
    cfg = config_files.load_config("configs/stage1.py:tiny")
    cfg.batch_size, cfg.encoding, cfg.loader, cfg.data_variants = 2, "online", "grain", 1
    cfg.model.unet = config_files.load_config("configs/stage1.py").model.unet
    cfg.model.unet.update({k: v for k, v in vars(base.unet).items() if k in cfg.model.unet})
    cfg.model.parameterization, cfg.model.camera_encoding = "eps", "mvdream"
    cfg.init_from = str(tmp_path / "base")
    cfg.init.vae = cfg.init.clip = str(golden_model)
    task = registry.make_task(cfg)
    params = task.init_params()

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step = next(s for s in range(99) if task.branch(s) == "1-b")
    rows = task.batch(step, np.arange(2))
    batch = task.on_devices(sharding.put_batch(rows, 2, mesh), mesh)
    assert batch["moments"].shape[:2] == (2, 4)

    @jax.jit
    @jax.value_and_grad
    def gradient(params, batch):
        unet = merge_params(task.graphdef, params)
        return denoiser.denoising_loss(unet, batch, jax.random.key(0), task.cfg, 1.0)[0]

    value, grads = gradient(params, batch)
    turned = batch | {"camera": -batch["camera"]}
    assert value == gradient(params, turned)[0]
    out = "camera_embed/linear_out/kernel"
    assert not np.asarray(params[out]).any() and np.asarray(grads[out]).any()
    after = params | {out: params[out] - 0.1 * grads[out]}
    assert gradient(after, batch)[0] != gradient(after, turned)[0]
