"""`python -m iso3d_jax.demo` as `make demo` runs it, then `iso3d_jax.export` on its result;
from the installed package, with a picture and a config of one's own that has Windows line ends."""

from pathlib import Path

import pytest
import trimesh

DEMO = ("-m", "iso3d_jax.demo")


def test_demo_then_export(run_python, refused, desk):
    """Four iterations with the shipped model: every file is there, and the mesh means nothing."""
    out = desk / "out" / "demo"
    process = run_python(
        "-m", "iso3d_jax", "demo", "--image", "my bin.png", "--seed", 5,
        "--config", "smallest_reconstruction.py",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip().splitlines()[-1]) == out / "index.html"
    for name in ("input.png", "views.png", "turntable.mp4", "mesh.glb", "report.json"):
        assert (out / name).stat().st_size > 0, name
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "my bin.png" in page and "<model-viewer " in page and "data:video/mp4" in page

    for suffix in ("obj", "ply"):
        export = run_python("-m", "iso3d_jax.export", "--run", out, "--format", suffix)
        assert export.returncode == 0, export.stderr
        assert len(trimesh.load_mesh(out / f"mesh.{suffix}").faces) > 100
    refused("-m", "iso3d_jax.export", "--run", "none", "--format", "obj")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--image=none.png"], "picture not found"),
        (["--model={tmp}/none"], "model folder not found"),
        (["--config=configs/reconstruct.py:tny"], "did you mean 'tiny'"),
        (["--out={tmp}"], "holds other files"),
    ],
)
def test_mistakes_are_found_before_anything_runs(refused, model_folder, tmp_path, arguments, words):
    (tmp_path / "mine.txt").touch()
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    defaults = ["--model", model_folder, "--out", tmp_path / "new"]
    assert words in refused(*DEMO, *defaults, *arguments)
