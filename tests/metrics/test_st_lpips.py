"""ST-LPIPS without its package: the layers, files of weights, and how they are found."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import ndimage

from iso3d_jax.core.errors import UserError
from iso3d_jax.metrics import st_lpips


@pytest.fixture
def weights(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for k, (name, shape) in enumerate(st_lpips._SHAPES.items()):
        size = np.prod(shape[1:])
        tensors[f"{name}.weight"] = (rng.normal(size=shape) / np.sqrt(size)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
        tensors[f"lin{k}.model.1.weight"] = np.ones((1, shape[0], 1, 1), np.float32) / shape[0]
    save_file(tensors, tmp_path / "alex.safetensors")
    return tmp_path / "alex.safetensors", tensors


def test_blur_is_scipys():
    x = np.random.default_rng(0).random((2, 9, 7, 3)).astype(np.float32)
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None] / 16
    # Borders of two: of the full blur, mirrored, one more row and column on each side.
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    want = ndimage.correlate(padded, kernel)[:, 1:-1, 1:-1][:, ::2, ::2]
    np.testing.assert_allclose(st_lpips._blur(x), want, rtol=1e-5)


def test_distances_of_a_file(weights):
    file, _ = weights
    metric = st_lpips.load(file)
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
        st_lpips.load(tmp_path / "vgg.safetensors")


def test_the_package_is_found_without_being_imported(tmp_path, monkeypatch):
    folder = tmp_path / st_lpips.PACKAGE
    (folder / st_lpips.FILE).parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert st_lpips.find() is None
    (folder / st_lpips.FILE).write_bytes(b"weights")
    assert st_lpips.find() == folder / st_lpips.FILE
