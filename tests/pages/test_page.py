"""The result page: what is in it, that it needs nothing from outside, and that it can be used."""

import dataclasses
import io
import json
import re

import imageio
import numpy as np
import pytest
import trimesh
from PIL import Image

from iso3d_jax.pages.build import Example, Page, write_page
from iso3d_jax.pages.orbits import Orbit
from tests.pages.accessibility import contrast, problems

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 160, 20)
MESH = "document.getElementById('mesh')"
VIDEO = "document.getElementById('turntable')"
AZIMUTH = "Number(document.getElementById('azimuth').value)"


def write_ball(path):
    """A ball whose front (glTF's +Z) is red, whose back blue; its texture has the two halves."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    u = np.where(ball.vertices[:, 2] > 0, 0.25, 0.75)
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, :4], halves[:, 4:] = RED, BLUE
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(halves), metallicFactor=0.0, roughnessFactor=1.0
    )
    ball.visual = trimesh.visual.TextureVisuals(np.stack([u, 0.5 + 0 * u], 1), material=material)
    ball.export(path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with imageio.get_writer(folder / "turntable.mp4", fps=10, macro_block_size=2) as video:
        for k in range(8):  # colour, normals and opacity side by side: red, green, blue
            panels = [np.full((64, 64, 3), c, np.uint8) for c in (RED, GREEN, BLUE)]
            panels[0][:, : 8 * k] = 255  # a white edge that grows by an eighth with every frame
            video.append_data(np.concatenate(panels, 1))
    return Page(
        title="Chair <script>",
        lead="One & only",
        picture=np.full((40, 60, 4), 128, np.uint8),
        views=[np.full((16, 16, 3), k / 4, np.float32) for k in range(4)],
        view_labels=["0°", "90°", "180°", "270°"],
        orbits=[Orbit(90.0 * k, 75.0, 4.0, (0.0, 0.0, 0.0), 40.0) for k in range(4)],
        turntable=folder / "turntable.mp4",
        mesh=write_ball(folder / "mesh.glb"),
        command="iso3d reconstruct --image 'my <chair>.png'",
        more=[("The mesh for others", "iso3d export --run out")],
        figures=[("Time", "3 min")],
        notes=["A small model."],
        example=Example("True views", "Given.", [np.zeros((8, 8, 3))], folder / "mesh.glb"),
        footer="jax",
    )


@pytest.fixture(scope="module")
def written(page, tmp_path_factory):
    return write_page(page, tmp_path_factory.mktemp("written") / "new" / "index.html")


def read_body(path):
    """A page's HTML without its scripts."""
    return re.sub(r"<script>.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)


def test_everything_is_in_the_one_file(written):
    body = read_body(written)
    assert written.is_absolute() and not re.search(r"{{\w+}}", body)
    assert not re.search(r'(src|href)="(?!data:|#turntable")', body)
    # the picture, the one beside the mesh, five to choose from, one true view
    assert body.count("<img ") == 8 and "<video " in body and body.count("<model-viewer ") == 2
    assert "Chair &lt;script&gt;" in body and "One &amp; only" in body
    assert "my &lt;chair&gt;.png" in body
    for word in ("270°", "3 min", "A small model.", "mesh.glb", "iso3d export --run out"):
        assert word in body
    assert body.count("data:model/gltf-binary") == 2  # each mesh once


def test_what_is_missing_is_left_out(tmp_path):
    path = write_page(Page(title="Empty"), tmp_path / "index.html")
    text = read_body(path)
    assert "<h1>Empty</h1>" in text and path.stat().st_size < 15_000
    assert not re.search(r"{{\w+}}|<section|<table>|<details", text)
    assert problems(path.read_text(encoding="utf-8")) == []


def test_controls_have_names_and_pictures_words(written):
    assert problems(written.read_text(encoding="utf-8")) == []


def test_the_checks_find_what_is_wrong():
    bad = """<html><body><img src="x"><main><h1>a</h1><h3>b</h3><button></button><th>c</th>
      <input type="range" aria-describedby="none"><video autoplay></video>
      <p id="a"></p><p id="a"></p></main></body></html>"""
    found = " | ".join(problems(bad))
    for word in ("no alt", "img outside", "no language", "0 of title", "headings left out",
                 "button without a name", "input without a name", "describedby=none", "th without",
                 "id a twice", "begins unasked"):  # fmt: skip
        assert word in found, word


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colours_can_be_told_apart(written, dark):
    """4.5 for text and 3 for the edges of controls (WCAG 2.2, AA)."""
    style = read_body(written).partition("<style>")[2].partition("</style>")[0]
    light, night = (dict(re.findall(r"--([a-z-]+): (#\w{6});", block)) for block in
                    re.findall(r":root {(.*?)}", style, re.S))  # fmt: skip
    colour = light | night if dark else light
    assert len(night) == len(light) == 10
    for text in ("ink", "soft", "accent", "bad"):
        for ground in ("page", "card"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["ink"], colour["pressed"]) >= 4.5
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    assert contrast(colour["edge"], colour["card"]) >= 3


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def share(pixels, colour):
    """Which part of a picture has about a colour."""
    return np.mean(np.abs(pixels - np.array(colour)).max(-1) < 40)


def shown(browser, element):
    """What an element shows, RGB integers [H, W, 3]."""
    box = browser.evaluate(
        f"(() => {{const e = {element}; e.scrollIntoView({{block: 'center'}});"
        "const b = e.getBoundingClientRect(); return {x: b.x + scrollX, y: b.y + scrollY,"
        "width: b.width, height: b.height}})()"
    )
    return browser.screenshot({key: round(value) for key, value in box.items()})


def show(browser, path, **wanted):
    """Opens a page and waits until its mesh is drawn."""
    browser.emulate(**wanted)
    browser.open(path)
    browser.evaluate(f"{MESH}.scrollIntoView({{block: 'center'}})")
    browser.wait_for(f"{MESH}.loaded && {MESH}.modelIsVisible")
    browser.wait_for("!document.getElementById('surfaces').disabled")


@pytest.fixture(scope="module")
def opened(page, browser, tmp_path_factory):
    """The page without its second mesh, for somebody who wants less motion."""
    folder = tmp_path_factory.mktemp("opened")
    show(
        browser, write_page(dataclasses.replace(page, example=None), folder / "x.html"), still=True
    )
    return browser


def settle(browser, element, colour, least):
    """Waits until an element shows enough of a colour."""
    for _ in range(40):
        if share(shown(browser, element), colour) >= least:
            return
    raise AssertionError(f"never {least} of {colour}: {share(shown(browser, element), colour)}")


def test_the_turntable_has_tabs_keys_and_a_stop(opened):
    """From its file address; each panel of the video fills the stage, and azimuths are frames."""
    browser = opened
    assert browser.evaluate(f"{VIDEO}.paused")  # less motion is wanted
    stage = "document.getElementById('turntable-stage')"
    browser.evaluate(f"{VIDEO}.readyState > 1 || new Promise(r => {VIDEO}.oncanplay = r)")
    settle(browser, stage, RED, 0.95)
    browser.evaluate("document.getElementById('panel-0').focus()")
    browser.press("ArrowRight")
    settle(browser, stage, GREEN, 0.95)
    assert browser.evaluate("document.activeElement.id") == "panel-1"
    assert browser.evaluate(f"{stage}.getAttribute('aria-labelledby')") == "panel-1"
    browser.press("End")
    settle(browser, stage, BLUE, 0.95)
    browser.press("Home")
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.id") == "turntable-stage"
    for _ in range(9):
        browser.press("ArrowRight")
    assert browser.evaluate(AZIMUTH) == 90
    settle(browser, stage, (255, 255, 255), 0.2)  # the third of eight frames, a quarter white
    assert 0.2 < share(shown(browser, stage), (255, 255, 255)) < 0.3
    browser.press("ArrowLeft")
    assert browser.evaluate("document.getElementById('azimuth-shown').textContent") == "80°"
    browser.press("Home")
    browser.press("ArrowLeft")
    assert browser.evaluate(AZIMUTH) == 350
    browser.press(" ")
    browser.wait_for("document.getElementById('play').textContent == 'Stop'")
    assert not browser.evaluate(f"{VIDEO}.paused")
    browser.press(" ")
    browser.wait_for(f"{VIDEO}.paused")


def test_the_mesh_beside_its_picture_and_its_surfaces(opened):
    """The front is red, at first without light: the field's colour; its normal is +x."""
    browser = opened
    settle(browser, MESH, RED, 0.2)
    picture = shown(browser, MESH)
    width = np.ptp(np.nonzero((picture[..., 0] - picture[..., 1] > 60).any(0))[0])
    side = len(picture)
    # a ball of radius 1 from 4 away, in a picture 2 tan(20 deg) wide: its outline is a cone's
    assert width / side == pytest.approx(1 / np.sqrt(15) / np.tan(np.deg2rad(20)), abs=0.02)

    def middle():
        picture = shown(browser, MESH)
        h, w = picture.shape[0] // 2, picture.shape[1] // 2
        return picture[h - 8 : h + 8, w - 8 : w + 8].reshape(-1, 3).mean(0)

    def choose(value):
        browser.evaluate(f"document.querySelector('[value={value}]').click()")
        browser.evaluate("new Promise(r => setTimeout(r, 300))")

    np.testing.assert_allclose(middle(), RED, atol=3)
    choose("lit")
    assert np.abs(middle() - RED).max() > 3
    choose("normals")  # seen from 15 degrees up: n = (cos 15, 0, sin 15), colours (n + 1) / 2
    expected = 255 * (np.array([np.cos(np.pi / 12), 0, np.sin(np.pi / 12)]) + 1) / 2
    np.testing.assert_allclose(middle(), expected, atol=6)
    plain = shown(browser, MESH)
    browser.evaluate("document.getElementById('wireframe').click()")
    browser.evaluate("new Promise(r => setTimeout(r, 300))")
    darker = np.mean((plain - shown(browser, MESH)).max(-1) > 40)
    assert 0.01 < darker < 0.4  # lines, and what is between them stays
    browser.evaluate("document.getElementById('wireframe').click()")
    choose("unlit")

    browser.evaluate("document.querySelector('.thumbs li:nth-child(4) button').click()")  # 180
    settle(browser, MESH, BLUE, 0.2)
    assert browser.evaluate("document.getElementById('beside-caption').textContent") == "180°"
    pressed = (
        "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.name).join()"
    )
    assert browser.evaluate(pressed) == "180°"
    assert browser.evaluate("document.getElementById('angle').textContent") == (
        "The mesh from 180° round, 15° up"
    )
    box = browser.evaluate(f"{MESH}.getBoundingClientRect().toJSON()")
    # half the stage's height is half a turn, and the picture follows with some delay
    browser.drag((box["x"] + box["width"] / 4, box["y"] + box["height"] / 2), box["height"] / 2)
    settle(browser, MESH, RED, 0.2)
    browser.evaluate("document.getElementById('again').click()")
    settle(browser, MESH, BLUE, 0.2)


def test_the_mesh_can_be_taken_away(page, opened):
    """The button's address has the very bytes of the file."""
    browser = opened
    taken = browser.evaluate(
        "fetch(document.getElementById('mesh-file').href).then(a => a.arrayBuffer())"
        ".then(b => Array.from(new Uint8Array(b)))"
    )
    assert bytes(taken) == page.mesh.read_bytes()
    assert trimesh.load(io.BytesIO(bytes(taken)), file_type="glb", force="mesh").faces.shape[0] > 99
    href = "document.getElementById('turntable-file').href.length"
    assert browser.evaluate(href) > page.turntable.stat().st_size


def test_the_turntable_plays_by_itself_where_motion_is_welcome(page, browser, tmp_path):
    browser.emulate()
    browser.open(
        write_page(dataclasses.replace(page, mesh=None, example=None), tmp_path / "x.html")
    )
    browser.wait_for(f"!{VIDEO}.paused && {VIDEO}.currentTime > 0")
    browser.evaluate("document.getElementById('play').click()")
    browser.wait_for(f"{VIDEO}.paused")


def ask_axe(browser, axe):
    """What axe-core has against the page that is open."""
    browser.evaluate(axe + ";1")
    return json.loads(browser.evaluate(
        "axe.run(document).then(r => JSON.stringify(r.violations.map("
        "v => [v.id, v.nodes.map(n => n.target.join(' '))])))"
    ))  # fmt: skip


@pytest.mark.parametrize("width", [None, 390], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(written, axe, browser, dark, width):
    show(browser, written, dark=dark, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert ask_axe(browser, axe) == []
    assert not browser.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_a_page_without_cameras_looks_from_a_ring(page, tmp_path):
    path = write_page(dataclasses.replace(page, orbits=(), example=None), tmp_path / "index.html")
    assert re.findall(r'data-orbit="([^"]+)"', read_body(path)) == [
        "0.00deg 75.00deg auto", *(f"{a}.00deg 75.00deg auto" for a in (0, 90, 180, 270))
    ]  # fmt: skip
