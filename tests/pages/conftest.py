"""Chromium for tests of pages, spoken to in its DevTools protocol over two pipes."""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WINDOW = (1200, 1400)
ROOT = Path(__file__).resolve().parents[2]


class PageLeft(Exception):
    """The page gave way to another before it answered."""


# What Chromium says then; which of them depends on how far the navigation is.
LEFT = ("Inspected target navigated", "context was destroyed", "Cannot find context")


class Browser:
    """One headless Chromium with one page; real time, real mouse events."""

    def __init__(self, program: str, profile):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # the protocol's ends are file descriptors 3 (read) and 4 (write) of the browser
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--in-process-gpu",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
            f"--window-size={WINDOW[0]},{WINDOW[1]}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._count, self._received, self._session = 0, b"", None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]

    def _message(self, until: float) -> dict:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError("chromium does not answer" if not ready else "chromium ended")
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        return json.loads(text)

    def call(self, method: str, seconds: float = 300.0, **params) -> dict:
        """One command of the protocol and its answer; events in between are dropped."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        until = time.monotonic() + seconds
        while True:
            answer = self._message(until)
            if answer.get("id") == self._count:
                if any(words in answer.get("error", {}).get("message", "") for words in LEFT):
                    raise PageLeft(answer)
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str):
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 300.0) -> None:
        """Waits until a JavaScript expression is true, of this page or of one that follows it."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(PageLeft):
                if self.evaluate(condition):
                    return
            assert time.monotonic() < until, f"never true: {condition}"
            time.sleep(0.1)

    def open(self, path) -> None:
        """Goes to a file and waits until it is loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for(f"document.readyState == 'complete' && location.href == '{path.as_uri()}'")

    def emulate(self, *, dark: bool = False, still: bool = False, width: int | None = None) -> None:
        """Takes a dark scheme, less motion or a phone's width to be what the user wants."""
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        named = [{"name": k, "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)
        self.call("Emulation.clearDeviceMetricsOverride")
        if width:
            self.call("Emulation.setDeviceMetricsOverride", width=width, height=2 * width,
                      deviceScaleFactor=1, mobile=True)  # fmt: skip

    def press(self, key: str) -> None:
        """A key goes down and up; `key` as of KeyboardEvent."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32,
                 "Tab": 9, "Home": 36, "End": 35, "Enter": 13}  # fmt: skip
        text = {"text": key} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key,
                      windowsVirtualKeyCode=codes[key], **text)  # fmt: skip
            text = {}

    def drag(self, start: tuple[float, float], dx: float, steps: int = 10) -> None:
        """Presses the left button, moves by `dx` pixels, lets go."""
        mouse = {"button": "left", "buttons": 1, "clickCount": 1, "y": start[1]}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], **mouse)
        for k in range(1, steps + 1):
            x = start[0] + dx * k / steps
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, **mouse)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=start[0] + dx, **mouse)

    def screenshot(self, clip: dict[str, float] | None = None) -> np.ndarray:
        """What the window shows, RGB integers [H, W, 3].

        Args:
          clip: x, y, width and height of a part of the whole page instead.
        """
        part = {} if clip is None else {"clip": clip | {"scale": 1}}
        data = base64.b64decode(self.call("Page.captureScreenshot", **part)["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def close(self) -> None:
        """Ends the browser and all it started."""
        os.close(self._out)  # it ends when nobody speaks to it any more
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A `Browser`; tests that need it are skipped where no Chromium is installed."""
    names = ("chromium", "chromium-browser", "chrome", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def axe_if_there() -> str:
    """The text of axe-core, which is no part of this repository; '' where it is not to be had.

    AXE_CORE names its axe.min.js, or it lies in node_modules (`npm install --no-save axe-core`).
    """
    beside = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    file = Path(os.environ.get("AXE_CORE", beside))
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@pytest.fixture
def axe(axe_if_there):
    """The text of axe-core; tests that need it are skipped where it is not to be had."""
    if not axe_if_there:
        pytest.skip("needs axe-core: name its axe.min.js with AXE_CORE")
    return axe_if_there
