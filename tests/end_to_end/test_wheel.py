"""What a stranger has: the built wheel, installed elsewhere, every command run from a folder of
one's own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iso3d_jax.__main__ import COMMANDS
from tests.fork_server import FAST_COMPILING

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "iso3d_jax" / "data" / "examples"
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
LEFT_OUT = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "out", "runs", "data_*", "tests", "docs"
)

COMPARISON = """
from iso3d_jax.presets import compare
import smallest_reconstruction

def get_config(arg=None):
    cfg = compare.get_config("tiny,steps=2,seeds=1")
    for training in (cfg.stage1, *(cfg.stage2[name] for name in cfg.stage2)):
        training.data_encoded = "encoded"
        training.batch_size, training.warmup_steps = 2, 0
        training.model.unet.update(
            model_channels=16, channel_mult=(1,), attention_resolutions=(1,), num_head_channels=8,
            num_groups=4,
        )
    cfg.objects, cfg.ddim_steps = 1, 2
    cfg.reconstruct = smallest_reconstruction.get_config("2")
    return cfg
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the wheel was installed into, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "sources", ignore=LEFT_OUT)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "sources"]
    subprocess.run([*pip, *map(str, build)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    install = ["install", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=300)
    return folder / "site"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A working folder with nothing of the checkout but a picture and a config of one's own."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(EXAMPLES / "trash_can.png", folder / "my bin.png")
    text = (ROOT / "tests" / "smallest_reconstruction.py").read_bytes()
    (folder / "smallest_reconstruction.py").write_bytes(text.replace(b"\n", b"\r\n"))
    (folder / "comparison.py").write_text(COMPARISON)
    return folder


@pytest.fixture(scope="module")
def iso3d(site, desk):
    """Runs the console script there; it must succeed. Returns what it printed."""

    def run(*args, **environment):
        process = subprocess.run(
            [str(site / "bin" / "iso3d"), *map(str, args)], cwd=desk, capture_output=True,
            text=True, timeout=900,
            env=os.environ | FAST_COMPILING | environment
            | {"PYTHONPATH": str(site), "HOME": str(desk), "XDG_CACHE_HOME": CACHE},
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


def test_it_is_the_installed_package_that_runs(site, desk):
    program = "import iso3d_jax; print(iso3d_jax.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=desk, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    ).stdout  # fmt: skip
    assert Path(found.strip()) == site / "iso3d_jax" / "__init__.py"


def test_the_list_of_commands(iso3d):
    printed = iso3d()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", printed, re.MULTILINE), name
        if name != "lowering":
            assert "Flags:" in iso3d(name, "--help")


def test_views_a_mesh_and_other_files_of_it(iso3d, desk):
    iso3d("sample", "--image", "my bin.png", "--out=~/views.png")
    assert (desk / "views.png").stat().st_size > 10_000
    iso3d("demo", "--image", "my bin.png", "--config", "smallest_reconstruction.py", "--seed", 5)
    assert "mesh.glb" in {path.name for path in (desk / "out" / "demo").iterdir()}
    iso3d(
        "reconstruct", "--image", "my bin.png", "--out", "bin", "--seed", 5,
        "--config", "reconstruct:tiny,steps=2", "--config.init=none",
        "--config.video.frames=2", "--config.video.resolution=32", "--config.mesh.resolution=32",
        "--config.mesh.texture=64",
    )  # fmt: skip
    assert (desk / "bin" / "index.html").stat().st_size > 100_000
    iso3d("export", "--run", "bin", "--format", "obj")
    assert (desk / "bin" / "mesh.mtl").is_file()


def test_data_training_and_scores(iso3d, desk, site):
    iso3d(
        "render", "--assets", "procedural:2", "--out", "rendered", "--sets", 1, "--resolution", 32
    )
    assert (desk / "rendered" / "multiview").is_dir()
    encode = ("encode", "--data", "samples", "--out", "encoded", "--variants", 1)
    weights = site / "iso3d_jax" / "tiny" / "weights"
    iso3d(*encode, "--vae", weights, "--clip", weights)
    small = (
        "--config.steps=2", "--config.batch_size=2", "--config.warmup_steps=0",
        "--config.sample_every=0", "--config.ablate_every=0",
        "--config.data_encoded=encoded", "--config.model.unet.model_channels=32",
        "--config.model.unet.channel_mult=(1,2)",
        "--config.model.unet.attention_resolutions=(2,)",
    )  # fmt: skip
    iso3d("train", "--config", "stage1:tiny", "--workdir", "runs/stage1", *small)
    iso3d("train", "--config", "configs/stage2.py:tiny", "--out", "runs/stage2", *small)
    iso3d("evaluate", "--model", "runs/stage2", "--objects", 1, "--out", "scores",
          "--steps", 2, "--consistency_objects", 1)  # fmt: skip
    assert "consistency" in (desk / "scores" / "report.json").read_text()
    iso3d("convert", "--from", "runs/stage2", "--to", "compact", "--out", "compact")
    assert (desk / "compact" / "model.safetensors").is_file()
    iso3d("compare", "--config", "comparison.py", "--runs", "method", "--out", "comparison")
    assert (desk / "comparison" / "table.md").is_file()
