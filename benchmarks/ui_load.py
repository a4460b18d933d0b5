"""The page under load: browsers at once that upload, draw views and make objects; none lost?

    python benchmarks/ui_load.py --result benchmarks/results/ui_load.json

Starts `iso3d ui` with the shipped model and a draft of few iterations, and asks it as a browser
does, from another process. Rounds of views, each from all browsers at once with a picture and a
session of their own, then rounds of objects. After each: seconds, the server's processor time, its
memory, and what was lost. Needs the extra `ui`.
"""

import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import gradio_client
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from measuring import machine, report  # noqa: E402

PICTURE = ROOT / "iso3d_jax" / "data" / "examples" / "trash_can.png"
SMALL = (
    "--config.draft.steps=20", "--config.draft.rays=512", "--config.draft.hull_resolution=24",
    "--config.steps_per_call=10", "--config.preview_every=10", "--config.field.levels=3",
    "--config.video.frames=4", "--config.video.resolution=32", "--config.mesh.resolution=32",
    "--config.mesh.faces=2000", "--config.mesh.texture=64",
)  # fmt: skip
PATIENCE_S = 1200.0


def get(url: str) -> bytes | None:
    """What an address answers; None where it is not there yet."""
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code not in (404, 409):
            raise
        return None


def wait_for(url: str) -> bytes:
    """Asks twice a second, as a page does once, until it is there."""
    until = time.monotonic() + PATIENCE_S
    while (found := get(url)) is None:
        if time.monotonic() > until:
            raise TimeoutError(url)
        time.sleep(0.5)
    return found


def picture(folder: Path, index: int) -> Path:
    """The picture turned by a few degrees, so that none is another's."""
    file = folder / f"{index}.png"
    Image.open(PICTURE).convert("RGBA").rotate(index * 7 % 40 - 20).save(file)
    return file


def one(url: str, file: Path, seed: int, objects: bool) -> float:
    """A browser: upload, views, and an object; seconds until it is there."""
    begin = time.monotonic()
    client = gradio_client.Client(url, verbose=False, analytics_enabled=False)
    run = client.predict(gradio_client.handle_file(file), "auto", api_name="/begin")[0]
    client.predict(run, seed, 1.3, api_name="/draw")
    assert wait_for(f"{url}pictures/{run}/set0").startswith(b"\x89PNG")
    if objects:
        client.predict(run, "draft", api_name="/make")
        assert wait_for(f"{url}files/{run}/glb").startswith(b"glTF")
    client.close()
    return time.monotonic() - begin


def round_of(url: str, server: psutil.Process, files: list[Path], seed: int, objects: bool) -> dict:
    """All browsers at once; what it took and what was lost."""
    begin, used = time.monotonic(), sum(server.cpu_times()[:2])
    with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
        tasks = [pool.submit(one, url, file, seed, objects) for file in files]
        errors = [error for task in tasks if (error := task.exception()) is not None]
        seconds = sorted(task.result() for task in tasks if task.exception() is None)
    return {
        "asked": "objects" if objects else "views",
        "requests": len(files),
        "lost": len(errors),
        "errors": sorted({str(error)[:200] for error in errors}),
        "seconds": round(time.monotonic() - begin, 1),
        "seconds_of_the_first": round(seconds[0], 1) if seconds else None,
        "seconds_of_the_last": round(seconds[-1], 1) if seconds else None,
        "server_cpu_seconds": round(sum(server.cpu_times()[:2]) - used, 1),
        "server_rss_mb": round(server.memory_info().rss / 1e6),
    }


def main() -> None:
    """Starts the server, runs the rounds, reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="of views")
    parser.add_argument("--object_rounds", type=int, default=2)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "iso3d_jax.ui", "--out", f"{folder}/runs", *SMALL],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("the page: ").strip()
            server = psutil.Process(process.pid)
            files = [picture(Path(folder), k) for k in range(args.browsers)]
            first = one(url, files[0], 0, False)  # the model is loaded meanwhile
            rounds = [
                round_of(url, server, files, seed, seed > args.rounds)
                for seed in range(1, args.rounds + args.object_rounds + 1)
            ]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    report(
        {
            "benchmark": "the page under load, the shipped model",
            "command": f"python benchmarks/ui_load.py --browsers {args.browsers}",
            "machine": machine(),
            "load_average_at_the_end": os.getloadavg(),
            "first_views_after_the_start_s": round(first, 1),
            "rounds": rounds,
        },
        args.result,
    )


if __name__ == "__main__":
    main()
