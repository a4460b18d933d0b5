"""Files that torch.save writes, in its formats old and new, read by ours."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.tensors import open_tensors

torch = pytest.importorskip("torch")

ARRAYS = {
    "a.weight": np.arange(15, dtype=np.float32).reshape(3, 5),
    "c": np.arange(11, dtype=np.float16),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "steps": np.array([1, 2**40], np.int64),
}


def check(tensors, expected):
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        got = tensors[key].read()
        assert got.dtype == value.dtype and got.shape == value.shape, key
        np.testing.assert_array_equal(got, value)


def test_torch_itself_and_ours_agree_on_formats_old_and_new(tmp_path):
    values = {k: torch.from_numpy(v.copy()) for k, v in ARRAYS.items()}
    values["module"] = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    for name, options in {
        "new": {}, "old": {"_use_new_zipfile_serialization": False}, "5": {"pickle_protocol": 5}
    }.items():  # fmt: skip
        torch.save({"state_dict": values, "lr": 0.1}, tmp_path / f"{name}.pt", **options)
        check(
            open_tensors(tmp_path / f"{name}.pt"),
            {k: v.detach().numpy() for k, v in values.items()},
        )
    half = {"w": torch.zeros(3).to(torch.float8_e4m3fn)}
    torch.save(half, tmp_path / "fp8.pt")
    with pytest.raises(UserError, match="'w' is of the type float8_e4m3fn, which is not read"):
        open_tensors(tmp_path / "fp8.pt")
