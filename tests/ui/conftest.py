"""A maker that knows no networks, runs of drawn pictures, and a server of the page."""

import dataclasses
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.progress import Progress
from iso3d_jax.ui.queue import Queue
from iso3d_jax.ui.runs import Store
from iso3d_jax.ui.workers import Stopped, Workers
from iso3d_jax.views import Views
from tests.pages.conftest import browser  # noqa: F401

STEPS = 6


@dataclasses.dataclass
class FakeMaker:
    """Its object is a sum over iterations, saved after each, so that it can go on.

    Attributes:
      calls: what it was asked for.
      gate: iterations wait for it.
      at: set at each iteration.
    """

    about: str = "a fake on nothing"
    guidance_scale: float = 1.5

    def __post_init__(self):
        self.calls = []
        self.gate, self.at = threading.Event(), threading.Event()
        self.gate.set()

    def warm_up(self):
        self.calls.append("warm up")

    def views(self, picture, drawn):
        self.calls.append(("views", drawn.seed))
        Progress(1, "views of the fake", stream=io.StringIO()).update(1)
        if drawn.seed == 666:
            raise ValueError("a fault")
        images = np.random.default_rng(drawn.seed).random((4, 8, 8, 3))
        return Views(images, np.arange(4) * 90.0, np.full(4, 15.0), picture, images[0], drawn.seed)

    def object(self, views, out, mode, name, on_step):
        self.calls.append(("object", views.seed, mode))
        out.mkdir(exist_ok=True)
        state = out / "state.txt"
        step, total = map(float, state.read_text().split()) if state.is_file() else (0.0, 0.0)
        on_step("draft", 0, STEPS, np.zeros((2, 2, 3), np.uint8))
        while step < STEPS:
            self.at.set()
            assert self.gate.wait(120)
            step, total = step + 1, total * 1.1 + views.seed + step
            state.write_text(f"{step} {total}")
            if on_step("draft", int(step), STEPS, np.full((4, 4, 3), 9, np.uint8)) is False:
                raise Stopped
        on_step("files", 0, 0, None)
        (out / "mesh.glb").write_bytes(f"glTF of {total}".encode())
        (out / "turntable.mp4").write_bytes(b"frames")

    def export(self, folder, path):
        self.calls.append(("export", path.suffix))
        path.write_bytes((folder / "mesh.glb").read_bytes()[::-1])
        if path.suffix == ".obj":
            path.with_suffix(".mtl").write_text("material")


def wait_until(condition, seconds=120.0):
    """Waits for work of other threads."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)


def png(size=(40, 30), colour=(200, 30, 30)):
    """The bytes of a picture: an object on white."""
    image = Image.new("RGB", size, "white")
    image.paste(colour, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def new_run(store, name="chair.png"):
    original = Image.open(io.BytesIO(png())).convert("RGBA")
    return store.new(name, original, np.asarray(original), "auto")


@pytest.fixture
def maker():
    return FakeMaker()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture
def start_workers():
    """Starts workers of makers, one thread each; they are stopped in the end."""
    started = []

    def start(*makers, most=50):
        workers = Workers(Queue(most))
        workers.start(lambda: [lambda m=m: m for m in makers])
        started.append((workers, makers))
        return workers

    yield start
    for workers, makers in started:
        for maker in makers:
            maker.gate.set()
        assert workers.stop()


@pytest.fixture
def workers(start_workers, maker):
    return start_workers(maker)
