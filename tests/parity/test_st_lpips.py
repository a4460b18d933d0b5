"""ST-LPIPS against the package that it comes from, with its own weights."""

import sys
import types

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.evaluation import perceptual

torch = pytest.importorskip("torch")
pytest.importorskip("stlpips_pytorch")


@pytest.fixture(scope="module")
def theirs():
    """The package's metric. It imports three packages that this network does not use."""
    with pytest.MonkeyPatch.context() as patch:
        for name, attribute in (("torchvision", "models"), ("IPython", "embed")):
            if name not in sys.modules:
                module = types.ModuleType(name)
                setattr(module, attribute, types.ModuleType(f"{name}.{attribute}"))
                patch.setitem(sys.modules, name, module)
                patch.setitem(sys.modules, f"{name}.{attribute}", getattr(module, attribute))
        summary = types.ModuleType("torchsummary")
        summary.summary = None
        patch.setitem(sys.modules, "torchsummary", summary)
        from stlpips_pytorch import stlpips

        yield stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)


@pytest.mark.parametrize("size", [64, 33])
def test_distance_is_the_packages(theirs, same, size):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, size, size, 3)).astype(np.float32)
    b[1] = 0.8 * a[1] + 0.2 * b[1]  # one pair alike
    ours = perceptual.load_st_lpips(perceptual.find_st_lpips())
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2) * 2 - 1 for x in (a, b)]
    with torch.no_grad():
        want = theirs(*tensors).reshape(-1).numpy()
    assert want.min() > 1e-3
    same(f"ST-LPIPS, {size} pixels", ours(a, b, batch=2), want)
    assert np.abs(ours(a, a)).max() < 1e-6


def test_small_shifts_matter_less_than_another_picture():
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.random((3, 9, 9, 3)), np.ones((1, 8, 8, 1))).astype(np.float32)
    ours = perceptual.load_st_lpips(perceptual.find_st_lpips())
    shifted = ours(smooth[:, 2:66, 2:66], smooth[:, 3:67, 2:66])
    other = ours(smooth[:, 2:66, 2:66], smooth[::-1, 2:66, 2:66][[1, 0, 1]])
    assert (shifted < 0.5 * other).all()


def test_wrong_files_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with pytest.raises(UserError, match="net.slice1.0.weight is missing"):
        perceptual.load_st_lpips(tmp_path / "alex.pth")
    with pytest.raises(UserError, match="20 pixels or more"):
        perceptual.load_st_lpips(perceptual.find_st_lpips())(
            np.ones((1, 16, 16, 3)), np.ones((1, 16, 16, 3))
        )
