"""core/extras.py: packages that may not be there."""

import sys

import pytest

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError


def test_a_package_is_looked_for_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "moderngl.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.delitem(sys.modules, "moderngl", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert extras.is_installed("moderngl") and not extras.is_installed("libtpu")
    extras.require("moderngl")
    with pytest.raises(UserError, match=r"the package libtpu.*iso3d_jax\[tpu\]"):
        extras.require("moderngl", "libtpu")
    assert "moderngl" not in sys.modules
