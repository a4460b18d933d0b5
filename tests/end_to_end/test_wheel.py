"""What is in the wheel, and the console script. Every test of this folder runs commands from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from iso3d_jax.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def iso3d(site, desk, environment):
    """Runs the console script; it must succeed. Returns what it printed."""

    def run(*args):
        process = subprocess.run(
            [str(site / "bin" / "iso3d"), *map(str, args)], cwd=desk, capture_output=True,
            text=True, timeout=900, env=environment,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


def test_the_wheel_holds_what_the_package_reads(site):
    names = {str(p.relative_to(site / "iso3d_jax")) for p in (site / "iso3d_jax").rglob("*")}
    tracked = subprocess.run(
        ["git", "ls-files", "iso3d_jax"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if not any(tracked):
        tracked = [str(p.relative_to(ROOT)) for p in (ROOT / "iso3d_jax").rglob("*.py")]
    missing = {n.removeprefix("iso3d_jax/") for n in tracked if n and (ROOT / n).is_file()} - names
    assert not missing


def test_it_is_the_installed_package_that_runs(site, desk, environment, run_python):
    program = "import iso3d_jax; print(iso3d_jax.__file__)"
    (desk / "where.py").write_text(program)
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=desk, capture_output=True, text=True, env=environment
    ).stdout  # fmt: skip
    assert Path(found.strip()) == site / "iso3d_jax" / "__init__.py"
    assert run_python("-m", "where").stdout == found


def test_the_list_of_commands(iso3d, run_python):
    printed = iso3d()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", printed, re.MULTILINE), name
        if name != "lowering":
            assert "Flags:" in run_python("-m", "iso3d_jax", name, "--help").stdout
    assert "Flags:" in iso3d("sample", "--help")


def test_views_and_a_mesh_by_the_script(iso3d, desk):
    """With the shipped model and a preset by its name; and what is found in a user's own folder."""
    iso3d("sample", "--image", "my bin.png", "--out=~/views.png")
    assert (desk / "views.png").stat().st_size > 10_000
    iso3d(
        "reconstruct", "--image", "my bin.png", "--out", "bin", "--seed", 5,
        "--config", "reconstruct:tiny,steps=2", "--config.init=none",
        "--config.video.frames=2", "--config.video.resolution=32", "--config.mesh.resolution=32",
        "--config.mesh.texture=64",
    )  # fmt: skip
    assert (desk / "bin" / "index.html").stat().st_size > 100_000
    iso3d("export", "--run", "bin", "--format", "obj")
    assert (desk / "bin" / "mesh.mtl").is_file()
