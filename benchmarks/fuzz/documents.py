"""JSON that others may have written: damaged model.json, config.json, report.json and the like."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fuzz import weights
from benchmarks.fuzz.mutation import mutate_json, to_json

SECONDS = 10.0
HELD = "x.safetensors"


def attempt(path: Path) -> None:
    """Gives a document to the function that reads it in a command."""
    from iso3d_jax.core.json_files import read_object
    from iso3d_jax.weights.importing import import_weights

    with tempfile.TemporaryDirectory() as out:
        if path.name == "model.json":
            _load_model(path)
        elif path.name == "report.json":
            _show_report(path)
        elif path.name == "arch.json":
            import_weights([str(path.with_name(HELD))], out, read_object(path))
        elif path.name == "config.json":
            import_weights([str(path.parent)], out, weights.ARCH)
        elif path.name == "scheduler_config.json":
            import_weights([str(path.parents[1])], out, weights.ARCH)
        else:
            import_weights([str(path)], out, weights.ARCH)


def warm_up() -> None:
    """JAX and the readers, imported and used once."""
    weights.warm_up()
    _load_model(_tiny() / "model.json")


def _tiny() -> Path:
    from iso3d_jax.weights.folders import TINY

    return TINY


def _load_model(path: Path) -> None:
    from iso3d_jax.weights.bundle import load_model

    held = path.with_name("model.safetensors")
    if not held.exists():
        held.symlink_to(_tiny() / held.name)
    load_model(path.parent)


def _show_report(path: Path) -> None:
    from iso3d_jax.pages import run_page
    from iso3d_jax.reconstruction.report_file import read_report

    report = read_report(path.parent)
    run_page._figures(report, "", 0)
    run_page._versions(report)


@functools.cache
def _weights() -> bytes:
    return weights._safetensors()


def _documents() -> dict[str, tuple[dict, dict[str, bytes]]]:
    """{entry: (a whole document, the files beside it)}."""
    unet = {
        "_class_name": "UNet2DConditionModel", "norm_num_groups": 2, "attention_head_dim": [1, 2],
        "block_out_channels": [4, 8], "sample_size": 8, "act_fn": "silu",
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    }  # fmt: skip
    vae = {"_class_name": "AutoencoderKL", "norm_num_groups": 2, "scaling_factor": 0.18215,
           "act_fn": "silu"}  # fmt: skip
    tower = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "vision_config": {"hidden_act": "gelu", "num_attention_heads": 2},
    }
    scheduler = {
        "prediction_type": "v_prediction", "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012,
    }  # fmt: skip
    agreement = {"psnr_db": 20.5, "mask_iou": 0.9}
    report = {
        "mode": "sds", "seed": 0, "iterations": 4, "device": "cpu cpu", "versions": {"jax": "0.10"},
        "seconds": {"views": 1.5, "mesh": 2, "of_optimisation": {"compile": 1.0}},
        "mesh": {"threshold": 10.0, "faces": 100, **agreement, "silhouette_iou": 0.9,
                 "as_optimised": agreement},
    }  # fmt: skip
    beside = {HELD: _weights()}
    names = dict.fromkeys(weights._arrays(), HELD)
    root = "unet/diffusion_pytorch_model.safetensors"
    return {
        "model.json": (json.loads((_tiny() / "model.json").read_text()), {}),
        "report.json": (report, {}),
        "arch.json": (weights.ARCH | {"unet": {"num_head_channels": 4}}, beside),
        "unet/config.json": (unet, {"unet/" + HELD: _weights()}),
        "vae/config.json": (vae, {"vae/" + HELD: _weights()}),
        "clip/config.json": (tower, {"clip/" + HELD: _weights()}),
        "scheduler/scheduler_config.json": (
            scheduler, {root: _weights(), "unet/config.json": json.dumps(unet).encode()}
        ),
        "x.safetensors.index.json": ({"metadata": {}, "weight_map": names}, beside),
    }  # fmt: skip


def cases(seed: int, n: int) -> Iterator[tuple[str, dict[str, bytes], str]]:
    """n documents: each kind whole, then damaged ones of every kind in turn."""
    documents = list(_documents().items())
    for index in range(n):
        entry, (document, beside) = documents[index % len(documents)]
        draw = np.random.default_rng((seed, index))
        whole = index < len(documents)
        raw = json.dumps(document).encode() if whole else to_json(draw, mutate_json(draw, document))
        name = f"{'whole' if whole else 'damaged'}_{entry.replace('/', '_')}_{index}"
        yield name, {entry: raw, **beside}, entry
