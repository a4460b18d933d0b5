"""What a program is traced for, for layers that have a kernel for one kind of device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

# Compute capabilities of NVIDIA's cards by what a device's name holds, for programs that are made
# for a machine that is not here; the first that fits. A card that is here says its own.
_CAPABILITIES = (
    (("B200", "B300", "GB200", "GB300"), (10, 0)),
    (("H100", "H200", "H800", "H20", "GH200"), (9, 0)),
    (("L4", "L40", "RTX 40", "RTX 6000 Ada"), (8, 9)),
    (("A100", "A800", "A30"), (8, 0)),
    (("A10", "A40", "RTX 30", "RTX A"), (8, 6)),
)


class Target(NamedTuple):
    """A kind of device.

    Attributes:
      platform: `cpu`, `gpu` or `tpu`.
      capability: of an NVIDIA GPU, such as (9, 0); None elsewhere, or where it is not known.
    """

    platform: str
    capability: tuple[int, int] | None = None


def target() -> Target:
    """The mesh's devices, which may be of a machine that is not here, or this machine's own."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None:
        here = [d for d in jax.devices() if d.device_kind == abstract.device_kind]
        return _target(abstract.device_kind, here[0] if here else None)
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    device = default if isinstance(default, jax.Device) else jax.devices()[0]
    return _target(device.device_kind, device)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`, of `target`."""
    return target().platform


def _target(kind: str, device: Any) -> Target:
    if kind.startswith("TPU"):
        return Target("tpu")
    if kind == "cpu":
        return Target("cpu")
    stated = getattr(device, "compute_capability", None)  # "9.0"; AMD's are names such as gfx942
    if stated is not None:
        major, _, minor = str(stated).partition(".")
        known = major.isdigit() and minor.isdigit()
        return Target("gpu", (int(major), int(minor)) if known else None)
    words = kind.replace("-", " ")
    for names, capability in _CAPABILITIES:
        if any(f" {name}" in f" {words}" for name in names):
            return Target("gpu", capability)
    return Target("gpu")
