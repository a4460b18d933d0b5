"""Devices that are not here, for programs to be compiled for (`jax.experimental.topologies`).

TPUs by libtpu, NVIDIA's cards by jax's CUDA plugin: both compile without the device. Of a card the
plugin is told what XLA asks of one. What only a measurement on it could choose stays at the
compiler's default: the algorithm of a convolution or product, and with it the memory that it works
in; and products by Triton, whose tile sizes are found by trying, are switched off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from iso3d_jax.core.chips import Chip
from iso3d_jax.core.errors import UserError

CUDNN = 91400  # the version of cuDNN that programs for GPUs are made for
COMPILER = "jax_plugins.xla_cuda13"  # the plugin's module
OPTIONS: dict[str, dict[str, Any]] = {"tpu": {}, "gpu": {"xla_gpu_enable_triton_gemm": False}}


def compile_lowered(lowered, platform: str):
    """Compiles what was lowered for devices of a platform (`jax.stages.Lowered`).

    Only a device reads its program back from the cache of compiled ones: what is made for absent
    ones stays out of it.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if platform not in OPTIONS:  # fake devices, which are here
        return lowered.compile()
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]

    def use_cache(used: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", used)
        compilation_cache.reset_cache()  # it looks once whether it is used

    use_cache(False)
    try:
        return lowered.compile(compiler_options=OPTIONS[platform])
    finally:
        use_cache(enabled)


@dataclasses.dataclass(frozen=True)
class Card:
    """NVIDIA's numbers of a card, and what CUDA's device query gives for its capability."""

    name: str
    capability: tuple[int, int]
    cores: int
    lanes: int  # float32 units of a core
    shared: int  # bytes of a core that a block may have, 1024 less than all
    cache: int
    bandwidth: int
    clock_ghz: float
    memory: int

    def target_config(self) -> str:
        """As XLA reads it (`stream_executor.GpuTargetConfigProto` in text)."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared}
  shared_memory_per_core: {self.shared + 1024}
  threads_per_core_limit: 2048
  core_count: {self.cores}
  fpus_per_core: {self.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.cache}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN // 10_000} minor: {CUDNN // 100 % 100} }}
runtime_version {{ major: 13 }}
device_description_str: "{self.name}"
"""


_HOPPER = {"capability": (9, 0), "cores": 132, "lanes": 128, "shared": 232448, "cache": 52428800}
CARDS = {
    "a100": Card(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 166912, 41943040, 2039000000000, 1.41,
        85095874560,
    ),
    "h100": Card(
        "NVIDIA H100 80GB HBM3", bandwidth=3352320000000, clock_ghz=1.98, memory=84978434048,
        **_HOPPER,
    ),
    "h200": Card(
        "NVIDIA H200", bandwidth=4800000000000, clock_ghz=1.98, memory=150109618176, **_HOPPER
    ),
}  # fmt: skip


def has_gpu_compiler() -> bool:
    """Whether programs for NVIDIA's cards can be compiled here, with or without a card."""
    with contextlib.suppress(ModuleNotFoundError):  # the package that holds plugins
        return importlib.util.find_spec(COMPILER) is not None
    return False


def gpus(name: str, count: int = 1) -> list:
    """Cards of a kind to compile for, in one machine.

    Args:
      name: of `CARDS`.

    Raises:
      UserError: jax's CUDA plugin is not installed.
    """
    if not has_gpu_compiler():
        raise UserError(
            f"a program for {name} is compiled by jax's CUDA plugin, which is not installed: "
            'pip install "iso3d_jax[cuda]" (no GPU is needed)'
        )
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # of libraries for running
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=CARDS[name].target_config(),
        topology=f"1x1x{count}",
    )  # fmt: skip
    return list(described.devices)


def prepare_for_tpus() -> None:
    """Lets libtpu compile on a machine that is no TPU VM; best before jax is imported."""
    # Without these libtpu asks a metadata server that only a TPU VM has. Its lock is there for
    # devices, which a compilation does not touch.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def tpus(topology: str) -> list:
    """Chips of a TPU slice to compile for, such as 'v5e:4x4'.

    Raises:
      UserError: libtpu is not installed, or knows no such slice.
    """
    prepare_for_tpus()
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu's own kinds, and ImportError-like ones where it lacks
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise UserError(
            f"libtpu cannot compile for {topology} ({reason}); is it installed "
            '(pip install "iso3d_jax[tpu]"), and is this a topology that exists?'
        ) from error
    return list(described.devices)


def devices(chip: Chip, topology: str, count: int) -> list:
    """Devices to compile for: a TPU slice's or cards; in a card's place, where no compiler for it
    is installed, as many fake ones of this machine's processor."""
    if chip.platform == "tpu":
        return tpus(f"{chip.name}:{topology}")
    if has_gpu_compiler():
        return gpus(chip.name, count)
    import jax

    return jax.devices("cpu")[:count]


@contextlib.contextmanager
def cudnn_of(capability: tuple[int, int] | None) -> Iterator[None]:
    """Within it jax's questions to a card, of cuDNN and of its capability, are answered for it.

    Args:
      capability: of an NVIDIA card; None for another machine, which has none of it.
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("."))

    answers = {
        "check_cudnn_version": lambda: CUDNN,
        "check_compute_capability": lambda asked: (capability or (0, 0)) >= numbers(asked),
        "is_cuda_compute_capability_equal": lambda asked: capability == numbers(asked),
    }
    before = {name: getattr(cudnn, name) for name in answers}
    for name, answer in answers.items():
        setattr(cudnn, name, answer)
    try:
        yield
    finally:
        for name, answer in before.items():
            setattr(cudnn, name, answer)
