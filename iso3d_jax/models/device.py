"""What a program is traced for, for layers that have a kernel for one kind of device."""

from __future__ import annotations

import jax


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: the mesh's devices, which may be of a machine that is not here, or
    this machine's default ones."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device is not None else jax.devices()[0].device_kind
    if kind.startswith("TPU"):
        return "tpu"
    return "cpu" if kind == "cpu" else "gpu"
