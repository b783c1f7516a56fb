"""Axes of collectives, bytes that pass between a chip and its memory, and the bound that follows."""

import jax
import pytest
from jax.sharding import AxisType, Mesh

from jvlm.plan.hlo import Collective, read_program
from jvlm.plan.roofline import Movement, group_axes, movements, roofline, sent_share
from jvlm.plan.topologies import Chip


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return jax.make_mesh((1, 2, 4, 1), ("replica", "data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 4)


def test_groups_are_named_by_the_axes_along_which_they_differ(mesh: Mesh) -> None:
    assert group_axes(((0, 1, 2, 3), (4, 5, 6, 7)), mesh) == ("fsdp",)
    assert group_axes(((0, 4), (1, 5), (2, 6), (3, 7)), mesh) == ("data",)
    assert group_axes((tuple(range(8)),), mesh) == ("data", "fsdp")
    assert group_axes((), mesh) == ("data", "fsdp")
    assert group_axes(((0, 1), (1, 2), (2, 3), (3, 0)), mesh) == ("fsdp",)
    assert group_axes(((0, 1), (3, 4), (7, 0)), mesh) == ("data", "fsdp")
    assert group_axes(((0,), (1,)), mesh) == ()


def test_collectives_of_a_kind_and_axis_are_added(mesh: Mesh) -> None:
    rows = ((0, 1, 2, 3), (4, 5, 6, 7))
    found = movements(
        [
            Collective("all-gather", 2, 800, rows),
            Collective("all-gather", 1, 400, rows),
            Collective("all-reduce", 1, 80, ()),
            Collective("all-reduce", 1, 7, ((0,), (1,))),
            Collective("all-reduce", 1, 50, (), network=True),
        ],
        mesh,
    )
    assert [(m.kind, m.axis, m.count, m.bytes, m.sent, m.network) for m in found] == [
        ("all-gather", "fsdp", 3, 1200, 900, False),
        ("all-reduce", "data,fsdp", 1, 80, 140, False),
        ("all-reduce", "replica", 1, 50, 0, True),
    ]


@pytest.mark.parametrize(
    ("kind", "share"), [("all-gather", 0.75), ("reduce-scatter", 0.75), ("all-reduce", 1.5), ("collective-permute", 1)]
)
def test_what_a_chip_sends_at_least(kind: str, share: float) -> None:
    assert sent_share(kind, 4) == share


def test_the_longest_resource_bounds_the_utilization() -> None:
    chip = Chip(memory=1, flops=100.0, memory_rate=10.0, link_rate=5.0, network_rate=1.0, axes=2)
    found = roofline(chip, compiled=250, model=200, traffic=20, moved=[])
    assert (found.bottleneck, found.mfu_bound) == ("compute", 0.8)
    found = roofline(chip, compiled=250, model=200, traffic=40, moved=[])
    assert (found.bottleneck, found.mfu_bound) == ("memory", 0.5)
    moved = [Movement("all-gather", "fsdp", 1, 9, 25, False), Movement("all-reduce", "replica", 1, 9, 10, True)]
    found = roofline(chip, compiled=250, model=200, traffic=40, moved=moved)
    assert found.seconds == {"compute": 2.5, "memory": 4.0, "interconnect": 5.0, "network": 10.0}
    assert (found.bottleneck, found.mfu_bound) == ("network", 0.2)


TEXT = """HloModule jit_f

%inner (i0: f32[10,64], i1: s32[]) -> f32[1,64] {
  %i0 = f32[10,64]{1,0} parameter(0)
  %i1 = s32[] parameter(1)
  %first = s32[] constant(0)
  ROOT %layer = f32[1,64]{1,0} dynamic-slice(%i0, %i1, %first), dynamic_slice_sizes={1,64}
}

%fused (p0: f32[10,64], p1: s32[], p2: f32[64]) -> f32[64] {
  %p0 = f32[10,64]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[64]{0} parameter(2)
  %slice = f32[1,64]{1,0} fusion(%p0, %p1), kind=kLoop, calls=%inner
  %row = f32[64]{0} bitcast(%slice)
  ROOT %sum = f32[64]{0} add(%row, %p2)
}

%put (q0: f32[10,64], q1: f32[1,64], q2: s32[]) -> f32[10,64] {
  %q0 = f32[10,64]{1,0} parameter(0)
  %q1 = f32[1,64]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %update = f32[10,64]{1,0} dynamic-update-slice(%q0, %q1, %q2, %none)
}

%body (t: (s32[], f32[10,64], f32[64])) -> (s32[], f32[10,64], f32[64]) {
  %t = (s32[], f32[10,64]{1,0}, f32[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %stack = f32[10,64]{1,0} get-tuple-element(%t), index=1
  %x = f32[64]{0} get-tuple-element(%t), index=2
  %next = f32[64]{0} fusion(%stack, %i, %x), kind=kLoop, calls=%fused
  %one = f32[1,64]{1,0} bitcast(%next)
  %written = f32[10,64]{1,0} fusion(%stack, %one, %i), kind=kLoop, calls=%put
  ROOT %r = (s32[], f32[10,64]{1,0}, f32[64]{0}) tuple(%i, %written, %next)
}

%condition (c: (s32[], f32[10,64], f32[64])) -> pred[] {
  %c = (s32[], f32[10,64]{1,0}, f32[64]{0}) parameter(0)
  %j = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(10)
  ROOT %lt = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (a: (s32[], f32[10,64], f32[64])) -> f32[64] {
  %a = (s32[], f32[10,64]{1,0}, f32[64]{0}) parameter(0)
  %while = (s32[], f32[10,64]{1,0}, f32[64]{0}) while(%a), condition=%condition, body=%body
  %out = f32[64]{0} get-tuple-element(%while), index=2
  %close = f32[64]{0:T(128)S(1)} copy(%out)
  %start = (f32[64]{0:S(1)}, f32[64]{0}, u32[]) copy-start(%close)
  %done = f32[64]{0} copy-done(%start)
  %part = ((f32[64]{0}), f32[16]{0:S(1)}, s32[]{:S(2)}) slice-start(%done), slice={[0:16]}
  %near = f32[16]{0:S(1)} slice-done(%part)
  ROOT %last = f32[64]{0} negate(%done)
}
"""


def test_traffic_counts_slices_by_the_slice_loops_out_and_nothing_on_the_chip() -> None:
    row, index = 64 * 4, 4
    read_a_layer = (row + index + row) + row
    write_a_layer = (row + index) + row
    copy_in = row
    copy_out = row + 4  # the asynchronous copy's context is four bytes
    slice_in = 16 * 4
    negate = 2 * row
    loop = 10 * (read_a_layer + write_a_layer)
    assert read_program(TEXT).traffic == loop + copy_in + copy_out + slice_in + negate
