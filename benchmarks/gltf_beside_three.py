"""glTF files of strangers, each drawn by us and by three.js from the same cameras: who differs.

    npm install --prefix THREE three
    python benchmarks/gltf_beside_three.py FOLDER ... --node_modules THREE/node_modules \
        --sheets OUT --result FILE

three.js loads each file with its GLTFLoader (Draco, KTX2 and meshopt as it ships them) in Chromium
on SwiftShader; every material becomes its base colour without light, and specular-glossiness its
diffuse colour, which three.js itself reads no more. Ours is the `albedo` layer of `data.render`'s
own reader and rasterizer. Each program finds the object's box and puts it into the unit sphere by
itself. Of two views, from before and above and from behind and below, the worse one counts:

    same           masks to an intersection over union of 0.97, and colours, before grey and where
                   either shows something, to a mean difference of 6 of 255
    neither        neither draws it, or draws anything that is seen
    left out       ours does not draw it, three.js does; the reason is said
    ours alone     ours draws it, three.js does not
    other shape    the masks differ
    other colours  the colours differ
    not whole      a buffer or a picture of it is not beside it: no comparison, and not counted

"white" counts those of the same that three.js draws in white and nothing else. OUT gets contact
sheets, the worst first: three.js's two views, then ours.
"""

from __future__ import annotations

import argparse
import collections
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from iso3d_jax.core import child_processes  # noqa: E402
from iso3d_jax.core.progress import Progress  # noqa: E402
from iso3d_jax.data import asset_sources, meshes, rasterizer, render  # noqa: E402

PAGE = Path(__file__).with_suffix(".html")
RESOLUTION, FOV = 256, 30.0
VIEWS = ((15.0, 20.0), (-15.0, 200.0))  # elevation and azimuth in degrees
DISTANCE = 1.05 / np.tan(np.radians(FOV) / 2)
LEAST_IOU, MOST_DIFFERENCE = 0.97, 6.0
SECONDS = 120.0  # of three.js for one file
A_BROWSER = 60  # files that one Chromium draws, which keeps some memory of each
OUTCOMES = (
    "same", "neither", "left out", "ours alone", "other shape", "other colours", "not whole",
)  # fmt: skip
CELL, ROWS = 160, 8  # of a sheet


class Drawn(NamedTuple):
    """Views of one object, uint8 [V, H, W, 4] in straight alpha, or why there are none."""

    pictures: np.ndarray | None
    said: str = ""


def cameras() -> list[np.ndarray]:
    """Camera to world of each view, [4, 4]."""
    from iso3d_jax.geometry.cameras import camera_to_world

    return [np.asarray(camera_to_world(*view, DISTANCE), np.float64) for view in VIEWS]


def draw_ours(machine: render.Renderer, asset: asset_sources.Asset) -> Drawn:
    """One object as `data.render` reads it, in its colours without light."""
    notes: list[str] = []
    try:
        machine.load(asset_sources.load_asset(asset, notes.append))
    except meshes.BadMesh as e:
        return Drawn(None, str(e))
    except MemoryError:
        raise
    except Exception as e:
        return Drawn(None, f"a fault: {type(e).__name__}: {e}")
    pictures = np.stack([machine.render_layer("albedo", c2w, FOV) for c2w in cameras()])
    return Drawn(pictures, "; ".join(dict.fromkeys(notes)))


def draw_all_ours(assets: list[asset_sources.Asset], workers: int) -> dict[Path, Drawn]:
    """Every file by us, in processes with the limits of `data.render`."""
    seconds, memory = render.limits(render.How(RESOLUTION, sets=1))
    progress, found = Progress(len(assets), "ours", unit="files"), {}
    for asset, result in child_processes.run_each(
        assets, functools.partial(rasterizer.Rasterizer, RESOLUTION), draw_ours,
        workers=workers, seconds=seconds, memory=memory,
    ):  # fmt: skip
        lost = isinstance(result, child_processes.Lost)
        found[asset.path] = Drawn(None, f"a fault: {result.reason}") if lost else result
        progress.update(len(found))
    progress.close()
    return found


class _Desk:
    """What is to be drawn by the browser, and what it has sent back."""

    def __init__(self, files: list[Path]):
        self.files, self.drawn = files, {}
        self.lock, self.given, self.left = threading.Lock(), None, 0
        self.since, self.closed = 0.0, False
        self.open()

    def open(self) -> None:
        """Begins a browser's share."""
        self.left, self.since, self.closed = A_BROWSER, time.monotonic(), False

    def next(self) -> int | None:
        """The number of the next file; None if this browser has drawn its share."""
        with self.lock:
            todo = [k for k in range(len(self.files)) if k not in self.drawn]
            self.given = todo[0] if todo and self.left else None
            self.left, self.since = self.left - 1, time.monotonic()
            self.closed = self.given is None
            return self.given

    def put(self, number: int, drawn: Drawn) -> None:
        with self.lock:
            self.drawn.setdefault(number, drawn)
            self.given, self.since = None, time.monotonic()


def _handler(desk: _Desk, node_modules: Path) -> type[http.server.BaseHTTPRequestHandler]:
    """Serves the page, three.js, and the folders of the files; takes the pictures."""
    side = RESOLUTION * rasterizer.SUPERSAMPLING
    setting = {
        "side": side, "fov": FOV, "near": max(DISTANCE - 1.05, 0.02), "far": DISTANCE + 1.05,
        "cameras": [c2w.tolist() for c2w in cameras()],
    }  # fmt: skip

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
            kind, _, rest = path.lstrip("/").partition("/")
            if kind == "page":
                return str(PAGE)
            tops = {"node_modules": node_modules, "file": Path("/")}
            return str(tops[kind] / rest) if kind in tops else str(PAGE / "none")

        def do_GET(self) -> None:
            if self.path == "/setting":
                self._answer(json.dumps(setting).encode())
            elif self.path == "/next":
                number = desk.next()
                if number is None:
                    self._answer(b"", 204)
                    return
                url = "/file" + urllib.parse.quote(str(desk.files[number].resolve()))
                self._answer(json.dumps({"number": number, "url": url}).encode())
            else:
                super().do_GET()

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            _, _, number, outcome = self.path.split("/")
            if outcome == "drawn":
                shape = (len(VIEWS), side, side, 4)
                views = np.frombuffer(data, np.uint8).reshape(shape)[:, ::-1]
                drawn = Drawn(np.stack([rasterizer.shrink(v, side // RESOLUTION) for v in views]))
            else:
                drawn = Drawn(None, data.decode(errors="replace")[:300])
            desk.put(int(number), drawn)
            self._answer(b"")

        def _answer(self, data: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _browse(program: str, url: str, desk: _Desk) -> None:
    """One Chromium, until it has drawn its share or hangs at a file."""
    desk.open()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={profile}",
            "--remote-debugging-port=0",  # which keeps a headless browser at its page
            url,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not desk.closed and process.poll() is None:
                time.sleep(0.05)
                if time.monotonic() - desk.since > SECONDS:
                    break
        finally:
            process.kill()
            process.wait()
    if desk.given is not None:
        desk.put(desk.given, Drawn(None, f"the browser ended, or took more than {SECONDS:.0f} s"))


def draw_all_three(files: list[Path], node_modules: Path) -> dict[Path, Drawn]:
    """Every file by three.js."""
    names = ("chromium", "chromium-browser", "chrome", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None or not (node_modules / "three" / "package.json").exists():
        raise SystemExit("needs chromium, and --node_modules with three in it")
    desk = _Desk(files)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(desk, node_modules))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    progress, idle = Progress(len(files), "three.js", unit="files"), 0
    try:
        while len(desk.drawn) < len(files):
            before = len(desk.drawn)
            _browse(program, f"http://127.0.0.1:{server.server_port}/page", desk)
            progress.update(len(desk.drawn))
            idle = idle + 1 if len(desk.drawn) == before else 0
            if idle == 3:
                raise SystemExit("Chromium draws nothing: is WebGL there?")
    finally:
        server.shutdown()
    progress.close()
    return {files[k]: drawn for k, drawn in desk.drawn.items()}


def before_grey(pictures: np.ndarray) -> np.ndarray:
    """[..., 4] in straight alpha before mid grey, float32 [..., 3] of 255."""
    alpha = pictures[..., 3:].astype(np.float32) / 255
    return pictures[..., :3] * alpha + 128 * (1 - alpha)


def compare(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Intersection over union of two views' masks, and their colours' mean difference of 255.

    Args:
      ours, theirs: uint8 [H, W, 4], straight alpha.
    """
    masks = ours[..., 3] > 12, theirs[..., 3] > 12
    either = masks[0] | masks[1]
    if not either.any():
        return 1.0, 0.0
    difference = np.abs(before_grey(ours) - before_grey(theirs))[either]
    return float((masks[0] & masks[1]).sum() / either.sum()), float(difference.mean())


def judge(ours: Drawn, theirs: Drawn) -> dict[str, Any]:
    """The outcome of one file, and the figures and words behind it."""
    row: dict[str, Any] = {"said": ours.said}
    if any(words in ours.said for words in ("is not there", "is missing")):
        return row | {"outcome": "not whole"}
    if ours.pictures is None or theirs.pictures is None:
        row["three"] = theirs.said
        drawn = ours.pictures is not None, theirs.pictures is not None
        names = {(False, False): "neither", (False, True): "left out", (True, False): "ours alone"}
        return row | {"outcome": names[drawn]}
    if not ours.pictures[..., 3].any() and not theirs.pictures[..., 3].any():
        return row | {"outcome": "neither", "three": "nothing is seen"}
    seen = theirs.pictures[theirs.pictures[..., 3] > 12]
    row["white"] = bool((seen[:, :3] > 252).all())
    pairs = [compare(*pair) for pair in zip(ours.pictures, theirs.pictures, strict=True)]
    row["iou"] = round(min(iou for iou, _ in pairs), 4)
    row["difference"] = round(max(difference for _, difference in pairs), 2)
    if row["iou"] < LEAST_IOU:
        return row | {"outcome": "other shape"}
    return row | {"outcome": "same" if row["difference"] <= MOST_DIFFERENCE else "other colours"}


def write_sheets(rows: list[dict], out: Path) -> None:
    """Pages of rows: two views by three.js, two by us, the file's name and its outcome."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("sheet_*.png"):
        old.unlink()
    width, height = 2 * (4 * CELL + 8), CELL + 28
    for first in range(0, len(rows), 2 * ROWS):
        sheet = Image.new("RGB", (width, ROWS * height), "white")
        pen = ImageDraw.Draw(sheet)
        for k, row in enumerate(rows[first : first + 2 * ROWS]):
            x, y = k % 2 * (4 * CELL + 8), k // 2 * height
            for who, drawn in enumerate((row["theirs"], row["ours"])):
                if drawn.pictures is None:
                    continue
                for view, picture in enumerate(before_grey(drawn.pictures)):
                    shown = Image.fromarray(picture.astype(np.uint8)).resize((CELL, CELL))
                    sheet.paste(shown, (x + (2 * who + view) * CELL, y))
            pen.text((x, y + CELL), row["name"][-100:], fill="black")
            pen.text((x, y + CELL + 12), describe(row)[:105], fill="red")
        sheet.save(out / f"sheet_{first // (2 * ROWS):02d}.png")


def badness(row: dict) -> tuple:
    """What sheets are sorted by: what differs, then what is the same, the least so first."""
    last = ("neither", "not whole", "same")
    order = last.index(row["outcome"]) if row["outcome"] in last else -1
    return order, row.get("iou", 0.0) - row.get("difference", 0.0) / 255


def describe(row: dict) -> str:
    """A row in words."""
    text = row["outcome"]
    if "iou" in row:
        text += f" {row['iou']:.3f} {row['difference']:.1f}"
    text += f": {row['said']}" if row["said"] else ""
    return text + (f" | three.js: {row['three']}" if row.get("three") else "")


def find(folders: list[str]) -> dict[Path, tuple[str, asset_sources.Asset]]:
    """Every glTF file of the folders: its name with the folder's, and what reads it."""
    found = {}
    for folder in folders:
        for asset in asset_sources.find_assets([folder]):
            if asset.path.suffix.lower() in (".glb", ".gltf"):
                below = asset.path.relative_to(folder).as_posix()
                found[asset.path] = f"{Path(folder).resolve().name}/{below}", asset
    return found


def main() -> None:
    """Draws every file twice, prints the table, and writes it and the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--node_modules", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    found = find(args.folders)
    theirs = draw_all_three(list(found), args.node_modules)
    ours = draw_all_ours([asset for _, asset in found.values()], args.workers)
    rows = []
    for path, (name, _) in sorted(found.items(), key=lambda item: item[1][0]):
        drawn = {"ours": ours[path], "theirs": theirs[path]}
        rows.append(judge(**drawn) | drawn | {"name": name})
    if args.sheets:
        write_sheets(sorted(rows, key=badness), args.sheets)
    table = collections.Counter(row["outcome"] for row in rows)
    version = json.loads((args.node_modules / "three" / "package.json").read_text())["version"]
    report = {
        "command": "python benchmarks/gltf_beside_three.py FOLDER ... --node_modules DIR",
        "three.js": version,
        "files": len(rows),
        "drawn by three.js, and whole": sum(
            row["theirs"].pictures is not None and row["outcome"] not in ("neither", "not whole")
            for row in rows
        ),
        "outcomes": {outcome: table[outcome] for outcome in OUTCOMES},
        "white": sum(row["outcome"] == "same" and row["white"] for row in rows),
        "rows": {row["name"]: describe(row) for row in rows},
    }
    for name, text in report["rows"].items():
        print(f"{name}\t{text}")
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))
    if args.result:
        args.result.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
