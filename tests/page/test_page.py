"""The result page: what is in it, that it needs nothing from outside, and that the mesh shows."""

import re
import shutil
import subprocess

import imageio
import numpy as np
import pytest
import trimesh
from PIL import Image

from iso3d_jax.page.build import Page, write_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    mesh = trimesh.creation.icosphere(subdivisions=3)
    mesh.visual.vertex_colors = np.tile([200, 20, 20, 255], (len(mesh.vertices), 1))
    mesh.export(folder / "mesh.glb")
    with imageio.get_writer(folder / "turntable.mp4", fps=10) as video:
        for k in range(4):
            video.append_data(np.full((64, 64, 3), 60 * k, np.uint8))
    picture = np.full((40, 60, 4), 128, np.uint8)
    return Page(
        title="Chair <script>",
        lead="One & only",
        picture=picture,
        views=[np.full((16, 16, 3), k / 4, np.float32) for k in range(4)],
        view_labels=["0°", "90°", "180°", "270°"],
        turntable=folder / "turntable.mp4",
        mesh=folder / "mesh.glb",
        figures=[("Time", "3 min")],
        notes=["A small model."],
        footer="jax",
    )


def test_everything_is_in_the_one_file(page, tmp_path):
    path = write_page(page, tmp_path / "new" / "index.html")
    text = path.read_text(encoding="utf-8")
    body = text[: text.index("<script>")]
    assert path.is_absolute() and not re.search(r"{{\w+}}", body)
    assert not re.search(r'(src|href)="(?!data:)', body)
    assert body.count("<img ") == 5 and "<video " in body and "<model-viewer " in body
    assert "Chair &lt;script&gt;" in body and "One &amp; only" in body
    for word in ("270°", "3 min", "A small model.", "mesh.glb"):
        assert word in body


def test_what_is_missing_is_left_out(tmp_path):
    text = write_page(Page(title="Empty"), tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h1>Empty</h1>" in text and "<script>" not in text and len(text) < 10_000
    assert not re.search(r"{{\w+}}|<section|<table>", text)


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(chromium() is None, reason="needs chromium")
def test_the_mesh_shows_in_a_browser(page, tmp_path):
    """A screenshot of the page from its file address: the red ball is there, lit, on white."""
    path = write_page(page, tmp_path / "index.html")
    shot = tmp_path / "shot.png"
    command = [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,1400", "--virtual-time-budget=15000", f"--screenshot={shot}",
            path.as_uri(),
    ]  # fmt: skip
    for _ in range(3):  # it sometimes hangs when it starts on a busy machine
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        pytest.skip("chromium hangs here")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 120) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    rows, columns = np.nonzero(red)
    assert red.sum() > 20_000
    assert columns.min() > 600 and np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.1)
