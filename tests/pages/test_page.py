"""The result page: what is in it, that it needs nothing from outside, and that the mesh shows."""

import dataclasses
import re

import imageio
import numpy as np
import pytest
import trimesh

from iso3d_jax.pages.build import Page, write_page


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


def dominant(pixels, channel):
    """Where a colour channel is bright and the two others are not, [H, W]."""
    others = [pixels[..., c] for c in range(3) if c != channel]
    return (pixels[..., channel] > 120) & (others[0] < 110) & (others[1] < 110)


def show(browser, path):
    """Opens a page and waits until its mesh is drawn."""
    browser.open(path)
    browser.wait_for("document.getElementById('mesh').loaded")
    browser.evaluate("document.getElementById('mesh').updateComplete.then(() => 1)")
    browser.wait_for("document.getElementById('mesh').modelIsVisible")


def test_the_mesh_shows_in_a_browser(page, tmp_path, browser):
    """From its file address: the red ball is there, lit, on white."""
    show(browser, write_page(page, tmp_path / "index.html"))
    red = dominant(browser.screenshot(), 0)
    rows, columns = np.nonzero(red)
    assert red.sum() > 20_000
    assert columns.min() > 600 and np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.1)


def test_dragging_turns_the_mesh(page, tmp_path, browser):
    """A ball whose front is red and whose back is blue shows its back after half a turn."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    front = ball.vertices[:, 2:] > 0  # glTF's front is +Z
    ball.visual.vertex_colors = np.where(front, [200, 20, 20, 255], [20, 20, 200, 255])
    mesh = tmp_path / "mesh.glb"
    ball.export(mesh)
    show(browser, write_page(dataclasses.replace(page, mesh=mesh), tmp_path / "index.html"))
    box = browser.evaluate("document.getElementById('mesh').getBoundingClientRect().toJSON()")
    azimuth = "document.getElementById('mesh').getCameraOrbit().theta"
    before, began = browser.screenshot(), browser.evaluate(azimuth)
    # half the stage's height is half a turn, and the picture follows with some delay
    browser.drag((box["x"] + box["width"] / 4, box["y"] + box["height"] / 2), box["height"] / 2)
    browser.wait_for(f"Math.abs({azimuth} - {began}) > 3.0")
    after = browser.screenshot()
    red, blue = ([dominant(x, c).sum() for x in (before, after)] for c in (0, 2))
    assert red[0] > 3 * blue[0] and blue[1] > 3 * red[1]
