"""Kills and stops training and reconstruction at random moments, and compares the ends bit by bit.

    python benchmarks/kills.py --out benchmarks/results/kills.json
    python benchmarks/kills.py --kills 4 --seed 1 --only train

Each command first runs unbroken, twice: what is compiled in the first run is there in the second,
whose time counts, and both must give the same bits. Then it is started again in another folder, and
SIGKILL or SIGTERM is sent after a random share of the unbroken run's time; the same command goes
on, until so many were sent and it is left to end. Every SIGTERM must end with status 143. The last
files that hold numbers (the model's weights; the scene and its mesh) must be the same bits as the
unbroken run's. The exit status is 1 where one is not. Meant for a quiet machine: some 30 minutes on
two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
STOPPED = 128 + signal.SIGTERM


class Command(NamedTuple):
    """A command that goes on where it was stopped; what it writes is compared."""

    name: str
    flag: str  # that names the folder
    arguments: list[str]
    compared: tuple[str, ...]


def commands() -> list[Command]:
    """The smallest settings of both."""
    picture = next(iter(sorted((ROOT / "iso3d_jax/data/examples").glob("*.png"))))
    train = [
        "-m", "iso3d_jax.train", "--config", "configs/stage1.py:tiny", "--config.steps=24",
        "--config.batch_size=2", "--config.num_views=4", "--config.checkpoint_every=3",
        "--config.log_every=3", "--config.sample_every=0", "--config.ablate_every=0",
        "--config.data_variants=1",
        "--config.model.unet.model_channels=32", "--config.model.unet.channel_mult=(1,2)",
        "--config.model.unet.attention_resolutions=(2,)",
    ]  # fmt: skip
    reconstruct = [
        "-m", "iso3d_jax.reconstruct", "--config", "tests/smallest_reconstruction.py:24",
        "--config.steps_per_call=3", "--config.save_every=3", "--image", str(picture),
    ]  # fmt: skip
    return [
        Command("train", "--workdir", train, ("model/model.safetensors", "model/model.json")),
        Command("reconstruct", "--out", reconstruct, ("state.npz", "mesh.glb", "views.npz")),
    ]


def start(command: Command, folder: Path, log) -> subprocess.Popen:
    line = [sys.executable, *command.arguments, command.flag, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)


def digests(command: Command, folder: Path) -> dict[str, str]:
    """SHA-256 of what is compared: of arrays their values, as a zip also holds the time."""
    found = {}
    for name in command.compared:
        path, digest = folder / name, hashlib.sha256()
        if path.suffix == ".npz":
            with np.load(path) as stored:
                for key in sorted(set(stored.files) - {"about"}):  # it has times
                    digest.update(key.encode() + stored[key].tobytes())
        else:
            digest.update(path.read_bytes())
        found[name] = digest.hexdigest()
    return found


def end(process: subprocess.Popen, seconds: float, number: int) -> tuple[bool, int]:
    """Sends a signal after some seconds; whether one was needed, and the status."""
    try:
        return False, process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return True, process.wait()


def try_command(command: Command, kills: int, seed: int, folder: Path) -> dict:
    """One command, unbroken and broken; what came of it."""
    draw = np.random.default_rng((seed, len(command.name)))
    with open(folder / f"{command.name}.log", "a") as log:
        for name in ("compiling", "unbroken"):
            begin = time.monotonic()
            status = start(command, folder / name, log).wait()
            whole = time.monotonic() - begin
            if status:
                raise SystemExit(f"{command.name}: the unbroken run ended with status {status}")
        expected = digests(command, folder / "unbroken")
        sent, wrong, ends = [], [], 0
        if digests(command, folder / "compiling") != expected:
            wrong.append("two unbroken runs differ")
        while len(sent) < kills:
            number = signal.SIGTERM if draw.integers(2) else signal.SIGKILL
            seconds = float(draw.uniform(0.05, 1.0)) * whole
            stopped, status = end(start(command, folder / "broken", log), seconds, number)
            if not stopped and status:
                wrong.append(f"a run ended with status {status}")
                break
            if not stopped:  # it ended of itself: the same from the start, once more
                ends += 1
                same = digests(command, folder / "broken") == expected
                if not same:
                    wrong.append("another result before the last kill")
                os.rename(folder / "broken", folder / f"ended_{ends}")
                continue
            sent.append({"signal": signal.Signals(number).name, "after_s": round(seconds, 2),
                         "status": status})  # fmt: skip
            # While Python starts and ends there is no handler: the system ends it by the signal.
            allowed = (STOPPED, -signal.SIGTERM) if number == signal.SIGTERM else (-9,)
            if status not in allowed:
                wrong.append(f"{signal.Signals(number).name} ended with status {status}")
        status = start(command, folder / "broken", log).wait()
        if status:
            wrong.append(f"the last run ended with status {status}")
        elif digests(command, folder / "broken") != expected:
            wrong.append("the result differs from the unbroken run's")
    return {
        "command": command.name, "unbroken_s": round(whole, 1), "kills": sent,
        "ended_between": ends, "wrong": wrong,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20, help="signals to each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=("train", "reconstruct"), help="in --out the other's result stays"
    )
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    options = parser.parse_args()
    results = []
    print(
        "| command | unbroken, s | SIGKILL | SIGTERM | same bits |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for command in commands():
            if options.only in (None, command.name):
                place = Path(folder) / command.name
                place.mkdir()
                found = try_command(command, options.kills, options.seed, place)
                results.append(found)
                names = [kill["signal"] for kill in found["kills"]]
                print(
                    f"| {found['command']} | {found['unbroken_s']} | {names.count('SIGKILL')} | "
                    f"{names.count('SIGTERM')} | {'; '.join(found['wrong']) or 'yes'} |",
                    flush=True,
                )
    if options.out and options.only and options.out.exists():
        others = [r for r in json.loads(options.out.read_text()) if r["command"] != options.only]
        results = sorted([*others, *results], key=lambda result: result["command"], reverse=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(result["wrong"] for result in results))


if __name__ == "__main__":
    main()
