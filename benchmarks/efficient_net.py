"""EfficientNet-Lite0's features on a CPU, in the forms that its layers could have, in one run.

    python benchmarks/efficient_net.py --result benchmarks/results/efficient_net_cpu.json

Milliseconds of one picture with random weights (time does not depend on them): as it is, a few
pictures at a time; a batch of 64 as a whole; and with XLA's own depthwise convolution (of 4
pictures). Calls alternate, one of each in a round, all on one thread; figures are the least
processor time of a round, which other jobs on the machine lengthen by what they take of the cache.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()

import jax  # noqa: E402
from flax import nnx  # noqa: E402
from measuring import machine, report  # noqa: E402

from iso3d_jax.tiny.efficient_net import Depthwise, EfficientNetLite0  # noqa: E402

BATCH, FEW = 64, 4
ours = Depthwise.__call__


def xlas(layer, x):
    """The layer by `lax.conv_general_dilated`."""
    return layer.bias[...] + jax.lax.conv_general_dilated(
        x, layer.kernel[...][:, :, None], (layer.stride,) * 2, "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


FORMS = {  # the depthwise convolution, the network's method, pictures
    "as it is": (ours, EfficientNetLite0.__call__, BATCH),
    "whole batch": (ours, EfficientNetLite0.forward, BATCH),
    "XLA's depthwise": (xlas, EfficientNetLite0.__call__, FEW),
}


def measure(stages: int, size: int, rounds: int) -> dict:
    """Milliseconds of a picture, by form."""
    network = EfficientNetLite0(rngs=nnx.Rngs(0), stages=stages)
    calls = {}
    for name, (depthwise, method, pictures) in FORMS.items():
        x = jax.random.uniform(jax.random.key(0), (pictures, size, size, 3))
        Depthwise.__call__ = depthwise
        # A function of its own a form: jax keeps what it traced by the function.
        program = jax.jit(lambda network, x, method=method: method(network, x))
        calls[name] = program.lower(network, x).compile(), x
    Depthwise.__call__ = ours
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):  # the first is not counted
        for name, (program, x) in calls.items():
            began = time.process_time()
            jax.block_until_ready(program(network, x))
            if number:
                seconds[name].append((time.process_time() - began) / len(x))
    figures = {name: round(1000 * min(each), 3) for name, each in seconds.items()}
    return {"stages": stages, "pixels": size, "ms_a_picture": figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    began = os.getloadavg()[0]
    rows = [measure(stages, size, args.rounds) for size in (224, 112) for stages in (5, 7)]
    load = [began, os.getloadavg()[0]]
    facts = {"jax": jax.__version__, "threads": 1, "load_before_and_after": load}
    report({**machine(), **facts, "batch": BATCH, "rows": rows}, args.result)


if __name__ == "__main__":
    main()
