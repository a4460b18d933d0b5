"""Encoding a picture of 256 x 256 at full size, and the gradient to its pixels, on one CPU core.

    git worktree add ../before REVISION
    taskset -c 1 python benchmarks/autoencoder_encode.py --beside ../before --result FILE.json

Ours in float32 beside an older revision's and diffusers' in PyTorch (channels last).
Each has a process of its own with one thread, and calls alternate; times are the processor's.
Weights are random. With the revisions' times stands how far mean and gradient are from the same
network's in float64, root mean square over that of the value.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
KINDS = ("encode", "gradient")
SIDE = 256


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """A picture in [-1, 1], and what weighs the latent in the loss whose gradient is taken."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((1, SIDE // 8, SIDE // 8, 4), np.float32)
    return rng.uniform(-1, 1, (1, SIDE, SIDE, 3)).astype(np.float32), weights


def programs_of_ours(root: Path, dtype: str, found: dict) -> dict:
    """By kind, functions without arguments that wait for their result and return it."""
    sys.path[:0] = [str(root), str(root / "benchmarks")]
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    import jax
    import jax.numpy as jnp
    from measuring import random_network

    import iso3d_jax
    from iso3d_jax.models.vae import VAEConfig
    from iso3d_jax.weights.model_spec import ModelSpec

    if Path(iso3d_jax.__file__).parents[1] != root:
        raise SystemExit(f"the package of {root} is not the one that was imported")
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_enable_x64", dtype == "float64")
    vae = random_network("vae", ModelSpec(vae=VAEConfig()), jnp.dtype(dtype))
    x, weights = (jnp.asarray(each, dtype) for each in inputs())

    def encode(vae, x):
        # Not `encode`, which ends in float32: the float64 network's digits are wanted.
        return jnp.split(vae.quant_conv(vae.encoder(x)), 2, -1)[0]

    def gradient(vae, x):
        return jax.grad(lambda x: (encode(vae, x) * weights).sum())(x)

    calls = {}
    for name, f in zip(KINDS, (encode, gradient), strict=True):
        began = time.process_time()
        compiled = jax.jit(f).lower(vae, x).compile()
        found[f"{name}_compile"] = round(time.process_time() - began, 2)
        found[f"{name}_temporary_gb"] = compiled.memory_analysis().temp_size_in_bytes / 1e9
        calls[name] = lambda compiled=compiled: compiled(vae, x).block_until_ready()
    return calls


def programs_of_diffusers() -> dict:
    """As `programs_of_ours`."""
    import torch
    from diffusers import AutoencoderKL

    torch.set_num_threads(1)
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        )  # fmt: skip
    vae = vae.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in vae.parameters():
        weight.normal_(0, 0.02) if weight.ndim > 1 else weight.fill_(0.5)
    vae = vae.to(memory_format=torch.channels_last)
    x, weights = (torch.from_numpy(each).movedim(-1, 1) for each in inputs())

    def encode():
        with torch.inference_mode():
            return vae.encode(x).latent_dist.mean

    def gradient():
        pixels = x.clone().requires_grad_(True)
        (vae.encode(pixels).latent_dist.mean * weights).sum().backward()
        return pixels.grad

    return dict(zip(KINDS, (encode, gradient), strict=True))


def work(root: str, dtype: str, folder: Path | None) -> None:
    """What a process does: says what it found once, then a line for each kind that it reads."""
    found = {}
    if root == "diffusers":
        calls = programs_of_diffusers()
    else:
        calls = programs_of_ours(Path(root), dtype, found)
    for name, call in calls.items():  # the first call is not timed
        value = call()
        if folder:
            np.save(folder / f"{name}.npy", np.asarray(value))
    print(json.dumps(found), flush=True)
    for name in map(str.strip, sys.stdin):
        began = time.process_time()
        calls[name]()
        print(time.process_time() - began, flush=True)


def start(root: Path | str, dtype: str, folder: Path | None) -> tuple[subprocess.Popen, dict]:
    """A process that has made its programs, and what it found."""
    command = [sys.executable, __file__, "--work", str(root), "--dtype", dtype]
    process = subprocess.Popen(
        command + (["--folder", str(folder)] if folder else []),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the process of {root} ended with {process.wait()}")
    return process, json.loads(line)


def end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, help="folder of another checkout of the repository")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--result", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.dtype, args.folder)
        return
    sys.path.insert(0, str(ROOT))
    from measuring import machine, report

    roots = {"now": ROOT} | ({"before": args.beside.resolve()} if args.beside else {})
    sides = roots | {"diffusers": "diffusers"}
    processes, found = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(folder) / name for name in (*sides, "exact")}
        for each in folders.values():
            each.mkdir()
        end(start(ROOT, "float64", folders["exact"])[0])
        for name, root in sides.items():
            processes[name], found[name] = start(root, "float32", folders[name])
        for kind in KINDS:
            exact = np.load(folders["exact"] / f"{kind}.npy")
            for name in roots:
                error = np.load(folders[name] / f"{kind}.npy") - exact
                relative = np.square(error).mean() ** 0.5 / np.square(exact).mean() ** 0.5
                found[name][f"{kind}_error"] = float(f"{relative:.2e}")
    times = {name: {kind: [] for kind in KINDS} for name in sides}
    for _ in range(args.repeats):
        for kind in KINDS:
            for name, process in processes.items():
                process.stdin.write(f"{kind}\n")
                process.stdin.flush()
                times[name][kind].append(float(process.stdout.readline()))
    for process in processes.values():
        end(process)
    seconds = {
        name: {kind: round(float(np.median(each)), 3) for kind, each in of_kinds.items()}
        for name, of_kinds in times.items()
    }
    result = {
        "command": f"python benchmarks/autoencoder_encode.py --repeats {args.repeats}"
        + " --beside CHECKOUT" * bool(args.beside),
        "machine": machine(),
        "load_average": os.getloadavg()[1],
        "clock": "processor time, one thread",
        "seconds": seconds,
        "found": found,
    }
    for name in roots:
        result[f"{name}_over_diffusers"] = {
            kind: round(seconds[name][kind] / seconds["diffusers"][kind], 3) for kind in KINDS
        }
    report(result, args.result)


if __name__ == "__main__":
    main()
