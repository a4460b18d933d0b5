"""Compiling for machines that are not here: what is printed, counted and refused."""

import re

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from iso3d_jax.core.errors import UserError
from iso3d_jax.planning import absent, collectives, compile_for

SMALLER = [
    "--config.model.unet.model_channels=32", "--config.model.unet.channel_mult=(1,2)",
    "--config.model.unet.attention_resolutions=(2,)", "--config.batch_size=16",
    "--config.single_view_share=0.25",
]  # fmt: skip
COMMAND = ("-m", "iso3d_jax.train", "--config=configs/stage2.py:tiny", *SMALLER)


@pytest.mark.slow
def test_gpus_by_fake_devices(run_python):
    process = run_python(*COMMAND, "--compile_for=h100:4", "--config.mesh.fsdp=4", "--price=2.5")
    assert process.returncode == 0, process.stderr
    out = process.stdout
    assert "16 on h100:4: 4 chips, fsdp 4" in out
    for branch in ("1-a (6.2%", "1-b (18.8%", "2-a (18.8%", "2-b (56.2%"):
        assert f"{branch} of steps)" in out
    assert "$2.50 a chip and hour" in out
    flops = [float(x) for x in re.findall(r"of 80\s+([\d.e-]+)\s", out)]
    assert len(flops) == 4 and flops[3] > 2 * flops[2] > 0  # five views against two
    assert flops[0] < flops[2] and flops[1] < flops[3]  # without the reference and with it
    assert "all-gather" in out and "all-reduce" in out  # weights are split, gradients are summed


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_tpus_by_libtpu(run_python, topology):
    pytest.importorskip("libtpu")
    # without the flags that tests compile fast by, of which libtpu does not know all
    command = (*COMMAND, f"--compile_for={topology}", "--config.mesh.fsdp=2")
    process = run_python(*command, XLA_FLAGS=None)
    assert process.returncode == 0, process.stderr
    assert f"16 on {topology}: 4 chips" in process.stdout


def test_what_does_not_fit_is_refused_with_the_largest_that_does(monkeypatch):
    from iso3d_jax.commands.config_files import load_config

    config = load_config("configs/stage2.py:tiny")
    config.batch_size = 64

    def compile_branch(cfg, devices, branch):
        size = 2**30 * cfg.batch_size
        if cfg.batch_size > 40:
            raise compile_for.DoesNotFit
        return compile_for.Program(branch, 2**30, 4 * size, 1.0, 1.0, 1.0, {}, [])

    monkeypatch.setattr(compile_for, "compile_branch", compile_branch)
    monkeypatch.setattr(compile_for.absent, "devices", lambda *_: [])
    with pytest.raises(UserError, match="64 does not fit into the 80 GiB.*largest that fits is 16"):
        compile_for.report(
            compile_for.settle(config), "h100:8"
        )  # 1 + 4 x 16 GiB fit, 1 + 4 x 24 do not


def test_the_report_has_every_branch_with_its_share_of_the_steps(monkeypatch):
    """Those without the reference count, at their own price; an ablation has only them."""
    from iso3d_jax.commands.config_files import load_config

    costs = {"1-a": 1.0, "1-b": 4.0, "2-a": 2.0, "2-b": 5.0}
    chip = compile_for.parse_target("h100:8")[0]

    def compile_branch(cfg, devices, branch):
        return compile_for.Program(branch, 1, 1, costs[branch] * chip.flops, 1.0, 1.0, {}, [])

    monkeypatch.setattr(compile_for, "compile_branch", compile_branch)
    monkeypatch.setattr(compile_for.absent, "devices", lambda *_: [])

    def shares(spec, **changes):
        config = load_config(spec)
        config.update(changes)
        text = compile_for.report(compile_for.settle(config), "h100:8")
        mean = float(re.search(r"roofline: ([\d.]+) ms a step", text)[1]) / 1000
        return dict(re.findall(r"(\d-[ab]) \((\S+) of steps\)", text)), mean

    found, mean = shares("configs/stage2.py")
    assert found == {"1-a": "7.5%", "1-b": "17.5%", "2-a": "22.5%", "2-b": "52.5%"}
    assert mean == pytest.approx(0.075 * 1 + 0.175 * 4 + 0.225 * 2 + 0.525 * 5)
    found, mean = shares("configs/stage2.py", reference_dropout=0.0)
    assert found == {"2-a": "30.0%", "2-b": "70.0%"} and mean == pytest.approx(0.6 + 3.5)
    assert shares("configs/stage2.py:full,ablation=no_ema")[0] == {"1-a": "30.0%", "1-b": "70.0%"}
    assert shares("configs/stage1.py")[0] == {"1-a": "30.0%", "1-b": "70.0%"}


def test_bisection_finds_the_largest():
    for largest in range(0, 12):
        found = compile_for.largest_batch(lambda size, most=largest: size <= 4 * most, 4, 50)
        assert found == 4 * largest


PROGRAM = """
%body (arg: f32[4]) -> f32[4] {
  %g = f32[8,4]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %w = f32[4] while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %r = (f32[10], bf16[10]) all-reduce(%a, %b), replica_groups=[1,4]<=[4], to_apply=%add
  %s = f32[3]{0} reduce-scatter(%a), replica_groups={{0,1,2,3}}, dimensions={0}
  %m = f32[64]{0} all-to-all(%a), replica_groups=mesh['axis_0'=4,'axis_1'=16] {'axis_1'}, dims={0}
  %e = f32[2]{0} all-to-all(%a), replica_groups={}, dimensions={0}
  %p = (f32[6], f32[6], u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %d = f32[6] collective-permute-done(%p)
}
"""


STARTED = """
ENTRY %main (x: f32[2]) -> f32[2] {
  %g = ((f32[2], f32[3]), (f32[8], f32[12])) all-gather-start(%a, %b), replica_groups={{0,1,2,3}}
  %s = ((f32[64]{0}), f32[16]{0}) reduce-scatter-start(%c), replica_groups={{0,1,2,3}}
  %t = f32[16]{0} reduce-scatter-done(%s)
  %r = f32[10] all-reduce-start(%d), replica_groups={{0,1,2,3}}
}
"""


def test_what_is_sent_asynchronously_is_counted_once():
    """As XLA writes it for NVIDIA's cards: operands stand before the results, several at once."""
    found = collectives.collective_bytes(STARTED, 4)
    assert found == {"all-gather": 60.0, "reduce-scatter": 192.0, "all-reduce": 60.0}


def test_collective_bytes_are_counted_by_hand():
    want = {
        "all-gather": 5 * 8 * 4 * 4 / 2,
        "all-reduce": 2 * 3 / 4 * 60,
        "reduce-scatter": 3 / 4 * 48,
        "all-to-all": 15 / 16 * 256 + 63 / 64 * 8,
        "collective-permute": 24.0,
    }
    found = collectives.collective_bytes(PROGRAM, 64)
    assert found.keys() == want.keys()
    np.testing.assert_allclose([found[k] for k in want], list(want.values()))
    with pytest.raises(ValueError, match="which chips take part.*here: replica_groups=new"):
        collectives.collective_bytes("%g = f32[8] all-gather(%x), replica_groups=new", 64)


@pytest.mark.parametrize(
    "groups, chips",
    [
        ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4] {'axis_1'}", 2),
        ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_2'}", 4),
        ("mesh['a'=2,'b'=4], device_ids=([8]) {'a','b'}", 8),
        ("mesh['a'=2,'b'=8] {'b':(2)4}", 4),
        ("mesh['a'=2,'b'=8] {'a','b':(1)2}", 4),
    ],
)
def test_chips_along_named_axes(groups, chips):
    """As libtpu writes them: in the order of the devices or in another, whole axes or parts."""
    line = f"  %r = f32[10] all-to-all(%a), replica_groups={groups}, use_global_device_ids=true"
    found = collectives.collective_bytes(line, 99)
    assert found == {"all-to-all": pytest.approx(40 * (chips - 1) / chips)}


def test_programs_for_absent_devices_stay_out_of_the_cache(tmp_path):
    """Nothing could read them back; a second run said so in a warning and compiled again."""

    def cached(name, platform):
        folder = tmp_path / name
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(folder))
        compilation_cache.reset_cache()
        try:
            absent.compile_lowered(jax.jit(lambda x: x + len(name)).lower(np.ones(3)), platform)
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()
        return list(folder.glob("*"))

    assert cached("here", "cpu") and not cached("elsewhere", "tpu")
    assert jax.config.jax_enable_compilation_cache


def test_gathers_of_what_is_no_weight():
    program = (
        PROGRAM
        + """
  %q = (f32[2,4], f32[9], f32[8,4], f32[9,2]) all-gather-start(%a, %b), replica_groups={{0,1}}
    """
    )
    assert collectives.foreign_gathers(program, [(4, 8), (2, 9)]) == []
    assert collectives.foreign_gathers(program, [(4, 2, 4), (5,)]) == [(9, 2)]


@pytest.mark.parametrize(
    "target, words",
    [
        ("v5q:4x4", "did you mean 'v5"),
        ("v5p:4x4", "v5p:4x4x4"),
        ("v5e:16", "v5e:4x4"),
        ("h100:0", "h100:8"),
    ],
)
def test_targets_that_are_none(target, words):
    with pytest.raises(UserError, match=words):
        compile_for.parse_target(target)


def test_targets():
    assert compile_for.parse_target("v5p:4x4x4")[1:] == ("4x4x4", 64)
    assert compile_for.parse_target("h100:8")[2] == 8
