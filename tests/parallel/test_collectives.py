"""Reading compiled programs: groups by a law, texts of GPUs and TPUs as their compilers write them, a known program."""

import itertools
import math
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from transformer.parallel.collectives import Collective, read
from transformer.parallel.hlo import Array, arrays_of
from transformer.parallel.replica_groups import axes_of, groups_of

# Of 8 partitions that lie as 4 x 2.
NOTATIONS = {
    "replica_groups={{0,2,4,6},{1,3,5,7}}": "columns",
    "replica_groups=[2,4]<=[4,2]T(1,0)": "columns",
    "replica_groups=mesh['a'=4,'b'=2] {'a'}": "columns",
    "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}": "columns",
    "replica_groups=mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'b'}": "columns",
    "replica_groups=mesh['a'=8] {'a':(1)4}": "columns",
    "replica_groups=[4,2]<=[8]": "rows",
    "replica_groups=mesh['a'=8] {'a':(4)2}": "rows",
    "replica_groups=mesh['a'=4,'c'=1,'b'=2] {'b'}": "rows",
    "replica_groups={}": "all",
    "replica_groups={{0}}": "all",
    "replica_groups=[1,8]<=[8]": "all",
    "dimensions={0}": "all",
}
GROUPS = {
    "columns": {(0, 2, 4, 6), (1, 3, 5, 7)},
    "rows": {(0, 1), (2, 3), (4, 5), (6, 7)},
    "all": {tuple(range(8))},
}


@pytest.mark.parametrize("text", NOTATIONS)
def test_every_notation_of_groups(text):
    assert set(groups_of(f", channel_id=1, {text}, use_global_device_ids=true", 8)) == GROUPS[NOTATIONS[text]]


def test_a_notation_that_is_not_known_raises():
    with pytest.raises(ValueError, match="not known: replica_groups=tree"):
        groups_of(", replica_groups=tree(0,1)", 8)


def test_a_permutation_is_its_pairs():
    groups = groups_of(", source_target_pairs={{0,1},{1,0},{2,2}}", 4)
    assert groups == [(0, 1), (1, 0)]
    assert axes_of(groups, {"fsdp": 2, "tensor": 2}) == ("tensor",)
    assert axes_of(groups_of(", source_target_pairs={{0,0},{1,1}}", 2), {"fsdp": 2}) == ()


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_groups_along_axes_of_a_mesh_are_these_axes_in_every_notation(sizes, data):
    mesh = {f"axis{place}": size for place, size in enumerate(sizes)}
    along = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True))
    others = [place for place in range(len(sizes)) if place not in along]
    devices, group = math.prod(sizes), math.prod(sizes[place] for place in along)
    expected = {
        tuple(
            int(np.ravel_multi_index([(fixed | moving)[place] for place in range(len(sizes))], sizes))
            for moving in _places(along, sizes)
        )
        for fixed in _places(others, sizes)
    }
    dims, order = ",".join(map(str, sizes)), ",".join(map(str, others + along))
    named = ",".join(f"'{axis}'={size}" for axis, size in mesh.items())
    chosen = ",".join(f"'axis{place}'" for place in sorted(along))
    texts = [f"[{devices // group},{group}]<=[{dims}]T({order})", f"{{{','.join(_listed(row) for row in expected)}}}"]
    if along:
        texts.append(f"mesh[{named}] {{{chosen}}}")
    for text in texts:
        groups = groups_of(f", replica_groups={text}", devices)
        assert {frozenset(row) for row in groups} == {frozenset(row) for row in expected}, text
        assert axes_of(groups, mesh) == tuple(f"axis{place}" for place in sorted(along) if sizes[place] > 1), text


def _places(axes: list[int], sizes: list[int]) -> list[dict[int, int]]:
    """Coordinates along these axes."""
    return [
        dict(zip(axes, numbers, strict=True)) for numbers in itertools.product(*(range(sizes[axis]) for axis in axes))
    ]


def _listed(row: tuple[int, ...]) -> str:
    return f"{{{','.join(map(str, row))}}}"


def test_arrays_of_a_shape():
    shape = "((bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s4[3]{0}), pred[], u32[]{:S(2)})"
    assert arrays_of(shape) == (Array("bf16", (8, 128)), Array("s4", (3,)), Array("pred", ()), Array("u32", ()))
    assert [array.bytes for array in arrays_of(shape)] == [2048, 2, 1, 4]
    assert str(arrays_of("f8e4m3fn[2,3]")[0]) == "f8e4m3fn[2,3]"


GPU = """\
HloModule step, is_scheduled=true, num_partitions=8

FileNames
1 "/code/layers.py"
2 "/code/loss.py"

FunctionNames
1 "mlp"

FileLocations
1 {file_name_id=1 function_name_id=1 line=55 end_line=55 column=9 end_column=9}
2 {file_name_id=2 function_name_id=1 line=80 end_line=80 column=9 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,128], f32[4])) -> (s32[], bf16[8,128], f32[4]) {
  %p = (s32[], bf16[8,128]{1,0}, /*index=2*/f32[4]{0}) parameter(0)
  %w = bf16[8,128]{1,0} get-tuple-element(%p), index=1
  %v = f32[4]{0} get-tuple-element(%p), index=2
  %all-gather-start.1 = ((bf16[8,128]{1,0}, f32[4]{0}), (bf16[32,128]{1,0}, f32[16]{0})) \
all-gather-start(%w, %v), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}, \
use_global_device_ids=true, metadata={op_name="jit(step)/while/body/up/dot_general" stack_frame_id=1}
  %agd = (bf16[32,128]{1,0}, f32[16]{0}) all-gather-done(%all-gather-start.1)
  %product = f32[32,128]{1,0} fusion(%w), kind=kLoop, calls=%nothing, \
metadata={op_name="jit(step)/transpose(jvp())/down" stack_frame_id=2}
  %reduce-scatter-start.1 = ((f32[32,128]{1,0}), (f32[8,128]{1,0})) reduce-scatter-start(%product), channel_id=2, \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%add, use_global_device_ids=true
  %rsd = f32[8,128]{1,0} reduce-scatter-done(%reduce-scatter-start.1)
  %pair = f32[8]{0} all-reduce(%v), channel_id=3, replica_groups={{0,2},{4,6},{1,3},{5,7}}, to_apply=%add, \
use_global_device_ids=true, metadata={op_name="f" source_file="/code/a.py" source_line=7}
}

%condition (p: (s32[], bf16[8,128], f32[4])) -> pred[] {
  %p = (s32[], bf16[8,128], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %limit = s32[] constant(99)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%outer (p: (s32[], bf16[8,128], f32[4])) -> (s32[], bf16[8,128], f32[4]) {
  %p = (s32[], bf16[8,128], f32[4]) parameter(0)
  ROOT %inner = (s32[], bf16[8,128], f32[4]) while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (x: (s32[], bf16[8,128], f32[4]), g: f32[64]) -> f32[64] {
  %x = (s32[], bf16[8,128], f32[4]) parameter(0)
  %g = f32[64]{0} parameter(1)
  %loop = (s32[], bf16[8,128], f32[4]) while(%x), condition=%condition, body=%outer, \
backend_config={"known_trip_count":{"n":"5"}}
  %moved = (f32[64]{0}, f32[64]{0}) \
collective-permute-start(%g), channel_id=4, source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,1}}
  %there = f32[64]{0} collective-permute-done(%moved)
  ROOT %all = f32[64]{0} all-reduce(%there), channel_id=5, replica_groups={}, to_apply=%add
}
"""

MESH = {"fsdp": 4, "tensor": 2}


def told(found: list[Collective]) -> list[tuple]:
    return [(one.kind, one.axes, one.group, one.times, one.payload, one.sent) for one in found]


def test_a_gpus_program():
    found = read(GPU, MESH)
    gathered = 32 * 128 * 2 + 16 * 4
    assert told(found) == [
        ("all-gather", ("fsdp",), 4, 15, gathered, gathered * 3 / 4),
        ("reduce-scatter", ("fsdp",), 4, 15, 32 * 128 * 4, 32 * 128 * 3),
        ("all-reduce", ("fsdp",), 2, 15, 16, 16),
        ("collective-permute", ("fsdp",), 2, 1, 256, 256),
        ("all-reduce", ("fsdp", "tensor"), 8, 1, 256, 448),
    ]
    assert [one.partial for one in found] == [False, False, True, False, False]
    assert [str(array) for array in found[0].arrays] == ["bf16[32,128]", "f32[16]"]
    assert all(one.counted for one in found)


def test_where_a_collective_comes_from():
    """Its own line or, where the compiler kept none, that of what it sends; in both of XLA's notations."""
    found = read(GPU, MESH)
    assert [one.source for one in found] == ["/code/layers.py:55", "/code/loss.py:80", "/code/a.py:7", "", ""]
    assert [one.operation for one in found[:2]] == [
        "jit(step)/while/body/up/dot_general", "jit(step)/transpose(jvp())/down",
    ]  # fmt: skip


TPU = """\
HloModule step, is_scheduled=true, num_partitions=8

%begin (w: bf16[8,128]) -> (bf16[8,128], bf16[32,128]) {
  %w.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %begun = bf16[32,128]{1,0} all-gather(%w.1), channel_id=6, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, \
use_global_device_ids=true
  ROOT %start.1 = (bf16[8,128], bf16[32,128]) custom-call(%begun), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (w: bf16[8,128]) -> bf16[8,128] {
  %w.2 = bf16[8,128]{1,0} parameter(0)
  ROOT %going = bf16[32,128]{1,0} all-gather(%w.2), channel_id=6, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}

%end (w: bf16[8,128]) -> bf16[32,128] {
  %w.3 = bf16[8,128]{1,0} parameter(0)
  ROOT %ended = bf16[32,128]{1,0} all-gather(%w.3), channel_id=6, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}

%body (p: (s32[]{:T(128)}, bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %v = bf16[8,128]{1,0} get-tuple-element(%p), index=1
  %async-collective-start.1 = (bf16[8,128], bf16[32,128]) fusion(%v), kind=kCustom, calls=%begin
  %beside = bf16[8,128]{1,0} fusion(%v), kind=kOutput, calls=%async_collective_fusion.1
  %async-collective-done.1 = bf16[32,128]{1,0} fusion(%beside), kind=kCustom, calls=%end
  ROOT %t = (s32[], bf16[8,128]) tuple(%i, %v)
}

%condition (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %constant.9 = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%i, %constant.9), direction=LT
}

%until (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %limit = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%all-reduce-scatter.21 (input.21: f32[64,96]) -> f32[64,24] {
  %input.21 = f32[64,96]{0,1:T(8,128)} parameter(0)
  %whole = f32[64,96]{0,1:T(8,128)} all-reduce(%input.21), channel_id=3, replica_groups={{0,2,4,6},{1,3,5,7}}, \
use_global_device_ids=true, to_apply=%add
  ROOT %part = f32[64,24]{0,1} dynamic-slice(%whole), dynamic_slice_sizes={64,24}
}

ENTRY %main (x: (s32[], bf16[8,128]), g: f32[64,96]) -> f32[64,24] {
  %x = (s32[], bf16[8,128]) parameter(0)
  %g = f32[64,96]{0,1} parameter(1)
  %loop = (s32[], bf16[8,128]) while(%x), condition=%condition, body=%body
  %again = (s32[], bf16[8,128]) while(%loop), condition=%until, body=%body
  %offset = s32[] constant(0)
  %permuted = f32[64,96]{0,1} collective-permute(%g, %g, %offset, %offset), channel_id=8, \
source_target_pairs={{0,1},{1,0}}
  ROOT %fusion.21 = f32[64,24]{0,1:T(8,128)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.21, \
metadata={op_name="jit(step)/transpose(jvp())/embed" source_file="/code/embed.py" source_line=3}
}
"""


def test_a_tpus_program():
    """An asynchronous gather counts once, a scatter in a fusion as a scatter, a loop by the limit of its condition."""
    found = read(TPU, MESH)
    assert told(found) == [
        ("all-gather", ("fsdp",), 4, 6, 8192, 6144),
        ("all-gather", ("fsdp",), 4, 1, 8192, 6144),
        ("collective-permute", ("tensor",), 2, 1, 64 * 96 * 4, 64 * 96 * 4),
        ("reduce-scatter", ("fsdp",), 4, 1, 64 * 96 * 4, 64 * 96 * 3),
    ]
    assert [one.counted for one in found] == [True, False, True, True]
    assert found[-1].source == "/code/embed.py:3"


def test_a_program_for_other_devices_raises():
    with pytest.raises(ValueError, match="a program for 8 devices, and a mesh of 4"):
        read(GPU, {"fsdp": 4})


def test_a_program_that_is_known_by_hand():
    """Weights gathered and partial sums added in a scan, within a scan; then a permutation and a scatter."""
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    layers, rounds, width = 5, 3, 32

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(None, "fsdp"), P("tensor")), out_specs=P(("tensor", "fsdp")),
             check_vma=False)  # fmt: skip
    def program(weights_NDD, x_BD):
        def layer(x_BD, weight_DD):
            whole_DD = jax.lax.all_gather(weight_DD, "fsdp", axis=0, tiled=True)
            return jnp.tanh(jax.lax.psum(x_BD @ whole_DD, "tensor")), None

        def whole(x_BD, _):
            return jax.lax.scan(layer, x_BD, weights_NDD)

        x_BD, _ = jax.lax.scan(whole, x_BD, None, length=rounds)
        x_BD = jax.lax.ppermute(x_BD, "tensor", [(0, 1), (1, 0)])
        return jax.lax.psum_scatter(x_BD, "fsdp", scatter_dimension=0, tiled=True)

    arguments = jnp.ones((layers, width, width)), jnp.ones((64, width))
    found = read(jax.jit(program).lower(*arguments).compile().as_text(), mesh.shape)
    assert Counter((one.kind, one.axes, one.times, one.payload) for one in found) == {
        ("all-gather", ("fsdp",), layers * rounds, width * width * 4): 1,
        ("all-reduce", ("tensor",), layers * rounds, 32 * width * 4): 1,
        ("collective-permute", ("tensor",), 1, 32 * width * 4): 1,
        ("reduce-scatter", ("fsdp",), 1, 32 * width * 4): 1,
    }
    assert all("test_collectives.py:" in one.source for one in found)
