"""Rendering and joining at the scale of a million objects: rates, memory, and the same bits.

    python -m benchmarks.data_at_scale.render --against 6258237 \
        --result benchmarks/results/data_at_scale_render.json

Its parts, each of which `--only` runs alone:
  rate    processor seconds an object of 24 views at 256², by what they go into; with --against
          also of an older revision's rasterizer, in turns with this one's, and in how much their
          pictures differ
  split   a split of more than a gigabyte of stub pictures, written, opened and read
  join    manifests of a million objects joined: time and peak memory of the process
  shards  two shards rendered apart and joined against one run, byte by byte
  kills   a run killed at random moments (SIGKILL to all its processes) and gone on with, against
          an unbroken one, byte by byte
The exit status is 1 where bytes differ.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ["LP_NUM_THREADS"] = "1"  # as in the processes of data.render

from measuring import machine, report  # noqa: E402

from iso3d_jax.data import asset_sources, places, rasterizer, render  # noqa: E402
from iso3d_jax.data.asset_sources import assign_split  # noqa: E402
from iso3d_jax.data.multiview import joining, open_dataset, records, shards  # noqa: E402

BOUND = 1_048_576_000  # bytes of a split: from there on tensorflow-datasets needs TensorFlow


_NAME = "python -m benchmarks.data_at_scale.render"


def rate(objects: int = 24, resolution: int = 256, sets: int = 6, against: str | None = None):
    """Processor seconds an object of procedural ones, of all threads of this process."""
    assets = asset_sources.find_assets([f"procedural:{objects}"])
    machines: dict[str, Any] = {"now": rasterizer.Rasterizer(resolution)}
    if against:
        machines["before"] = _rasterizer_of(against)(resolution)
    spent = dict.fromkeys([*machines, "mesh", "encoding"], 0.0)
    worst, share, size = 0, 0.0, 0
    for k, asset in enumerate(assets):
        start = time.process_time()
        parts = asset_sources.load_asset(asset)
        spent["mesh"] += time.process_time() - start
        record = render.sample_cameras(asset.name, 0, sets)
        views = {}
        for name in list(machines)[:: 1 if k % 2 else -1]:
            with machines[name]._ctx:
                start = time.process_time()
                machines[name].load(parts)
                pairs = zip(record["c2w"], record["fov_deg"], strict=True)
                views[name] = np.stack([machines[name].render(c, f) for c, f in pairs])
                spent[name] += time.process_time() - start
        if against:
            difference = np.abs(views["now"].astype(int) - views["before"])
            worst, share = max(worst, int(difference.max())), share + float((difference > 0).mean())
        start = time.process_time()
        texts = dict.fromkeys(records.TEXTS, "")
        size += len(records.serialize(record | texts | {"images": views["now"]}))
        spent["encoding"] += time.process_time() - start
    found: dict[str, Any] = {
        "objects": objects, "views": 4 * sets, "resolution": resolution,
        "core seconds an object": {
            "mesh": spent["mesh"] / objects, "drawing": spent["now"] / objects,
            "encoding": spent["encoding"] / objects,
            "in all": (spent["mesh"] + spent["now"] + spent["encoding"]) / objects,
        },
        "bytes an object": size // objects,
    }  # fmt: skip
    if against:
        found["before"] = {
            "revision": against, "drawing": spent["before"] / objects,
            "largest difference": worst, "share of values that differ": share / objects,
        }  # fmt: skip
    return found


def _rasterizer_of(revision: str):
    """The class as it was at a revision of this repository."""
    path = "iso3d_jax/data/rasterizer.py"
    text = subprocess.check_output(["git", "show", f"{revision}:{path}"], cwd=ROOT, text=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(text)
        file.flush()
        spec = importlib.util.spec_from_file_location("rasterizer_before", file.name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        spec.loader.exec_module(module)
    return module.Rasterizer


def _stub(k: int, pixels: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """An object of four views of noise."""
    name = f"stub-{k:07d}"
    texts = dict.fromkeys(records.TEXTS, "") | {"name": name, "split": "train"}
    numbers = {key: np.full(4, k, np.float32) for key in records.NUMBERS}
    images = np.roll(pixels, k, axis=2)
    record = texts | numbers | {"set_index": np.zeros(4, np.int32), "images": images}
    return texts | {"status": shards.RENDERED, "lacks": ""}, records.serialize(record)


def split(folder: Path, bound: int = BOUND, side: int = 512):
    """Writes a split of more than `bound` bytes, of four views of noise an object."""
    out = places.place(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, 4)).astype(np.uint8)
    one = len(_stub(0, pixels)[1])
    objects = bound // one + 1 + bound // one // 50
    start = time.time()
    shards.write_shards(out, 2, (_stub(k, pixels) for k in range(objects)))
    places.write_text(out / "settings.json", json.dumps({"resolution": side, "shards": 2}))
    joining.join_shards(out)
    written = time.time() - start
    size = sum(p.stat().st_size for p in folder.rglob("multiview-train*"))
    data = open_dataset(folder, "train")
    start = time.time()
    for index in np.random.default_rng(0).integers(0, objects, 8):
        record = data[int(index)]
        k = int(record["distance"][0])
        assert record["name"] == f"stub-{k:07d}"
        np.testing.assert_array_equal(record["images"], np.roll(pixels, k, axis=2))
    assert len(data) == objects and size > bound
    return {
        "objects": objects, "bytes": size, "seconds of writing": written,
        "seconds an object read": (time.time() - start) / 8, "peak MB": _peak_mb(),
        "tensorflow": "tensorflow" in sys.modules,
    }  # fmt: skip


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_manifests(folder: Path, objects: int, count: int) -> None:
    """A data set's manifests with empty files in place of its records: joining reads no other."""
    out = places.place(folder)
    records_folder = Path(shards.records_folder(out))
    records_folder.mkdir(parents=True)
    (folder / "manifests").mkdir()
    per = objects // count
    for index in range(count):
        shard = shards.Shard(index, count)
        with open(shards.manifest_file(out, shard), "wb") as file:
            for k in range(index * per, (index + 1) * per):
                name = hashlib.sha256(str(k).encode()).hexdigest()[:32]
                entry = {
                    "name": name, "title": f"Object {k}", "category": "furniture",
                    "creator": f"somebody {k % 997}", "license": "CC-BY-4.0", "source": "objaverse",
                    "split": assign_split(name),
                }  # fmt: skip
                entry |= (
                    {"status": shards.REFUSED, "reason": "flat: sides 0.012 to 1"}
                    if k % 20 == 0
                    else {"status": shards.RENDERED, "lacks": "", "bytes": 900_000}
                )
                file.write(shards._line(entry))
        for name in records.SPLITS:
            shards.record_file(out, name, shard).touch()
    settings = json.dumps({"resolution": 256, "shards": count})
    (folder / "settings.json").write_text(settings)


# The most that it held itself: the rusage of a child begins with what its parent holds.
_JOIN = """
import atexit, runpy
atexit.register(lambda: print(open("/proc/self/status").read()))
runpy.run_module("iso3d_jax.data.join", run_name="__main__", alter_sys=True)
"""


def join(folder: Path, objects: int = 1_000_000, count: int = 1000):
    """Time and peak memory of the command on so many entries."""
    write_manifests(folder, objects, count)
    start = time.time()
    command = [sys.executable, "-c", _JOIN, "--data", str(folder)]
    said = subprocess.check_output(command, cwd=ROOT, text=True)
    seconds = time.time() - start
    peak = re.search(r"VmHWM:\s+(\d+) kB", said)
    start = time.time()
    lengths = {name: len(open_dataset(folder, name)) for name in records.SPLITS}
    return {
        "entries": objects, "shards": count, "said": said.splitlines()[0].partition(" in ")[0],
        "seconds": seconds, "peak MB": int(peak[1]) / 1024 if peak else None, "lengths": lengths,
        "seconds to open the three splits": time.time() - start,
    }  # fmt: skip


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def two_shards(folder: Path, objects: int = 16):
    """Two shards rendered apart and joined, against one run."""
    how = render.How(64, 2)
    assets = [f"procedural:{objects}"]
    for shard, workers in (("1/2", 1), ("0/2", 2)):
        render.render_dataset(assets, folder / "apart", how, shard=shard, workers=workers)
    joining.join_shards(places.place(folder / "apart"))
    render.render_dataset(assets, folder / "one", how, count=2, workers=2)
    apart, one = _digests(folder / "apart"), _digests(folder / "one")
    return {"objects": objects, "files": len(one), "the same bytes": apart == one}


# A command whose pieces are small enough that there is something to go on with.
_COMMAND = """
import sys
from iso3d_jax.data import render
from iso3d_jax.data.multiview import shards
shards.SAVE_SECONDS = 0.2
if __name__ == "__main__":
    render.render_dataset(
        ["procedural:24"], sys.argv[1], render.How(64, 2), count=3, workers=2
    )
"""


def kills(folder: Path, number: int = 8, seed: int = 0):
    """A run killed at random moments until it ends, against an unbroken one."""
    script = folder / "command.py"
    script.write_text(_COMMAND)

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(script), str(out)], cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    began = time.monotonic()
    if start(folder / "unbroken").wait():
        raise SystemExit("the unbroken run failed")
    whole = time.monotonic() - began
    draw = np.random.default_rng(seed)
    after, ended = [], 0
    for _ in range(number):
        process = start(folder / "broken")
        seconds = float(draw.uniform(0.4, 0.95)) * whole  # before that nothing is drawn
        try:
            if process.wait(seconds):
                raise SystemExit("a run that was not killed failed")
            ended += 1
            shutil.move(folder / "broken", folder / f"ended_{ended}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            after.append(round(seconds, 2))
    if start(folder / "broken").wait():
        raise SystemExit("the last run failed")
    expected = _digests(folder / "unbroken")
    broken = [folder / "broken", *folder.glob("ended_*")]
    same = all(_digests(path) == expected for path in broken)
    return {
        "objects": 24, "shards": 3, "unbroken, s": round(whole, 1), "killed after, s": after,
        "data sets": len(broken), "the same bytes": same,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("rate", "split", "join", "shards", "kills"))
    parser.add_argument("--against", help="revision whose rasterizer is measured beside this one")
    parser.add_argument("--objects", type=int, default=24, help="whose rate is measured")
    parser.add_argument("--entries", type=int, default=1_000_000, help="that are joined")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--result", type=Path, help="JSON file; parts that are not run stay")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    if args.result and args.result.exists():
        found = json.loads(args.result.read_text())
    found["machine"] = machine()
    parts = {
        "rate": lambda folder: rate(args.objects, against=args.against),
        "split": split,
        "join": lambda folder: join(folder, args.entries),
        "shards": two_shards,
        "kills": lambda folder: kills(folder, args.kills),
    }
    for name, measure in parts.items():
        if args.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                load = os.getloadavg()[0]
                found[name] = measure(Path(folder)) | {"load of the machine before": round(load, 1)}
                given = {"--only": name, "--against": args.against, "--objects": args.objects}
                given = {k: v for k, v in given.items() if v and (k == "--only" or name == "rate")}
                words = [f"{flag} {value}" for flag, value in given.items()]
                found[name]["command"] = " ".join([_NAME, *words])
            report(found, args.result)
    sys.exit(not all(found.get(n, {}).get("the same bytes", True) for n in ("shards", "kills")))


if __name__ == "__main__":
    main()
