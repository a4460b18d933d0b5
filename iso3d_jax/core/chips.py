"""What a chip can do and costs: the numbers behind a run's roofline (planning/compile_for.py)
and the share of peak in a training's log (training/speed.py).

Peaks are the vendors' (dense bfloat16, no sparsity; TPUs: docs.cloud.google.com/tpu/docs/v5e, v5p
and v6e); link bandwidths are those of all of a chip's links in one direction. Prices, in US dollars
a chip and hour, are assumptions: round figures of on-demand lists for comparing, not quotations.
They change by region and month, so look them up and give them as --price.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: memory in bytes, speeds per second, price an hour."""

    name: str
    platform: str  # "tpu": compiled by libtpu; "gpu": for fake devices, by XLA's CPU compiler
    memory: float
    flops: float  # bfloat16
    memory_bandwidth: float
    link_bandwidth: float
    dollars_per_hour: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", 16 * 2**30, 197e12, 819e9, 200e9, 1.20),
        Chip("v5p", "tpu", 95 * 2**30, 459e12, 2765e9, 600e9, 4.20),
        Chip("v6e", "tpu", 32 * 2**30, 918e12, 1638e9, 400e9, 2.70),
        Chip("a100", "gpu", 80 * 2**30, 312e12, 2039e9, 300e9, 3.00),
        Chip("h100", "gpu", 80 * 2**30, 989e12, 3350e9, 450e9, 6.00),
        Chip("h200", "gpu", 141 * 2**30, 989e12, 4800e9, 450e9, 7.00),
    )
}


# How jax calls them; the first that a device's kind contains.
_KINDS = {
    "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e",
    "A100": "a100", "H100": "h100", "H200": "h200",
}  # fmt: skip


def find_peak(device_kind: str) -> float | None:
    """bfloat16 FLOP/s of a jax device of this kind; None where it is not known."""
    name = next((name for kind, name in _KINDS.items() if kind in device_kind), None)
    return CHIPS[name].flops if name else None
