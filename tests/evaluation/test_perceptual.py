"""Perceptual distances of weight files: what is read, what is refused, what is found."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from iso3d_jax.core.errors import UserError
from iso3d_jax.evaluation import perceptual
from iso3d_jax.metrics import st_lpips


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for k, (name, shape) in enumerate(st_lpips._CONVOLUTIONS.items()):
        size = np.prod(shape[1:])
        tensors[f"{name}.weight"] = (rng.normal(size=shape) / np.sqrt(size)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
        tensors[f"lin{k}.model.1.weight"] = np.ones((1, shape[0], 1, 1), np.float32) / shape[0]
    save_file(tensors, tmp_path / "alex.safetensors")
    return tmp_path / "alex.safetensors", tensors


def test_distances_of_a_file(weights):
    file, _ = weights
    metric = perceptual.load_st_lpips(file)
    a, b = np.random.default_rng(1).random((2, 2, 24, 24, 3)).astype(np.float32)
    there, back, same = metric(a, b, 2), metric(b, a, 2), metric(a, a, 2)
    assert (there > 1e-4).all() and np.abs(same).max() < 1e-7
    np.testing.assert_allclose(there, back, rtol=1e-4)
    with pytest.raises(UserError, match="20 pixels or more"):
        metric(a[:, :16, :16], b[:, :16, :16])


def test_weights_that_are_missing_or_others_are_refused(weights, tmp_path):
    file, tensors = weights
    tensors["lin4.model.1.weight"] = np.ones((1, 512, 1, 1), np.float32)
    save_file(tensors, tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match=r"lin4.model.1.weight is of shape \(1, 512, 1, 1\)"):
        perceptual.load_st_lpips(tmp_path / "vgg.safetensors")


def test_the_package_is_found_without_being_imported(tmp_path, monkeypatch):
    folder = tmp_path / perceptual.ST_LPIPS_PACKAGE
    (folder / perceptual.ST_LPIPS_FILE).parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert perceptual.find_st_lpips() is None
    (folder / perceptual.ST_LPIPS_FILE).write_bytes(b"weights")
    assert perceptual.find_st_lpips() == folder / perceptual.ST_LPIPS_FILE
