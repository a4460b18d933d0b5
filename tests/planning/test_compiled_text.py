"""What is read off a compiled program's text, against what is counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from iso3d_jax.planning.compiled_text import Array, CompiledText, find_waste

# As XLA writes it for a card: a loop of three rounds, a fusion that slices and one that writes a
# slice in place, a product by cuBLAS with float32 operands, a kernel's transpose, a convolution.
TEXT = """\
HloModule jit_f, is_scheduled=true

FileNames
1 "/elsewhere/flax/nnx/linear.py"
2 "/somewhere/iso3d_jax/models/unet.py"
3 "/somewhere/iso3d_jax/planning/compiled.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=3 function_name_id=1 line=1 end_line=1 column=0 end_column=1}
2 {file_name_id=2 function_name_id=1 line=5 end_line=5 column=0 end_column=1}
3 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=0 end_column=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%fused_slice (p0: f32[100,1000], p1: s32[]) -> f32[1000] {
  %p0 = f32[100,1000]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %cut = f32[1,1000]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,1000}
  ROOT %flat = f32[1000]{0} bitcast(%cut)
}

%fused_update (q0: f32[100,1000], q1: f32[1000], q2: s32[]) -> f32[100,1000] {
  %q0 = f32[100,1000]{1,0} parameter(0)
  %q1 = f32[1000]{0} parameter(1)
  %row = f32[1,1000]{1,0} bitcast(%q1)
  %q2 = s32[] parameter(2)
  %nought = s32[] constant(0)
  ROOT %put = f32[100,1000]{1,0} dynamic-update-slice(%q0, %row, %q2, %nought)
}

%fused_transpose (k: bf16[3,3,512,512]) -> bf16[512,3,3,512] {
  %k = bf16[3,3,512,512]{3,2,1,0} parameter(0)
  ROOT %turned = bf16[512,3,3,512]{3,2,1,0} transpose(%k), dimensions={3,0,1,2}
}

%body (carry: (s32[], f32[100,1000], f32[400,1000])) -> (s32[], f32[100,1000], f32[400,1000]) {
  %carry = (s32[], f32[100,1000]{1,0}, /*index=2*/f32[400,1000]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %table = f32[100,1000]{1,0} get-tuple-element(%carry), index=1
  %wide = f32[400,1000]{1,0} get-tuple-element(%carry), index=2
  %read = f32[1000]{0} fusion(%table, %i), kind=kLoop, calls=%fused_slice
  %looked = f32[300000,1]{1,0} gather(%wide, %i), offset_dims={1}, metadata={stack_frame_id=3}
  %written = f32[100,1000]{1,0} fusion(%table, %read, %i), kind=kLoop, calls=%fused_update
  ROOT %out = (s32[], f32[100,1000]{1,0}, f32[400,1000]{1,0}) tuple(%i, %written, %wide)
}

%cond (c: (s32[], f32[100,1000], f32[400,1000])) -> pred[] {
  %c = (s32[], f32[100,1000]{1,0}, f32[400,1000]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[100,1000], b: f32[400,1000], w: bf16[3,3,512,512], x: bf16[4,8,8,512]) -> f32[] {
  %a = f32[100,1000]{1,0} parameter(0)
  %b = f32[400,1000]{1,0} parameter(1)
  %w = bf16[3,3,512,512]{3,2,1,0} parameter(2)
  %x = bf16[4,8,8,512]{3,2,1,0} parameter(3)
  %begin = (s32[], f32[100,1000]{1,0}, f32[400,1000]{1,0}) tuple(%a, %b)
  %loop = (s32[], f32[100,1000]{1,0}, f32[400,1000]{1,0}) while(%begin), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %kernel = bf16[512,3,3,512]{3,2,1,0} fusion(%w), kind=kInput, calls=%fused_transpose
  %conv = (bf16[4,8,8,512]{3,2,1,0}, u8[0]{0}) custom-call(%x, %kernel), custom_call_target="__cudnn$convForward", metadata={op_name="c" stack_frame_id=3}
  %sums = (f32[100,400]{1,0}, s8[10]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={stack_frame_id=1}
  ROOT %end = f32[] constant(0)
}
"""  # noqa: E501


def test_traffic_is_what_is_counted_by_hand():
    program = CompiledText(TEXT)
    loop = 3 * (
        (4000 + 4 + 4000)  # a row of the table, the index, the row written
        + (4000 + 4 + 4000)  # the row read, the index, the row in its place
        + 2 * 1_200_000  # the entries looked up, and the same written
    )
    kernel = 2 * 2 * 9 * 512**2
    conv = 2 * 2 * 4 * 64 * 512 + kernel / 2
    product = 4 * (100 * 1000 + 400 * 1000 + 100 * 400) + 10
    assert program.traffic() == loop + kernel + conv + product
    assert program.kernels() == 3 * 3 + 3
    found = program.traffic_by_file()
    # The innermost file of the package, past flax's; a table's own kind where no file is told.
    assert found["models/unet.py"] == round((conv + 3 * 2 * 1_200_000) / 1e9, 4)
    assert found["__cublas$lt$matmul"] == round(product / 1e9, 4)


def test_waste_is_named_with_its_place():
    found = find_waste(CompiledText(TEXT), "bfloat16")
    kernel = {"what": "fusion bf16[512,3,3,512]", "source": "", "count": 1, "gb": 0.0094}
    assert found["moves"] == found["convolutions"] == [kernel]
    (product,) = found["islands"]
    assert product["what"] == "__cublas$lt$matmul f32[100,1000] f32[400,1000]"
    (gather,) = found["gathers"]
    assert (gather["source"], gather["count"]) == ("models/unet.py", 3)
    assert find_waste(CompiledText(TEXT), "float32")["islands"] == []
    with pytest.raises(ValueError, match="no entry"):
        CompiledText("nothing")


# As libtpu writes it: weights are fetched into the chip's own memory, S(1), in slices.
TPU = """\
HloModule jit_g

ENTRY %main (w: bf16[8,128], x: bf16[4,128]) -> bf16[4,8] {
  %w = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %x = bf16[4,128]{1,0:T(8,128)(2,1)} parameter(1)
  %s = ((bf16[8,128]{1,0:T(8,128)(2,1)}), bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[0:8], [0:128]}
  %near = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} slice-done(%s)
  %c = (bf16[4,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x)
  %beside = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%c)
  ROOT %y = bf16[4,8]{1,0:T(8,128)(2,1)} fusion(%beside, %near), kind=kOutput, calls=%product
}
"""  # noqa: E501


BRANCHES = """\
HloModule jit_h

%full (a: (f32[8])) -> f32[8] {
  %a = (f32[8]{0}) parameter(0)
  %row = f32[8]{0} get-tuple-element(%a), index=0
  ROOT %twice = f32[8]{0} add(%row, %row)
}

%empty (b: (f32[8])) -> f32[8] {
  %b = (f32[8]{0}) parameter(0)
  %nought = f32[] constant(0)
  ROOT %zeros = f32[8]{0} broadcast(%nought), dimensions={}
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  %one = (f32[8]{0}) tuple(%x)
  %two = (f32[8]{0}) tuple(%x)
  %found = f32[8]{0} conditional(%p, %one, %two), true_computation=%full, false_computation=%empty
  ROOT %end = f32[8]{0} negate(%found)
}
"""


def test_what_stands_in_branches_is_told_apart():
    program = CompiledText(BRANCHES)
    assert program.traffic() == (3 * 32 + 4 + 32) + 64
    assert program.optional_traffic() == 3 * 32 + 4 + 32
    listed = BRANCHES.replace(
        "true_computation=%full, false_computation=%empty", "branch_computations={%full, %empty}"
    )
    assert CompiledText(listed).optional_traffic() == program.optional_traffic()


def test_what_a_tpu_has_fetched_is_read_once():
    assert CompiledText(TPU).traffic() == 2 * (8 * 128 + 4 * 128 + 4 * 8)


def test_sizes_of_types():
    sizes = {"f32": 4, "bf16": 2, "pred": 1, "s4": 0.5, "f8e4m3fn": 1, "u64": 8, "token": 0}
    for dtype, size in sizes.items():
        assert Array(dtype, (2, 3)).bytes == 6 * size
    assert str(Array("bf16", (2, 3))) == "bf16[2,3]"


def test_a_real_programs_traffic_is_near_the_compilers():
    """XLA's own count of a program without loops; kernels of this machine fuse alike."""

    def f(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w.T).sum()

    compiled = jax.jit(f).lower(jnp.ones((256, 512)), jnp.ones((64, 256))).compile()
    theirs = compiled.cost_analysis()["bytes accessed"]
    assert CompiledText(compiled.as_text()).traffic() == pytest.approx(theirs, rel=0.2)
