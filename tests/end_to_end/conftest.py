"""What a stranger has: the built wheel, installed elsewhere, and a folder to run commands in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fork_server import FAST_COMPILING, ForkServer, refusing

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "iso3d_jax" / "data" / "examples"
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
LEFT_OUT = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "out", "runs", "data_*", "tests", "docs"
)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder that the wheel was installed into, built once from a copy of the sources."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not (folder / "site" / "bin").is_dir():
            shutil.copytree(ROOT, folder / "sources", ignore=LEFT_OUT)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
            build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "sources"]
            subprocess.run([*pip, *map(str, build)], check=True, timeout=300)
            (wheel,) = folder.glob("*.whl")
            install = ["install", "--no-deps", "--target", str(folder / "installing"), str(wheel)]
            subprocess.run([*pip, *install], check=True, timeout=300)
            (folder / "installing").rename(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """A working folder with nothing of the checkout but a picture and a config of one's own."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(EXAMPLES / "trash_can.png", folder / "my bin.png")
    text = (ROOT / "tests" / "smallest_reconstruction.py").read_bytes()
    (folder / "smallest_reconstruction.py").write_bytes(text.replace(b"\n", b"\r\n"))
    return folder


@pytest.fixture(scope="session")
def environment(site, desk):
    """Variables of whoever works there; compiled programs are kept where all tests keep them."""
    own = {"PYTHONPATH": str(site), "HOME": str(desk), "XDG_CACHE_HOME": CACHE}
    return os.environ | FAST_COMPILING | own


@pytest.fixture(scope="session")
def run_python(site, desk, environment, tmp_path_factory):
    """Runs `python -m MODULE ARGS...` of the installed wheel in `desk`; returns the process."""
    server = ForkServer(tmp_path_factory.mktemp("commands"), package=site, folder=desk)

    def run(*args, timeout=1800):
        assert args[0] == "-m"
        return server.run([str(arg) for arg in args[1:]], environment, timeout)

    yield run
    server.close()


@pytest.fixture(scope="session")
def refused(run_python):
    """As in every folder, of the installed wheel."""
    return refusing(run_python)
