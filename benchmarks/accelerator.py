"""Ten minutes on one accelerator: what it reaches with every program that takes time here.

    python benchmarks/accelerator.py --seconds 600
    python benchmarks/accelerator.py --parts device,attention --out here.json
    python benchmarks/accelerator.py --tiny                # all parts at tiny size, on a CPU
    python benchmarks/accelerator.py --show here.json      # as Markdown

Networks have the released size and random weights; no file is needed. The parts come one after the
other; one that fails is noted with its error, and the next begins. The file is written anew after
every figure, so that a run that is cut keeps what it had; with --resume a second run goes on with
the parts that the first did not begin (one that was running is noted as dead). A part for which too
little of --seconds is left is noted as left out.

Times are medians after calls that are not counted, and wait for the device; compiling, in a cache
of this run's own, is apart (several programs are compiled at once, so it is longer than alone).
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jaxlib  # noqa: E402
from measuring import machine  # noqa: E402
from on_accelerator import networks, scene, training  # noqa: E402
from on_accelerator.record import Record, markdown  # noqa: E402
from on_accelerator.setting import Bench  # noqa: E402

# In order: (what it does, seconds below which it is not begun at full size).
PARTS = {
    "device": (networks.device, 10),
    "precision": (networks.precision, 40),
    "unet": (networks.unet, 30),
    "attention": (networks.attention, 20),
    "encode": (networks.encode, 20),
    "hash_grid": (scene.grid, 15),
    "sds": (scene.iteration, 60),
    "sampling": (networks.sample, 40),
    "training": (training.step, 90),
    "iterations": (scene.many, 15),
}


def names_of(text: str) -> list[str]:
    """The parts that --parts names, in the order of a run."""
    chosen = text.split(",") if text else list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part '{unknown[0]}'; parts are {', '.join(PARTS)}")
    return [name for name in PARTS if name in chosen]


def facts() -> dict:
    """What stands above the figures."""
    return {
        "command": "python benchmarks/accelerator.py " + " ".join(sys.argv[1:]),
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "machine": machine(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": sys.version.split()[0],
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def run(names: list[str], out: Path, seconds: float, *, tiny: bool, resume: bool = False) -> dict:
    """Runs parts one after the other; what was found, as in the file."""
    record = Record(out, facts() | {"tiny": tiny}, seconds)
    if resume:
        record.resume()
    bench = Bench(record, tiny)
    for name in names:
        if name in record.data["parts"]:
            continue
        part, needs = PARTS[name]
        record.run(name, lambda part=part: part(bench), 0.0 if tiny else needs)
    return record.data


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for all parts together")
    parser.add_argument("--parts", type=names_of, default=list(PARTS), help="such as unet,encode")
    parser.add_argument("--out", type=Path, help="default: results/accelerator_<device>.json")
    parser.add_argument("--tiny", action="store_true", help="everything at tiny size")
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print a result as Markdown")
    args = parser.parse_args()
    if args.show:
        try:
            print(markdown(json.loads(args.show.read_text())))
        except (OSError, json.JSONDecodeError, KeyError) as error:
            parser.error(f"--show {args.show}: not a result of this program ({error})")
        return
    kind = re.sub(r"\W+", "_", jax.devices()[0].device_kind.lower()).strip("_")
    results = Path(__file__).parent / "results"
    out = args.out or results / f"accelerator_{kind}{'_tiny' * args.tiny}.json"
    with tempfile.TemporaryDirectory() as cache:
        # A program that two parts compile is compiled once, and none was compiled before.
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        # Tiny programs take longer to compile than to run, and what they reach means nothing.
        jax.config.update("jax_disable_most_optimizations", args.tiny)
        run(args.parts, out, args.seconds, tiny=args.tiny, resume=args.resume)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
