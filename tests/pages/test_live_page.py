"""The page of a run that goes on: what it says, when it is written, and that it renews itself."""

import time

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Progress
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.pages import live_page
from iso3d_jax.pages.live_page import LivePage
from iso3d_jax.presets.reconstruct import get_config
from iso3d_jax.reconstruction.loop import Interrupted
from iso3d_jax.reconstruction.spec import make_spec
from tests.pages.accessibility import problems
from tests.pages.test_page import ask_axe

COMMAND = "iso3d reconstruct --image 'my chair.png' --out out"
PREVIEW = np.full((8, 16, 3), 200, np.uint8)
TEXT = "document.body.innerText"


@pytest.fixture(scope="module")
def spec():
    return make_spec(get_config("tiny"))


@pytest.fixture
def live(tmp_path, spec):
    picture = np.full((20, 20, 4), 128, np.uint8)
    views = np.linspace(0, 1, 2 * 4 * 8 * 8 * 3).reshape(2, 4, 8, 8, 3).astype(np.float32)
    np.savez(tmp_path / "views.npz", views=views, prepared=np.ones((8, 8, 3), np.float32))
    return LivePage(
        tmp_path, spec, init="views", name="chair.png", picture=picture, command=COMMAND
    )


def read(folder):
    return (folder / "index.html").read_text(encoding="utf-8").partition("<script>")[0]


def test_nothing_is_written_before_the_folder_is_known_to_be_this_runs(live, tmp_path):
    (tmp_path / "index.html").write_text("theirs")
    with pytest.raises(UserError), live:
        Progress(3, "draft from views").update(1)
        raise UserError("another run's folder")
    assert (tmp_path / "index.html").read_text() == "theirs"


def test_it_says_from_the_first_moment_what_is_done(live, tmp_path):
    with live:
        live.begin()
        text = read(tmp_path)
        assert "Running" in text and "chair.png" in text and 'alt="The picture"' in text
        assert "iso3d reconstruct --image &#39;my chair.png&#39; --out out" in text
        names = ["Views", "Draft", "Score distillation", "Turntable", "Mesh"]
        assert [text.index(f">{name}") for name in names] == sorted(
            text.index(f">{name}") for name in names
        )
        on_step = live.watch()
        assert on_step(0, 360, np.zeros((4, 4, 3), np.uint8)) is None
        text = read(tmp_path)
        assert "0°: the picture’s side" in text and "270°" in text and "what the model sees" in text
        assert "The object at step" not in text  # step 0 brings the sheet of the views
        progress = Progress(300, "draft from views")
        with progress.compiling("64x64 renders"):
            text = read(tmp_path)
            assert "Running: Draft" in text and "compiling 64x64 renders, once" in text
            assert f'data-within="{live_page.LATE}"' in text
        progress.update(100, mask=0.25)
        on_step(100, 360, PREVIEW)
        text = read(tmp_path)
        assert "draft from views: step 100 of 300" in text and "The object at step 100" in text
        assert 'value="100" max="360"' in text and f'data-within="{live_page.SOON}"' in text
        assert "Views ✓" in text and '<th scope="row">mask</th><td>0.25</td>' in text
        assert problems((tmp_path / "index.html").read_text(encoding="utf-8")) == []


def test_time_left_and_time_compiling_are_told(live, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def wait(seconds):
        clock[0] += seconds

    with live:
        live.begin()
        progress = Progress(300, "draft from views", interval=1e9)
        with progress.compiling():
            wait(40)
        for step in (10, 20, 30):
            wait(1)
            progress.update(step)
        text = read(tmp_path)
        assert "step 30 of 300, 27 s left in this part" not in text  # written every two seconds
        wait(2)
        progress.update(50)
        text = read(tmp_path)
        # 40 steps in 4 seconds after the first
        assert "step 50 of 300, 25 s left in this part" in text
        assert "45 s so far, of which 40 s compiling" in text
        wait(30)  # a slow step: five times as long may pass before the run counts as lost
        progress.update(60)
        assert 'data-within="150.0"' in read(tmp_path)


@pytest.mark.parametrize(
    "error, words",
    [
        (Interrupted(2), ["Stopped at step 40 of 360", "What was done is saved", "Go on with"]),
        (KeyboardInterrupt(), ["Stopped at step 40 of 360"]),
        (UserError("the <surface> is empty"), ["ended with an error", "the &lt;surface&gt; is"]),
        (ZeroDivisionError("what"), ["ended with an error", "ZeroDivisionError: what"]),
    ],
)
def test_how_it_ended(live, tmp_path, error, words):
    with pytest.raises(type(error)), live:
        live.begin()
        live.watch()(40, 360, None)
        raise error
    text = read(tmp_path)
    for word in (*words, "my chair.png"):
        assert word in text, word
    assert '<main data-state="running"' not in text and "http-equiv" not in text
    assert problems((tmp_path / "index.html").read_text(encoding="utf-8")) == []


def test_the_answer_of_ones_own_on_step_is_passed_on(live):
    seen = []
    with live:
        live.begin()
        told = live.watch(lambda *given: seen.append(given) or False)
        assert told(3, 9, None) is False and seen == [(3, 9, None)]


def test_a_page_that_cannot_be_written_is_said_once_and_stops_nothing(live, tmp_path, capsys):
    (tmp_path / "index.html").mkdir()
    with live:
        live.begin()
        live.watch()(1, 2, PREVIEW)
    assert capsys.readouterr().err.count("is not renewed") == 1


def test_pictures_with_cameras_are_shown_at_once(tmp_path, spec):
    c2w = np.stack([np.eye(4)] * 3)
    c2w[:, :3, 3] = [[3, 0, 0], [0, 3, 0], [0, -3, 3]]
    posed = PosedPictures(np.full((3, 8, 8, 4), 99, np.uint8), c2w, np.full(3, 40.0),
                          np.ones((3, 8, 8), bool))  # fmt: skip
    with LivePage(tmp_path, spec, name="lego", posed=posed) as live:
        live.begin()
        Progress(5, "draft from views").update(2)
    text = read(tmp_path)
    assert "0° round, 0° up" in text and "270° round, 45° up" in text
    assert ">Fit" in text and "Running: Fit" in text and "Score" not in text


def test_it_renews_itself_from_its_file(live, tmp_path, browser, axe_if_there):
    """Without a server and without being loaded again; what is open stays open."""
    with live:
        live.begin()
        progress = Progress(300, "draft from views", interval=1e9)
        progress.update(1, mask=0.5)
        browser.emulate()
        browser.open(tmp_path / "index.html")
        browser.evaluate("window.mine = 1; document.getElementById('losses').open = true")
        assert browser.evaluate("/Last heard of the run \\d+ (s|min) ago/.test(" + TEXT + ")")
        live.watch()(100, 360, PREVIEW)
        progress.update(100, mask=0.125)
        live.begin()
        browser.wait_for(f"{TEXT}.includes('step 100 of 300')")
        assert browser.evaluate("document.querySelectorAll('#preview img').length") == 1
        assert browser.evaluate("document.querySelectorAll('#views img').length") == 4
        assert browser.evaluate("window.mine == 1 && document.getElementById('losses').open")
        assert not browser.evaluate("document.querySelector('iframe:not([hidden])')")
        if axe_if_there:
            assert ask_axe(browser, axe_if_there) == []
        with pytest.raises(Interrupted), live:
            raise Interrupted(2)
    browser.wait_for(f"{TEXT}.includes('Stopped at step 100 of 360')")
    assert browser.evaluate("window.mine == 1 && /That was \\d+ (s|min) ago/.test(" + TEXT + ")")
    browser.evaluate("new Promise(r => setTimeout(r, 3000))")
    assert not browser.evaluate("document.querySelector('iframe')")  # it asks no more


def test_the_page_of_a_killed_run_does_not_claim_that_it_runs(live, tmp_path, browser):
    with live:
        live.begin()
    file = tmp_path / "index.html"
    text = file.read_text(encoding="utf-8")
    (long_ago,) = {t for t in text.split('"') if t.isdigit() and len(t) == 13}
    file.write_text(text.replace(long_ago, str(int(long_ago) - 7_260_000)), encoding="utf-8")
    browser.open(file)
    browser.wait_for(f"{TEXT}.includes('No news of this run')")
    assert browser.evaluate(f"{TEXT}.includes('Last heard of the run 2 h 1 min ago')")
    assert not browser.evaluate(f"{TEXT}.includes('Running')")


def test_a_finished_run_takes_the_pages_place(live, tmp_path, browser):
    from iso3d_jax.pages.build import Page, write_page

    with live:
        live.begin()
        browser.open(tmp_path / "index.html")
        write_page(Page(title="It is done"), tmp_path / "index.html")
    browser.wait_for("document.title == 'It is done'")
