"""Every full-size program, lowered for GPUs and TPUs on this machine; what is slow is explained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from iso3d_jax.models import kernels
from iso3d_jax.planning import lowering, programs

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    "embedding", "sampling of 50 steps", "decoding", "SDS at 64", "SDS at 256", "draft",
    "turntable", "encoding", "encoding, backward", "step of 1-a", "step of 1-b", "step of 2-a",
    "step of 2-b",
]  # fmt: skip
# Views that attend to each other, by program; a view has 1024, 256, 64 and 16 tokens on the levels.
VIEWS = {
    "sampling of 50 steps": 4, "SDS at 64": 4, "SDS at 256": 4, "step of 1-a": 1, "step of 1-b": 4,
    "step of 2-a": 2, "step of 2-b": 5,
}  # fmt: skip
ENCODES = {"decoding", "SDS at 64", "SDS at 256", "encoding", "encoding, backward"}
TRAINS = {name for name in PROGRAMS if name.startswith("step")}

# float32 products in a bfloat16 program, first match: (what) -> why they stay.
ISLANDS = {
    r"dot_general .*(x16xf32 16x1280xf32|x1280xf32 1280x1280xf32)": "the camera's MLP: in bfloat16 "
    "the released camera vectors run into each other",
    r"dot_general (\d+x)+(16|1280)xf32 (\d+x)+(16|1280)xf32": "the camera's MLP, backward",
    r"dot_general .*224x256xf32": "the picture's resize before the image tower, as released",
    r"dot_general .*64x256xf32.*": "renders resized to the autoencoder's size and back",
    r"dot_general .*(x3xf32 .*3x3xf32|3x3xf32)": "rays of cameras, colours of variants: 3x3",
    r"dot_general (\d+x)+1x\d+xf32 (\d+x)+bf16": "the backward pass of attention that no fused "
    "kernel takes, whose scores are float32: the autoencoder's one head on GPUs (17 of 7,500 GFLOP "
    "of an SDS iteration), below 1024 tokens on TPUs (less than 1% of a training step)",
    r"dot_general (\d+x\d+x\d+x(64|512))xf32 \1xf32": "sums of rows before the splash kernel's "
    "backward pass",
    r"dot_general .*\b(32|64|3|1)x\d+xf32.*|dot_general \d+x(32|64|3)xf32 .*": "the field's two "
    "networks and the orientation's second order: 64 wide, float32 as released",
}


TARGETS, DTYPES = ("a100", "h100", "tpu"), ("bfloat16", "float32")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The table, a process for each type."""
    folder, running = tmp_path_factory.mktemp("lowering"), {}
    for dtype in DTYPES:
        out = folder / f"{dtype}.json"
        running[out] = subprocess.Popen(
            [sys.executable, "-m", "iso3d_jax.planning.lowering", f"--dtypes={dtype}",
             f"--out={out}"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    found = []
    for out, process in running.items():
        printed, _ = process.communicate(timeout=3600)
        assert process.returncode == 0, printed
        found += json.loads(out.read_text())
    return {(row["program"], row["target"], row["dtype"]): row for row in found}


@pytest.mark.long
def test_every_program_lowers_for_every_machine_and_type(rows):
    machines = {(t, d) for d in DTYPES for t in TARGETS}
    machines.discard(("h100", "float32"))  # the same program as a100's: no kernel asks for the card
    assert sorted(rows) == sorted((p, t, d) for p in PROGRAMS for t, d in machines)


def test_a_card_is_one_too_many_in_float32(monkeypatch):
    """No kernel asks for the card there: the program is the same."""
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    some = [programs.Program(name, lambda x: x @ x, (x,)) for name in ("product", "other")]
    monkeypatch.setattr(programs, "full_size_specs", lambda: None)
    monkeypatch.setattr(programs, "road", lambda specs, dtype: some)
    found = lowering.lower_road(["h100", "a100", "tpu"], ["bfloat16", "float32"], ["prod"])
    assert [(row["program"], row["target"], row["dtype"]) for row in found] == [
        ("product", "h100", "bfloat16"), ("product", "a100", "bfloat16"),
        ("product", "tpu", "bfloat16"), ("product", "h100", "float32"),
        ("product", "tpu", "float32"),
    ]  # fmt: skip


@pytest.mark.long
def test_attention_is_fused_in_half_precision(rows):
    for (name, target, dtype), row in rows.items():
        fused, views = row["fused"], VIEWS.get(name, 0)
        tower = 32 if name in ("embedding", "encoding") else 0
        if dtype == "float32":
            assert fused == {}, (name, target)
        elif target == "tpu":
            # Levels with 1024 tokens or more, five blocks each; the backward pass has two kernels
            # and, for its sake, the forward one again.
            long = 5 * sum(views * tokens >= 1024 for tokens in (1024, 256, 64))
            wide = name in ENCODES
            backward = 3 if name in ("SDS at 64", "SDS at 256", "encoding, backward") else 1
            wanted = long * (4 if name in TRAINS else 1) + wide * backward
            assert fused.get("tpu_custom_call", 0) == wanted, (name, target, fused)
        else:
            blocks = 16 if views else tower
            forward = 2 * blocks if name in TRAINS else blocks  # again before the backward pass
            assert fused.get("__cudnn$fmhaSoftmax", 0) == forward, (name, target)
            backward = blocks if name in TRAINS else 0
            assert fused.get("__cudnn$fmhaSoftmaxBackward", 0) == backward, (name, target)


@pytest.mark.long
def test_convolutions_are_of_the_networks_type(rows):
    for key, row in rows.items():
        assert set(row["convolutions"]) <= {{"bfloat16": "bf16", "float32": "f32"}[key[2]]}, key
    for (name, _, dtype), row in rows.items():
        wanted = {"step of 2-b": 248, "SDS at 64": 130}.get(name)
        if dtype == "bfloat16" and wanted:
            assert row["convolutions"] == {"bf16": wanted}


def part(x):
    return jnp.exp(x) @ x


@pytest.mark.parametrize("part", [part, lambda x: part(x)], ids=["named", "<lambda>"])
def test_functions_that_are_shared_count_as_often_as_they_are_called(part):
    def program(x):
        shared = jax.jit(part)
        return shared(shared(shared(x)))

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    found = lowering.examine(lowering.lower(program, (x,), lowering.TARGETS["tpu"]), "bfloat16")
    assert [row["count"] for row in found["islands"]] == [3]


@pytest.mark.long
def test_no_transpose_stands_at_a_convolution(rows):
    assert {key: row["transposes"] for key, row in rows.items() if row["transposes"]} == {}


@pytest.mark.long
def test_scores_that_are_written_are_few(rows):
    """In bfloat16 only the autoencoder's one head on GPUs and short sequences on TPUs; in float32
    blocks of a bounded size."""
    for (name, target, dtype), row in rows.items():
        for found in row["scores"]:
            numbers = lowering._size(found["what"])
            assert 4 * numbers <= kernels.LARGE_SCORES, (name, target, found)
            if dtype == "bfloat16":
                one_head = re.fullmatch(r"(1x)?\d+x(1x)+1024x1024xf32", found["what"])
                short = max(map(int, found["what"].split("x")[-3:-1])) < 1024
                allowed = short if target == "tpu" else one_head and name in ENCODES
                assert allowed, (name, target, found)


@pytest.mark.long
def test_products_in_float32_are_explained(rows):
    used = set()
    for (name, target, dtype), row in rows.items():
        for found in row["islands"]:
            why = next((p for p in ISLANDS if re.fullmatch(p, found["what"])), None)
            assert why, f"{name} for {target} in {dtype}: no reason for {found}"
            used.add(why)
    assert used == set(ISLANDS)  # a reason that nothing needs any more goes


def test_what_is_slow_would_be_seen():
    """Each kind of slow path in a program made for it."""
    half = jax.ShapeDtypeStruct((2, 2048, 8, 512), jnp.bfloat16)

    def scores(q):
        return jax.nn.dot_product_attention(q, q, q, implementation="xla")

    found = lowering.examine(lowering.lower(scores, (half,), lowering.TARGETS["h100"]), "bfloat16")
    assert [lowering._size(row["what"]) for row in found["scores"]] == [2 * 8 * 2048**2]
    x, kernel = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((1, 4, 8, 8), (3, 3, 4, 4)))

    def channels_first(x, kernel):
        numbers = jax.lax.conv_dimension_numbers(
            (1, 8, 8, 4), kernel.shape, ("NHWC", "HWIO", "NHWC")
        )
        x = jnp.transpose(x, (0, 2, 3, 1))
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        wide = out.astype(jnp.float32).reshape(-1, 4)
        return jnp.transpose(out, (0, 3, 1, 2)), wide @ wide.T

    text = lowering.lower(channels_first, (x, kernel), lowering.TARGETS["tpu"])
    found = lowering.examine(text, "bfloat16")
    assert found["convolutions"] == {"bf16": 1}
    assert [row["what"] for row in found["transposes"]] == ["into 1x8x8x4xbf16", "of 1x8x8x4xbf16"]
    assert [row["what"] for row in found["islands"]] == ["dot_general 64x4xf32 4x64xf32"]


def test_what_is_asked_for_wrongly_is_refused(refused):
    message = refused("-m", "iso3d_jax.planning.lowering", "--targets=h100,v100")
    assert "--targets: 'v100' is none of a100, h100, tpu" in message
