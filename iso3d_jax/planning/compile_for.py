"""Compiles the train step for machines that are not here, and says what it will need and cost.

    python -m iso3d_jax.train --config configs/stage2.py --compile_for v5p:4x4x4

For TPUs libtpu compiles the very program that the pod would run (`pip install -e ".[tpu]"`, no TPU
needed), and for NVIDIA's cards jax's CUDA plugin does (`.[cuda]`, no GPU needed), so memory and
collectives are the compiler's own; of a card without what cuDNN and cuBLAS work in, which is chosen
there. Without the plugin the step for GPUs is partitioned over as many fake CPU devices: FLOPs and
collectives are right, memory is what the CPU compiler would need, which fuses less than the GPU's.

The roofline is a lower bound of the step's time: the slowest of arithmetic at peak, memory traffic
and collectives, as if each were perfect and all overlapped. Real steps take one and a half to three
times as long. Neither weights nor data are read.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from iso3d_jax.commands.config_presets import nearest
from iso3d_jax.core.chips import CHIPS, Chip
from iso3d_jax.core.errors import UserError
from iso3d_jax.planning import absent, collectives, compiled_text

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from iso3d_jax.training.spec import StageSpec


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of one branch's step; bytes and FLOPs are of one chip."""

    branch: str
    arguments: int  # state and batch
    temporaries: int
    flops: float  # executed, what remat repeats included
    model_flops: float  # without that
    traffic: float  # bytes to and from memory
    collectives: dict[str, float]  # bytes by kind
    foreign_gathers: list[tuple[int, ...]]  # what is gathered beside weights; should be nothing

    @property
    def memory(self) -> int:
        return self.arguments + self.temporaries

    def seconds(self, chip: Chip) -> dict[str, float]:
        """The roofline's three times."""
        return {
            "arithmetic": self.flops / chip.flops,
            "memory": self.traffic / chip.memory_bandwidth,
            "collectives": sum(self.collectives.values()) / chip.link_bandwidth,
        }


class DoesNotFit(Exception):
    """The compiler found no place for the program; its message says how much was missing."""


def parse_target(target: str) -> tuple[Chip, str, int]:
    """'v5p:4x4x4' or 'h100:8' as the chip, its topology ('4x4x4', '8') and the number of chips.

    Raises:
      UserError: an unknown chip, or a topology that is not numbers with x between.
    """
    name, _, topology = target.partition(":")
    if name not in CHIPS:
        raise UserError(f"unknown chip '{name}' in --compile_for: {nearest(name, CHIPS)}")
    chip = CHIPS[name]
    axes = 3 if name == "v5p" else 2 if chip.platform == "tpu" else 1
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (axes - 1), topology):
        example = {1: "8", 2: "4x4", 3: "4x4x4"}[axes]
        raise UserError(
            f"--compile_for {target}: '{topology}' is no {name} topology; say it as "
            f"{name}:{example}"
        )
    return chip, topology, math.prod(map(int, topology.split("x")))


def prepare_environment(target: str) -> None:
    """What has to be set before jax starts."""
    chip, _, count = parse_target(target)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if chip.platform == "tpu":
        absent.prepare_for_tpus()
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{chip.name}-{count}")
    elif not absent.has_gpu_compiler():
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()


def settle(config: ConfigDict) -> StageSpec:
    """The spec of a stage's config, with what it leaves to a base as if no base said anything.

    A step costs the same with any cameras and prediction, so no folder is looked at.

    Raises:
      UserError: a value that may not be, or the config of another task.
    """
    from iso3d_jax.training.spec import StageSpec, make_spec
    from iso3d_jax.training.tasks import base

    if config.task != "denoiser":
        raise UserError(f"--compile_for knows stages 1 and 2, not the {config.task}")
    return base.settle(make_spec(StageSpec, config), read=False)[0]


def abstract_batch(cfg: StageSpec, branch: str):
    """Shapes of a batch of stage 1 or 2, as training/tasks/batches.py gives them."""
    import jax
    import numpy as np

    from iso3d_jax.weights.bundle import make_config

    model = make_config(cfg.model)
    size, views = cfg.batch_size, 1 if branch.endswith("a") else cfg.num_views
    latent = (*model.latent_shape[:2], 2 * model.latent_channels)
    shapes = {
        "moments": ((size, views, *latent), np.float16),
        "camera": ((size, views, 16), np.float32),
        "embedding": ((size, model.context_dim), np.float16),
    }
    if branch == "0-a":
        del shapes["camera"]
    if branch.startswith("2"):
        shapes["reference_moments"] = ((size, 1, *latent), np.float16)
        shapes["reference_camera"] = ((size, 1, 16), np.float32)
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


class AbstractTask:
    """The denoiser without weights, data or pictures."""

    def __init__(self, cfg: StageSpec):
        from iso3d_jax.training.tasks import denoiser, stages

        denoiser.check_options(cfg)
        self.cfg = cfg
        self.train_step = denoiser.train_step
        self.sharding_rules = denoiser.sharding_rules(cfg)
        self.graphdef, self.abstract_params, self.init_params = stages.network(cfg, None)

    def trained(self, params: Iterable[str]) -> list[str] | None:
        from iso3d_jax.training.tasks import trainable

        return trainable.trained_paths(params, self.cfg)


def compile_branch(cfg: StageSpec, devices, branch: str) -> Program:
    """Compiles one branch's step at `cfg.batch_size`.

    Raises:
      DoesNotFit: the compiler itself ran out of the chip's memory.
      UserError: mesh, batch or rules do not fit each other.
    """
    import jax

    from iso3d_jax.core import flops
    from iso3d_jax.models import device
    from iso3d_jax.training import loop, sharding
    from iso3d_jax.training.optimizer import make_optimizer

    device_mesh = sharding.make_mesh(dataclasses.asdict(cfg.mesh), devices)
    sharding.check_batch_size(cfg.batch_size, cfg.accumulate, device_mesh)
    task = AbstractTask(cfg)
    tx = make_optimizer(cfg)
    state = loop.abstract_state(task, tx, cfg)
    shardings = sharding.state_shardings(state, device_mesh, task.sharding_rules)
    batch = abstract_batch(cfg, branch)
    try:
        with jax.set_mesh(device_mesh), absent.cudnn_of(device.target().capability):
            traced = loop.trace_step(task, tx, cfg, shardings, device_mesh, state, batch)
            compiled = absent.compile_lowered(traced.lower(), device.platform())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(str(error).strip().splitlines()[0][:300]) from None
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError("this compiler tells nothing of a program's memory and operations")
    if cost is None:  # for NVIDIA's cards
        traffic = compiled_text.CompiledText(text).traffic()
    else:  # a loop's body is counted once by the compiler
        traffic = cost.get("bytes accessed", 0.0) * cfg.accumulate
    counted = flops.count(traced.jaxpr) * (1.0 / device_mesh.devices.size)
    return Program(
        branch,
        memory.argument_size_in_bytes,
        # Donated arguments are outputs too; what is not donated is new.
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        counted.executed,
        counted.useful,
        traffic,
        collectives.collective_bytes(text, device_mesh.devices.size),
        collectives.foreign_gathers(text, [p.shape for p in task.abstract_params.values()]),
    )


def largest_batch(fits: Callable[[int], bool], step: int, too_large: int) -> int:
    """The largest multiple of `step` below `too_large` that fits, by bisection; 0: none does."""
    low, high = 0, -(-too_large // step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def report(cfg: StageSpec, target: str, price: float | None = None) -> str:
    """Compiles every branch that the run has for `target`; what they need and cost, as text.

    Stage 2 has steps without the reference too, unless `reference_dropout` is 0.

    Args:
      cfg: of stage 1 or 2, from `settle`.
      target: such as 'v5p:4x4x4' or 'h100:8'.
      price: dollars a chip and hour; None takes the list price.

    Raises:
      UserError: a batch that does not fit, with the largest that does.
    """
    from iso3d_jax.training.tasks import batches  # which imports jax

    chip, topology, count = parse_target(target)
    devices = absent.devices(chip, topology, count)
    shares = batches.branch_shares(cfg)

    def programs(batch_size: int, which: list[str]) -> list[Program] | None:
        changed = dataclasses.replace(cfg, batch_size=batch_size)
        try:
            found = [compile_branch(changed, devices, branch) for branch in which]
        except DoesNotFit:
            return None
        return found if max(p.memory for p in found) <= chip.memory else None

    largest_first = sorted(shares, key=lambda name: (name[-1], name[0]), reverse=True)
    found = programs(cfg.batch_size, largest_first)
    if found is None:
        tensor = cfg.mesh.tensor
        step = count // tensor * cfg.accumulate
        best = largest_batch(
            lambda size: programs(size, largest_first[:1]) is not None, step, cfg.batch_size
        )
        advice = (
            f"the largest that fits is {best}: --config.batch_size={best}, or raise accumulate"
            if best
            else "not even one object a chip fits: raise mesh.fsdp, or choose a larger chip"
        )
        raise UserError(
            f"batch_size {cfg.batch_size} does not fit into the {chip.memory / 2**30:.0f} GiB of "
            f"each chip of {target}; {advice}"
        )
    found.sort(key=lambda program: program.branch)
    price = chip.dollars_per_hour if price is None else price
    return _text(cfg, target, chip, count, found, shares, price)


def _text(
    cfg: StageSpec, target: str, chip: Chip, count: int, programs: list[Program],
    shares: dict[str, float], price: float,
) -> str:  # fmt: skip
    lines = [
        f"{cfg.model.name}, stage {cfg.stage}, batch {cfg.batch_size} on {target}: {count} chips, "
        f"fsdp {cfg.mesh.fsdp}, tensor {cfg.mesh.tensor}, {cfg.dtype}, remat {cfg.remat}",
        "a chip and step:  GiB state + temporary  TFLOP   GiB collectives        "
        "roofline ms (arithmetic, memory, collectives)",
    ]
    mean = 0.0
    for program in programs:
        share = shares[program.branch]
        times = program.seconds(chip)
        slowest = max(times.values())
        mean += share * slowest
        kinds = ", ".join(f"{k} {v / 2**30:.3f}" for k, v in sorted(program.collectives.items()))
        lines.append(
            f"  {program.branch} ({share:.1%} of steps)  {program.arguments / 2**30:.2f} + "
            f"{program.temporaries / 2**30:.2f} of {chip.memory / 2**30:.0f}  "
            f"{program.flops / 1e12:.4g}  {kinds or 'none'}  {slowest * 1e3:.2f} ("
            + ", ".join(f"{t * 1e3:.2f}" for t in times.values())
            + ")"
        )
        if program.foreign_gathers:
            lines.append(f"       gathered beside weights: {program.foreign_gathers[:8]}")
    if chip.platform == "gpu" and not absent.has_gpu_compiler():
        lines.append(
            "memory and traffic are a processor's program: with jax's CUDA plugin "
            '(pip install "iso3d_jax[cuda]", no GPU needed) they are those of the real one'
        )
    hours = mean * cfg.steps / 3600
    lines.append(
        f"roofline: {mean * 1e3:.2f} ms a step, {cfg.batch_size / mean:.0f} objects/s; "
        f"{cfg.steps} steps take at least {hours:.2f} h and cost at least "
        f"${hours * count * price:,.0f} at ${price:.2f} a chip and hour"
    )
    return "\n".join(lines)
