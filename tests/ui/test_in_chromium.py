"""The command and its page in a browser, with the shipped model: a picture to a downloaded mesh."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.conftest import ROOT
from tests.fork_server import FAST_COMPILING

pytest.importorskip("gradio")

PICTURE = ROOT / "iso3d_jax" / "data" / "examples" / "trash_can.png"
# An object in seconds: a draft of few iterations, small pictures of it, a coarse mesh.
SMALL = (
    "--config.draft.steps=20", "--config.draft.rays=512", "--config.draft.hull_resolution=24",
    "--config.steps_per_call=10", "--config.preview_every=10", "--config.field.levels=3",
    "--config.video.frames=4", "--config.video.resolution=32", "--config.mesh.resolution=32",
    "--config.mesh.faces=2000", "--config.mesh.texture=64",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page's, of a server with the shipped model."""
    process = subprocess.Popen(
        [sys.executable, "-m", "iso3d_jax.ui", "--out", tmp_path_factory.mktemp("runs"), *SMALL],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | FAST_COMPILING,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("the page: http://127.0.0.1:"), said
        yield said.removeprefix("the page: ").strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def upload(browser, selector, path):
    """Gives a file to an <input>, as choosing it in the dialogue does."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def go(browser, address):
    browser.call("Page.navigate", url=address)
    browser.wait_for("document.querySelector('#upload input[type=file]') !== null", 60)


def press(browser, selector, seconds=60.0):
    """Waits for a button that may be pressed, and presses it."""
    there = f"!(document.querySelector('{selector}') ?? {{disabled: true}}).disabled"
    browser.wait_for(there, seconds)
    browser.evaluate(f"document.querySelector('{selector}').click()")


def fetch(browser, link):
    """What a link of the page leads to, fetched by the page."""
    program = (
        f"fetch(document.querySelector('{link}').href).then(a => a.blob()).then(b => new "
        "Promise(done => { const r = new FileReader(); r.onload = () => done(r.result); "
        "r.readAsDataURL(b); }))"
    )
    return base64.b64decode(browser.evaluate(program).partition(",")[2])


@pytest.mark.long
def test_a_picture_to_a_mesh_that_is_downloaded(browser, address, tmp_path):
    go(browser, address)
    upload(browser, "#upload input[type=file]", PICTURE)
    browser.wait_for("document.querySelector('.iso-cutout img')?.naturalWidth > 0", 60)
    run = browser.evaluate("new URL(location.href).searchParams.get('run')")
    assert len(run) == 16

    for count in (1, 2):
        press(browser, "#draw", 120)
        browser.wait_for(f"document.querySelectorAll('#sets .thumbnail-item').length == {count}")
    press(browser, "#sets .thumbnail-item")  # the first of the two
    browser.wait_for("document.querySelector('#make').innerText.includes('set 1')")
    browser.evaluate("document.querySelector('#mode input').click()")  # a draft
    press(browser, "#make")
    browser.wait_for("document.querySelector('.iso-parts') !== null")
    browser.wait_for("document.querySelector('.iso-preview')?.naturalWidth > 0")

    # the tab is closed and its address opened again
    browser.call("Page.navigate", url="about:blank")
    go(browser, f"{address}?run={run}")
    browser.wait_for("document.querySelector('[data-kind=glb]') !== null")
    browser.wait_for("document.querySelector('#mesh canvas') !== null")
    browser.wait_for("document.querySelector('.iso-turntable').readyState > 0")

    mesh = trimesh.load(write(tmp_path / "a.glb", fetch(browser, "[data-kind=glb]")), force="mesh")
    assert len(mesh.faces) > 200
    solid = trimesh.load(write(tmp_path / "a.stl", fetch(browser, "[data-kind=stl]")))
    assert max(solid.extents) == pytest.approx(100.0, rel=0.01)
    hosts = browser.evaluate(
        "[...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).host))]"
    )
    assert hosts == [address.removeprefix("http://").rstrip("/")]


def write(path, data):
    path.write_bytes(data)
    return path


def test_what_is_no_picture_is_said_on_the_page(browser, address, tmp_path):
    go(browser, address)
    upload(browser, "#upload input[type=file]", write(tmp_path / "notes.png", b"these are notes"))
    browser.wait_for("document.body.innerText.includes('is not a picture')", 60)


def test_a_brush_takes_the_background_away(browser, address):
    go(browser, address)
    upload(browser, "#upload input[type=file]", PICTURE)
    browser.wait_for("document.querySelector('.iso-cutout img')?.naturalWidth > 0", 60)
    press(browser, "#brush input[value=away]")
    browser.wait_for("document.querySelector('.iso-cutout.painting canvas') !== null", 60)
    browser.evaluate("document.querySelector('.iso-cutout').scrollIntoView({block: 'center'})")
    time.sleep(0.3)
    before = browser.evaluate("document.querySelector('.iso-cutout img').src")
    box = json.loads(
        browser.evaluate(
            "JSON.stringify(document.querySelector('.iso-cutout').getBoundingClientRect())"
        )
    )
    browser.drag((box["x"] + 5, box["y"] + box["height"] / 2), box["width"] - 10)
    browser.wait_for(f"document.querySelector('.iso-cutout img').src != '{before}'", 60)
    source = browser.evaluate("document.querySelector('.iso-cutout img').src")
    with urllib.request.urlopen(source) as answer:
        alpha = np.asarray(Image.open(io.BytesIO(answer.read())))[..., 3]
    middle = alpha[len(alpha) // 2]
    assert (middle[5:-5] == 0).all() and alpha.max() == 255
