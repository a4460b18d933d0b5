"""Files in the format that torch.save had before 1.6, written by PyTorch."""

import pickle

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.tensors import open_tensors

torch = pytest.importorskip("torch")


@pytest.fixture
def old(tmp_path):
    """A state dict with a view, a shared storage, a transpose and three types."""
    torch.manual_seed(0)
    whole = torch.randn(6, 5)
    tensors = {
        "whole": whole, "view": whole[1:3, 2:], "turned": whole.T,
        "half": torch.randn(3).half(), "count": torch.tensor(7),
    }  # fmt: skip
    torch.save({"state_dict": tensors}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    return tmp_path / "x.pth", tensors


def test_tensors_are_pytorchs(old):
    path, tensors = old
    read = open_tensors(path)
    assert read.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(read[key].read(), value.numpy(), err_msg=key)


def test_what_is_cut_short_or_runs_code_is_refused(old, tmp_path):
    path, _ = old
    raw = path.read_bytes()
    for size in (len(raw) - 1, len(raw) - 60, 200, 40):
        (tmp_path / "cut.pth").write_bytes(raw[:size])
        with pytest.raises(UserError, match="damaged"):
            open_tensors(tmp_path / "cut.pth")
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    (tmp_path / "bad.pth").write_bytes(head + b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="runs code"):
        open_tensors(tmp_path / "bad.pth")
