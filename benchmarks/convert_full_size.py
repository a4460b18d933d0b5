"""Converts a file of the released size and reports time and peak memory.

    python benchmarks/convert_full_size.py --folder DIR --result benchmarks/results/convert.json

The file has the 1,348 keys and shapes of the released isotropic3d.ckpt with random float32
weights, 6.54 GB. It is converted to float32 and to bfloat16 and back, each in a process of its
own; the way back is compared bit for bit. Needs about 23 GB of disk in --folder, which is
emptied afterwards. Memory is the process's peak resident set, file pages mapped by it included.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from measuring import machine, report  # noqa: E402

from iso3d_jax.weights.layouts.ldm import schedule_buffers  # noqa: E402
from iso3d_jax.weights.tensors import open_tensors  # noqa: E402
from iso3d_jax.weights.torch_file import write_torch  # noqa: E402

SHAPES = ROOT / "tests" / "golden" / "reference_state_dict.txt"


def write_random(path: Path) -> None:
    """A state dict of the released shapes."""
    pool = np.random.default_rng(0).standard_normal(52_000_000, dtype=np.float32)
    pool *= np.float32(0.02)
    schedule, entries = schedule_buffers(), []

    def values(shape, number):
        start = number * 997
        return pool[start : start + math.prod(shape)].reshape(shape)

    for number, line in enumerate(SHAPES.read_text().splitlines()):
        key, shape = line.split(" ", 1)
        shape = tuple(json.loads(shape))
        entries.append(
            (key, shape, np.dtype(np.float32),
             lambda key=key, shape=shape, number=number: schedule[key] if key in schedule
             else values(shape, number))
        )  # fmt: skip
    write_torch(path, entries)


def convert(*flags: str) -> dict:
    """Runs the command; seconds and peak memory of the process."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "iso3d_jax.convert", *map(str, flags)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    source, ours, back = (args.folder / n for n in ("random.ckpt", "ours", "back.ckpt"))
    write_random(source)
    size = source.stat().st_size
    result = {
        "command": "python benchmarks/convert_full_size.py --folder FOLDER",
        "machine": machine(),
        "file_gb": round(size / 1e9, 2),
        "load_average_at_start": os.getloadavg()[0],
    }
    result["to_bfloat16"] = convert("--from", source, "--out", ours, "--dtype", "bfloat16")
    result["to_float32"] = convert("--from", source, "--out", ours)
    result["float32_to_torch"] = convert(
        "--from", ours, "--to", "torch", "--out", back, "--leftovers", source
    )
    for name in ("to_bfloat16", "to_float32", "float32_to_torch"):
        result[name]["peak_over_file"] = round(result[name]["peak_gb"] * 1e9 / size, 3)
    theirs, again = open_tensors(source), open_tensors(back)
    result["round_trip_bit_exact"] = theirs.keys() == again.keys() and all(
        np.array_equal(tensor.read(), again[key].read()) for key, tensor in theirs.items()
    )
    for path in (source, back, ours / "model.safetensors", ours / "model.json"):
        path.unlink()
    report(result, args.result)


if __name__ == "__main__":
    main()
