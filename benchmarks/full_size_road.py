"""The whole road at full size on a CPU, with random weights: every command a user would type.

    python benchmarks/full_size_road.py --folder DIR --result benchmarks/results/full_size_road.json
    python benchmarks/full_size_road.py --folder DIR --tiny       # the same road at a tiny size

A file of the released size is converted; a picture is embedded and sampled (two steps), made into
a scene (two iterations at 64x64 and two at 256x256, across the switch), a turntable and a mesh, and
exported again; eight objects are rendered at 256x256 and encoded; two steps of each of 1-a, 1-b,
2-a and 2-b are trained with adafactor, all weights; the result goes back to PyTorch's layout, whose
keys and shapes are compared with the released file's.

Every step is a process of its own, whose time and peak memory (resident, mapped files included) the
system counts. Above `--limit` GB a step fails. A road that was cut goes on after its last finished
step; `--only NAME` runs the steps whose name holds that. Needs 45 GB of disk in --folder, which
keeps what it made but for the checkpoints of training.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convert_full_size import SHAPES, write_random  # noqa: E402
from measuring import machine, report  # noqa: E402

EXAMPLE = ROOT / "iso3d_jax" / "data" / "examples" / "drawn_lamp.png"
OBJECTS = 8
BRANCHES = {  # (stage, share of steps with one view, share without the reference)
    "1-a": (1, 1.0), "1-b": (1, 0.0), "2-a": (2, 1.0), "2-b": (2, 0.0),
}  # fmt: skip


def steps(folder: Path, tiny: bool) -> list[tuple[str, list[str]]]:
    """(name, command line after `python`) of every step, in order."""
    model, scene, run = folder / "model", folder / "scene", "iso3d_jax."
    data, encoded = folder / "data", folder / "encoded"
    preset = "tiny" if tiny else "full"
    if tiny:
        model = ROOT / "iso3d_jax" / "tiny" / "weights"
    reconstruct = "tiny" if tiny else "isotropic3d"
    resolution = 64 if tiny else 256
    road = [] if tiny else [
        ("convert", ["-m", run + "convert", "--from", folder / "random.ckpt", "--out", model]),
    ]  # fmt: skip
    road += [
        ("sample, 2 steps", [
            "-m", run + "sample", "--model", model, "--image", EXAMPLE, "--steps", 2,
            "--out", folder / "views.png",
        ]),
        ("reconstruct, 4 iterations", [
            "-m", run + "reconstruct", "--model", model, "--image", EXAMPLE, "--out", scene,
            "--config", f"configs/reconstruct.py:{reconstruct},steps=4", "--config.memory=low",
            "--config.steps_per_call=2", "--config.video.frames=12",
            "--config.mesh.resolution=128",
        ]),
        ("export", ["-m", run + "export", "--run", scene, "--format", "obj", "--threshold", 1.0]),
        (f"render {OBJECTS} objects", [
            "-m", run + "data.render", "--assets", f"procedural:{OBJECTS}", "--out", data,
            "--resolution", resolution, "--sets", 2,
        ]),
        ("encode", [
            "-m", run + "data.encode", "--data", data, "--vae", model, "--clip", model,
            "--out", encoded, "--variants", 1,
        ]),
    ]  # fmt: skip
    for branch, (stage, single) in BRANCHES.items():
        road.append((f"2 steps of {branch}", [
            "-m", run + "train", "--config", f"configs/stage{stage}.py:{preset}",
            "--workdir", folder / branch, f"--config.init_from={model}",
            f"--config.init.vae={model}", f"--config.init.clip={model}",
            f"--config.data={data}", f"--config.data_encoded={encoded}",
            f"--config.single_view_share={single}", "--config.reference_dropout=0.0",
            "--config.optimizer=adafactor", "--config.batch_size=1", "--config.steps=2",
            "--config.warmup_steps=1", "--config.log_every=1", "--config.sample_every=0",
        ]))  # fmt: skip
    if not tiny:
        back = folder / "back.ckpt"
        road += [
            ("back to PyTorch", [
                "-m", run + "convert", "--from", folder / "2-b", "--to", "torch", "--out", back,
                "--leftovers", folder / "random.ckpt",
            ]),
            ("strict keys", [__file__, "--strict", back]),
        ]  # fmt: skip
    return road


def run_step(command: list, log: Path) -> dict:
    """Runs one step; its time, peak memory and status."""
    begin = time.monotonic()
    line = [sys.executable, *map(str, command)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with open(log, "w") as output:
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * scale / 1e9, 2),
        "status": os.waitstatus_to_exitcode(status),
    }


def check_strict(path: Path) -> None:
    """Ends with an error where a file's keys and shapes are not those of the released one."""
    from iso3d_jax.weights.tensors import open_tensors

    lines = (line.split(" ", 1) for line in SHAPES.read_text().splitlines())
    wanted = {key: tuple(json.loads(shape)) for key, shape in lines}
    found = {key: tuple(tensor.shape) for key, tensor in open_tensors(path).items()}
    if wrong := sorted(key for key in wanted | found if wanted.get(key) != found.get(key)):
        raise SystemExit(f"{len(wrong)} keys differ, such as {wrong[0]}")
    print(f"{len(found)} keys and shapes are those of the released file")


def table(result: dict) -> str:
    """The steps as Markdown."""
    rows = ["| step | seconds | peak memory, GB |", "| --- | --- | --- |"]
    for name, step in result["steps"].items():
        rows.append(f"| {name} | {step['seconds']:.0f} | {step['peak_gb']:.1f} |")
    total = sum(step["seconds"] for step in result["steps"].values())
    return "\n".join([*rows, f"| all | {total:.0f} | |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--result", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="", help="steps whose name holds this")
    parser.add_argument("--limit", type=float, default=20.0, help="GB that no step may exceed")
    parser.add_argument("--strict", type=Path, help=argparse.SUPPRESS)  # a step of the road itself
    args = parser.parse_args()
    if args.strict:
        return check_strict(args.strict)
    if not args.folder:
        parser.error("--folder is required")
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.absolute()
    if not args.tiny and not (folder / "random.ckpt").exists():
        print("writing a file of the released size with random weights ...", flush=True)
        write_random(folder / "random.ckpt")
    kept = folder / "road.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    for name, command in steps(folder, args.tiny):
        if name in done or args.only not in name:
            continue
        typed = shlex.join(["python", *map(str, command)]).replace(str(folder), "DIR")
        print(f"{name}: {typed.replace(f'{ROOT}/', '')}", flush=True)
        log = folder / f"{name.replace(' ', '_').replace(',', '')}.log"
        step = run_step(command, log)
        print(f"    {step}", flush=True)
        if step["status"] or step["peak_gb"] > args.limit:
            raise SystemExit(f"{name} failed or took more than {args.limit} GB: see {log}")
        for checkpoints in folder.glob("[12]-[ab]/checkpoints"):
            shutil.rmtree(checkpoints)
        done[name] = step
        kept.write_text(json.dumps(done, indent=1) + "\n")
    ordered = {name: done[name] for name, _ in steps(folder, args.tiny) if name in done}
    result = {
        "command": "python benchmarks/full_size_road.py --folder DIR" + " --tiny" * args.tiny,
        "machine": machine(),
        "steps": ordered,
    }
    report(result, args.result)
    print(table(result))


if __name__ == "__main__":
    main()
