"""The HLO reader counts what runs: loops multiplied out, true window positions, bytes and groups of collectives."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from jvlm.plan.hlo import Collective, read_program
from jvlm.plan.hlo_text import shape_bytes
from jvlm.plan.products import convolution_flops


def compiled_text(function, *shapes) -> str:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def test_a_product_in_nested_loops_counts_every_time():
    def step(x, _):
        return jax.lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=5)[0], None

    program = read_program(compiled_text(lambda x: jax.lax.scan(step, x, length=7)[0], (8, 8)))
    assert program.flops == 7 * 5 * 2 * 8 * 8 * 8
    assert program.unknown_loops == 0


def test_a_batched_product_and_its_gradient():
    def loss(a, b):
        return jnp.sum(jnp.einsum("bij,bkj->bik", a, b) ** 2)

    program = read_program(compiled_text(jax.grad(loss, argnums=(0, 1)), (3, 4, 5), (3, 6, 5)))
    assert program.flops == 3 * (2 * 3 * 4 * 5 * 6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_their_gradients_count_true_window_positions(stride, groups):
    def loss(image, kernel):
        out = jax.lax.conv_general_dilated(
            image,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.sum(out)

    shapes = ((2, 9, 8, 4), (3, 3, 4 // groups, 6))
    value = compiled_text(loss, *shapes)
    gradients = compiled_text(jax.grad(loss, argnums=(0, 1)), *shapes)
    # The forward pass by hand: of the window of 3, positions in the padding do not count.
    rows = {1: 3 * 9 - 2, 2: 3 * 5 - 2}[stride]
    columns = {1: 3 * 8 - 2, 2: 3 * 4 - 1}[stride]
    forward = 2 * 2 * 6 * (4 // groups) * rows * columns
    assert read_program(value).flops == forward
    # Each gradient has the factor pairs of the forward pass, which itself is not needed.
    assert read_program(gradients).flops == 2 * forward


def test_a_product_written_as_a_convolution_that_lies_in_padding():
    """A batched product [4, 8, 16] x [4, 16, 32] as a TPU compiler may write it: a window of 4 that slides over 4."""
    attributes = "window={size=4 pad=3_3 rhs_reversal=1 lhs_dilate=1}, dim_labels=0bf_0io->0bf"
    whole = convolution_flops("f32[7,8,32]{2,1,0}", "f32[4,8,16]{2,1,0}", "f32[4,16,32]{2,1,0}", attributes)
    assert whole == 2 * 8 * 32 * 16 * 4 * 4
    diagonal = "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf"
    assert convolution_flops("f32[4,8,32]", "f32[4,8,16]", "f32[4,16,32]", diagonal) == 2 * 8 * 32 * 16 * 4


def test_collectives_in_a_loop_have_counts_bytes_and_groups():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    around = [(i, (i + 1) % 4) for i in range(4)]

    def local(x):
        def step(x, _):
            x = jax.lax.ppermute(x, "b", around)
            gathered = jnp.tanh(jax.lax.all_gather(x, "a", tiled=True))  # [4, 8]
            return jnp.tanh(jax.lax.psum_scatter(gathered, "a", tiled=True)), None

        x, _ = jax.lax.scan(step, x, length=3)
        return jax.lax.psum(jnp.sum(x), ("a", "b"))

    spec = PartitionSpec(("a", "b"))
    function = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False)
    collectives = read_program(compiled_text(function, (16, 8))).collectives
    found = {c.kind: c for c in collectives if c.bytes > 4}
    permute = found["collective-permute"]
    assert (permute.count, permute.bytes) == (3, 3 * 2 * 8 * 4)
    assert set(permute.groups) == {(i + 4 * row, j + 4 * row) for row in (0, 1) for i, j in around}
    gather = found["all-gather"]
    assert (gather.count, gather.bytes, gather.group_size) == (3, 3 * 4 * 8 * 4, 2)
    assert set(gather.groups) == {(i, i + 4) for i in range(4)}
    scatter = found["reduce-scatter"] if "reduce-scatter" in found else found["all-reduce"]
    assert (scatter.count, scatter.group_size) == (3, 2)
    assert [c.kind for c in collectives if c.bytes == 4] == ["all-reduce"]


def test_a_conditional_counts_as_its_costliest_branch():
    def function(x, flag):
        return jax.lax.cond(jnp.sum(flag) > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert read_program(compiled_text(function, (8, 8), (2,))).flops == 2 * 2 * 8**3


def test_a_loop_that_runs_as_long_as_the_data_says_is_reported():
    def function(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 100, lambda y: y @ y, x)

    program = read_program(compiled_text(function, (8, 8)))
    assert (program.flops, program.unknown_loops) == (2 * 8**3, 1)


TPU_TEXT = """HloModule jit_f, num_partitions=8

%fused (p0: bf16[64,32], p1: bf16[16,32]) -> f32[64,16] {
  %p0 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = f32[64,16]{1,0:T(8,128)} convolution(%p0, %p1), dim_labels=bf_oi->bf
}

%body (t: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %t = (s32[]{:T(128)}, /*index=1*/bf16[64,32]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=1
  %w = bf16[16,32]{1,0:T(8,128)(2,1)} slice(%x), slice={[0:16], [0:32]}
  %fusion.1 = f32[64,16]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%fused
  %ags = (bf16[64,32]{1,0}, bf16[256,32]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %agd = bf16[256,32]{1,0} all-gather-done(%ags)
  %kernel = f32[64] custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/pallas_call"}
  %after = f32[64,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  ROOT %r = (s32[]{:T(128)}, bf16[64,32]{1,0}) tuple(%i, %x)
}

%condition (t.1: (s32[], bf16[64,32])) -> pred[] {
  %t.1 = (s32[]{:T(128)}, bf16[64,32]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  %bound = s32[]{:T(128)} constant(11)
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (a: bf16[64,32]) -> (s32[], bf16[64,32]) {
  %a = bf16[64,32]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[64,32]{1,0}) tuple(%zero, %a)
  ROOT %while = (s32[], bf16[64,32]{1,0}) while(%start), condition=%condition, body=%body
}
"""


def test_text_of_a_tpu_program():
    program = read_program(TPU_TEXT)
    assert program.flops == 2 * 11 * 2 * 64 * 16 * 32  # before the kernel and after it
    assert program.custom_calls == {"tpu_custom_call": 11}
    groups = ((0, 2, 4, 6), (1, 3, 5, 7))
    assert program.collectives == (Collective("all-gather", 11, 11 * 256 * 32 * 2, groups),)


def test_bytes_of_shapes():
    assert shape_bytes("f32[2,3]{1,0:T(8,128)S(1)}") == 24
    assert shape_bytes("(bf16[5]{0}, pred[3], token[], s4[3], f8e4m3fn[7], s32[])") == 10 + 3 + 0 + 2 + 7 + 4
    with pytest.raises(ValueError, match="ENTRY"):
        read_program("HloModule nothing")
