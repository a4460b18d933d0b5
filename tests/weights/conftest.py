"""The golden checkpoint, converted once."""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def arch():
    return json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture(scope="session")
def golden_tensors():
    from iso3d_jax.weights.tensors import open_tensors

    return open_tensors(GOLDEN / "isotropic3d_tiny_fp16.ckpt")


@pytest.fixture(scope="session")
def converted(tmp_path_factory, arch):
    """(config, folder)"""
    from iso3d_jax.weights.importing import import_weights

    folder = tmp_path_factory.mktemp("converted")
    return import_weights([str(GOLDEN / "isotropic3d_tiny_fp16.ckpt")], folder, arch), folder
