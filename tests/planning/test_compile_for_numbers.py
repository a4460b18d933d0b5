"""Compiling for other machines: shapes, memory and the report's arithmetic."""

import dataclasses
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.commands.config_files import load_config
from iso3d_jax.core import chips
from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import split_shapes
from iso3d_jax.planning import absent, compile_for
from iso3d_jax.planning.compile_for import Program
from iso3d_jax.training import sharding
from iso3d_jax.training.spec import DeviceMeshSpec, StageSpec, make_spec
from iso3d_jax.training.tasks import denoiser

CHIP = chips.Chip("h100", "gpu", 1000.0, 2e3, 40.0, 5.0, 3.0)


def stage(name, **changes):
    """The spec of a preset as it is compiled for."""
    return dataclasses.replace(compile_for.settle(load_config(name)), **changes)


def program(branch="2-b", arguments=400, temporaries=500, flops=6e3, traffic=80.0, **collectives):
    return Program(branch, arguments, temporaries, flops, flops, traffic, collectives, [])


def test_a_programs_memory_and_its_three_times():
    made = program(gather=10.0, reduce=15.0)
    assert made.memory == 900
    assert made.seconds(CHIP) == dict(arithmetic=3.0, memory=2.0, collectives=5.0)


@pytest.mark.parametrize("branch, views", [("1-a", 1), ("1-b", 6), ("2-a", 1), ("2-b", 6)])
def test_a_batchs_shapes_are_those_that_the_loader_gives(make_config, branch, views):
    cfg = make_config(batch_size=5, num_views=6)
    cfg.model.resolution = 64
    with cfg.model.unlocked():
        cfg.model.vae = dict(ch=8, ch_mult=(1, 1), embed_dim=3, z_channels=3, num_groups=4)
        cfg.model.clip = dict(image_size=16, patch_size=8, width=8, layers=1, heads=1,
                              output_dim=16)  # fmt: skip
    spec = make_spec(StageSpec, cfg)
    found = {k: (v.shape, v.dtype) for k, v in compile_for.abstract_batch(spec, branch).items()}
    half, single = np.dtype(np.float16), np.dtype(np.float32)
    want = {
        "moments": ((5, views, 32, 32, 6), half),
        "camera": ((5, views, 16), single),
        "embedding": ((5, 16), half),
    }
    if branch.startswith("2"):
        want["reference_moments"] = ((5, 1, 32, 32, 6), half)
        want["reference_camera"] = ((5, 1, 16), single)
    assert found == want


def test_what_the_environment_says_before_jax_starts(monkeypatch):
    for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "ALLOW_MULTIPLE_LIBTPU_LOAD",
                 "TPU_ACCELERATOR_TYPE", "XLA_FLAGS", "JAX_PLATFORMS"):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(absent, "COMPILER", "json")  # a real compiler needs no fake devices
    compile_for.prepare_environment("h100:8")
    assert "XLA_FLAGS" not in compile_for.os.environ
    monkeypatch.setattr(absent, "COMPILER", "no.such.plugin")
    compile_for.prepare_environment("h100:8")
    environment = compile_for.os.environ
    assert environment["JAX_PLATFORMS"] == "cpu" and "TPU_SKIP_MDS_QUERY" not in environment
    assert environment["XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"
    compile_for.prepare_environment("h100:4")  # the last one counts
    assert environment["XLA_FLAGS"].endswith("count=8 --xla_force_host_platform_device_count=4")
    del environment["XLA_FLAGS"]
    compile_for.prepare_environment("v5e:4x4")
    assert "XLA_FLAGS" not in environment and environment["TPU_SKIP_MDS_QUERY"] == "1"
    assert environment["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert environment["TPU_ACCELERATOR_TYPE"] == "v5e-16"
    assert environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"


def test_devices_are_fake_ones_or_a_topologys(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda kind: [f"{kind} {i}" for i in range(9)])
    monkeypatch.setattr(absent, "COMPILER", "no.such.plugin")
    assert absent.devices(CHIP, "8", 3) == ["cpu 0", "cpu 1", "cpu 2"]
    with pytest.raises(UserError, match="h200 is compiled by jax's CUDA plugin, which is not"):
        absent.gpus("h200")
    asked = []

    def describe(**how):
        asked.append(how)
        if how["topology_name"] == "v5e:9x9":
            raise RuntimeError("no such thing\nat all")
        return types.SimpleNamespace(devices=("a", "b"))

    fake = types.ModuleType("topologies")
    fake.get_topology_desc = describe
    monkeypatch.setitem(sys.modules, "jax.experimental.topologies", fake)
    monkeypatch.setattr("jax.experimental.topologies", fake, raising=False)
    chip = compile_for.parse_target("v5e:2x2")[0]
    assert absent.devices(chip, "2x2", 4) == ["a", "b"]
    assert asked == [dict(platform="tpu", topology_name="v5e:2x2")]
    with pytest.raises(UserError, match=r"cannot compile for v5e:9x9 \(no such thing\)"):
        absent.devices(chip, "9x9", 81)
    monkeypatch.setattr(absent, "COMPILER", "json")  # something that is installed
    assert absent.devices(CHIP, "8", 8) == ["a", "b"]
    assert asked[-1]["platform"] == "cuda" and asked[-1]["topology"] == "1x1x8"
    assert "core_count: 132" in asked[-1]["target_config"]
    assert "cuda_compute_capability { major: 9 minor: 0 }" in asked[-1]["target_config"]


@pytest.fixture
def compiled(monkeypatch):
    """Programs whose memory is the batch's size times `each`; notes what was compiled."""
    notes, each = [], [1.0]

    def compile_branch(cfg, devices, branch):
        notes.append((cfg.batch_size, branch))
        size = int(each[0] * cfg.batch_size * 2**30)
        return Program(branch, size // 2, size - size // 2, 4e12, 4e12, 3.35e9, {"g": 4.5e9}, [])

    monkeypatch.setattr(compile_for, "compile_branch", compile_branch)
    monkeypatch.setattr(compile_for.absent, "devices", lambda *_: [])
    return notes, each


def test_the_report_adds_up(compiled):
    cfg = stage("configs/stage2.py", batch_size=40, steps=36_000)
    text = compile_for.report(cfg, "h100:8", price=2.0)
    # 4e12 / 989e12 = 4.04 ms; memory 1 ms; 4.5e9 / 450e9 = 10 ms, the slowest.
    assert "10.00 (4.04, 1.00, 10.00)" in text
    assert "roofline: 10.00 ms a step, 4000 objects/s" in text
    assert "36000 steps take at least 0.10 h" in text
    assert "$2 at $2.00 a chip and hour" in text  # 0.1 h x 8 chips x 2 dollars
    assert "20.00 + 20.00 of 80  4  g 4.191" in text
    assert [row[2:5] for row in text.splitlines()[2:6]] == ["1-a", "1-b", "2-a", "2-b"]
    # The largest programs first: what does not fit is said soonest.
    assert [branch for _, branch in compiled[0]] == ["2-b", "1-b", "2-a", "1-a"]
    assert "$6.00 a chip" in compile_for.report(cfg, "h100:8")  # the list's


def test_the_largest_batch_that_fits_is_a_multiple_of_what_splits(compiled):
    """80 GiB at 0.5 GiB an object are 160; on 8 chips, 2 of them by tensor, 3 parts: 4 x 3."""
    notes, each = compiled
    each[0] = 0.5
    cfg = stage(
        "configs/stage2.py", batch_size=300, accumulate=3, mesh=DeviceMeshSpec(fsdp=1, tensor=2)
    )
    with pytest.raises(UserError, match="batch_size 300 does not fit .* fits is 156: "):
        compile_for.report(cfg, "h100:8")
    assert {size % 12 for size, _ in notes} == {0}
    each[0] = 100.0
    with pytest.raises(UserError, match="not even one object a chip fits"):
        compile_for.report(cfg, "h100:8")
    each[0] = 80 / 300  # to the last byte
    compile_for.report(cfg, "h100:8")
    with pytest.raises(UserError, match="knows stages 1 and 2, not the autoencoder"):
        compile_for.settle(load_config("configs/autoencoder.py"))


def test_what_is_gathered_beside_weights_is_listed(compiled, monkeypatch):
    made = Program("2-b", 1, 1, 1.0, 1.0, 1.0, {}, [(i, 2) for i in range(9)])
    monkeypatch.setattr(compile_for, "compile_branch", lambda *_: made)
    cfg = stage("configs/stage2.py", single_view_share=0.0, reference_dropout=0.0)
    text = compile_for.report(cfg, "h100:8")
    assert "gathered beside weights: [(0, 2)" in text and "(7, 2)]" in text
    assert re.search(r"2-b \(100.0% of steps\).* none ", text)


class Mixer(nnx.Module):
    """Channels mixed by one matrix: a network that is compiled at once."""

    def __init__(self):
        self.mix = nnx.Param(jnp.eye(8))

    def __call__(self, z_t, t, context, camera):
        return z_t @ self.mix[...]


class MixerTask:
    """What `AbstractTask` is for the UNet."""

    sharding_rules = sharding.REPLICATED
    train_step = staticmethod(denoiser.train_step)

    def __init__(self, cfg):
        self.cfg = cfg
        self.graphdef, self.abstract_params = split_shapes(nnx.eval_shape(Mixer))
        self.trained = list


def test_a_branch_is_compiled_for_this_machine(monkeypatch):
    monkeypatch.setattr(compile_for, "AbstractTask", MixerTask)
    monkeypatch.setattr(denoiser, "sharding_rules", lambda cfg: sharding.REPLICATED)
    cfg, device = stage("configs/stage1.py:tiny", batch_size=8, accumulate=2), jax.devices()[:1]
    made = compile_for.compile_branch(cfg, device, "1-b")
    assert made.branch == "1-b" and made.collectives == {} and made.foreign_gathers == []
    # 8 objects x 4 views x 64 places by 8 x 8: once forward, once for the weights' gradient.
    assert made.flops == made.model_flops == 2 * 2 * 8 * 4 * 64 * 64
    # Latents in half precision (what is not used is left out), weights, averages and two moments.
    latents, state = 2 * 8 * 4 * 64 * 16, 4 * 4 * 64
    assert latents + state < made.arguments < latents + state + 100  # counts and the key
    assert 0 < made.temporaries < 2_000_000
    one = compile_for.compile_branch(dataclasses.replace(cfg, accumulate=1), device, "1-b")
    assert made.flops == one.flops and 0.5 * one.traffic < made.traffic < 4 * one.traffic
    with pytest.raises(UserError, match="batch_size 3 does not divide"):
        compile_for.compile_branch(dataclasses.replace(cfg, batch_size=3), device, "1-b")


def test_a_compiler_that_finds_no_memory_says_that_it_does_not_fit(monkeypatch):
    from iso3d_jax.training import loop

    monkeypatch.setattr(compile_for, "AbstractTask", MixerTask)
    cfg = stage("configs/stage1.py:tiny")
    for message, kind in (
        ("RESOURCE_EXHAUSTED: 3 GiB\nmore", compile_for.DoesNotFit),
        ("something else", jax.errors.JaxRuntimeError),
    ):

        def trace_step(*_, message=message):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(loop, "trace_step", trace_step)
        with pytest.raises(kind, match=message.splitlines()[0]):
            compile_for.compile_branch(cfg, jax.devices()[:1], "1-b")


def test_the_task_without_weights_is_the_stages_own():
    from iso3d_jax.training.tasks import trainable

    task = compile_for.AbstractTask(stage("configs/stage1.py:tiny", trainable="attention"))
    assert task.train_step is denoiser.train_step
    assert task.sharding_rules == denoiser.sharding_rules(task.cfg)
    paths = task.trained(task.abstract_params)
    assert paths == trainable.trained_paths(task.abstract_params, task.cfg)
    assert paths and len(paths) < len(task.abstract_params)
    config = load_config("configs/stage1.py:tiny")
    config.learning_rate = -1.0
    with pytest.raises(UserError, match="learning_rate"):
        compile_for.settle(config)
    ccr = stage("configs/stage2.py:tiny,ablation=ccr", reference_dropped_with_embedding=True)
    with pytest.raises(UserError, match="reference_dropped_with_embedding"):
        compile_for.AbstractTask(ccr)


def test_chips_are_what_their_vendors_say():
    """Memory in GiB, bfloat16 TFLOP/s, and GB/s of memory and of all links in one direction."""
    want = {
        "v5e": (16, 197, 819, 200), "v5p": (95, 459, 2765, 600), "v6e": (32, 918, 1638, 400),
        "a100": (80, 312, 2039, 300), "h100": (80, 989, 3350, 450), "h200": (141, 989, 4800, 450),
    }  # fmt: skip
    for name, chip in chips.CHIPS.items():
        speeds = chip.flops / 1e12, chip.memory_bandwidth / 1e9, chip.link_bandwidth / 1e9
        assert (chip.memory / 2**30, *speeds) == pytest.approx(want[name]), name
        assert chip.name == name and 1 < chip.dollars_per_hour < 10
