"""How a mesh's axes get their sizes, and where its devices lie: the rest, and nodes."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_experiments import experiment_of
from tests.tiny_models import TINY
from transformer.adapters.config import AdapterConfig
from transformer.debugging.replay import _fitting_mesh
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.parallel.mesh import MESH_AXES, MeshConfig, least_devices, make_mesh, mesh_sizes, over_nodes
from transformer.training import experiment as experiments
from transformer.training.dividing import check_kernels
from transformer.training.session import Session, mesh_for
from transformer.transfer.config import InitConfig

SIZES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=6, max_size=6)


def devices(count, *, processes=1, slices=1):
    """As many stand-ins, whose order is another than that of their numbers."""
    made = [
        SimpleNamespace(id=n, process_index=n * processes // count, slice_index=n * slices // count, platform="cpu",
                        device_kind="stand-in")
        for n in range(count)
    ]  # fmt: skip
    return made[::-1]


@given(SIZES, st.sampled_from(MESH_AXES), st.integers(1, 96))
def test_one_axis_takes_the_devices_that_the_others_leave(sizes, axis, count):
    given_sizes = dict(zip(MESH_AXES, sizes, strict=True))
    others = math.prod(size for name, size in given_sizes.items() if name != axis)
    config = MeshConfig(**(given_sizes | {axis: -1}))
    assert least_devices(config) == others
    if count > others and count % others:
        with pytest.raises(UserError, match=f"--mesh.{axis} takes the devices that the others leave"):
            mesh_sizes(config, devices=count)
    else:
        assert mesh_sizes(config, devices=count) == given_sizes | {axis: max(count // others, 1)}


def test_data_takes_the_rest_unless_another_axis_does():
    assert make_mesh(MeshConfig()).shape["data"] == 8
    assert make_mesh(MeshConfig(data=-1, tensor=2)).shape["data"] == 4
    mesh = make_mesh(MeshConfig(fsdp=-1, tensor=2))
    assert (mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"]) == (1, 4, 2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": -1, "tensor": -1}, "fsdp and tensor are -1: one axis alone"),
        ({"fsdp": -2}, "fsdp is -2: it must be at least 1, or -1"),
        ({"tensor": 3}, "--mesh.data takes the devices that the others leave, and tensor 3 does not divide 8"),
        ({"fsdp": -1, "tensor": 16}, "tensor 16 needs 16 devices and there are 8"),
        ({"data": 1, "tensor": 8, "nodes": 2}, "tensor 8 does not spread over 2 nodes"),
        ({"data": 4, "tensor": 2, "nodes": 3}, "does not spread over 3 nodes"),
        ({"nodes": 0}, "nodes is 0: it must be at least 1"),
    ],
    ids=str,
)
def test_refuses(sizes, message):
    with pytest.raises(UserError, match=message) as refused:
        make_mesh(MeshConfig(**sizes))
    assert "\n" not in str(refused.value)


def test_without_devices_there_is_no_rest():
    assert mesh_sizes(MeshConfig(tensor=2))["data"] == 1
    with pytest.raises(UserError, match="--mesh.fsdp -1 takes the devices that are left, and here there are none"):
        mesh_sizes(MeshConfig(fsdp=-1))


def test_records_of_older_versions_load():
    record = experiments.to_dict(experiment_of(TINY["gpt"]))
    assert record["mesh"]["data"] is None
    record["mesh"] = {"data": None, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert experiments.from_dict(record, "here").mesh == MeshConfig(fsdp=2)


@given(SIZES, st.sampled_from([2, 4, 6, 8]))
def test_fast_axes_stay_inside_a_node(sizes, nodes):
    """Each node holds as many devices, and only data, pipeline and fsdp lead from one to another."""
    shape = dict(zip(MESH_AXES, sizes, strict=True))
    count = math.prod(sizes)
    able = (shape["data"] * shape["pipeline"] * shape["fsdp"]) % nodes == 0
    if not able:
        with pytest.raises(UserError, match="does not spread over"):
            over_nodes(shape, devices(count), nodes)
        return
    laid_out = over_nodes(shape, devices(count), nodes)
    assert laid_out.shape == tuple(sizes)
    assert sorted(device.id for device in laid_out.flat) == list(range(count))
    node = np.vectorize(lambda device: device.id * nodes // count)(laid_out)
    for place, axis in enumerate(MESH_AXES):
        crosses = (np.diff(node, axis=place) != 0).any()
        assert not crosses or axis in ("data", "pipeline", "fsdp")


def test_slices_are_nodes():
    shape = dict.fromkeys(MESH_AXES, 1) | {"data": 2, "tensor": 4}
    laid_out = over_nodes(shape, devices(8, slices=2), 1).reshape(2, 4)
    assert [[device.slice_index for device in row] for row in laid_out] == [[0] * 4, [1] * 4]


def test_nodes_hold_whole_processes_and_slices():
    shape = dict.fromkeys(MESH_AXES, 1) | {"data": 12}
    with pytest.raises(UserError, match="--mesh.nodes 2: the devices are those of 3 processes"):
        over_nodes(shape, devices(12, processes=3), 2)
    with pytest.raises(UserError, match="--mesh.nodes 2: the devices are those of 3 slices"):
        over_nodes(shape, devices(12, slices=3), 2)


def test_neighbours_lie_along_tensor():
    """The axis that sends the most is the innermost."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert [device.id for device in mesh.devices.reshape(4, 2)[0]] == [0, 1]
    assert mesh.axis_names[0] == "data"
    assert mesh.axis_names[-1] == "tensor"


@pytest.mark.parametrize(
    ("mesh", "model", "message"),
    [
        (MeshConfig(1, sequence=3), "gpt", "--mesh.sequence 3 does not divide the 16 places of --train.seq-len 16"),
        (MeshConfig(1, sequence=8), "t5", "--mesh.sequence 8 does not divide the 12 places of the objective's targets"),
        (
            MeshConfig(1, sequence=8),
            "dinov2",
            r"--mesh.sequence 8 does not divide the 20 places of an image, 16 patches and 4 learned tokens: change it, "
            r"or --model.image-size or --model.patch-size or --model.class-token or --model.registers",
        ),
        (MeshConfig(1, sequence=2), "clip", "divide the 17 places of an image, 16 patches and 1 learned token: .*size"),
        (
            MeshConfig(1, sequence=3),
            "whisper",
            "divide the 8 places of a spectrogram, 16 frames, two a place: ",
        ),
        (MeshConfig(3, expert=2), "gpt", r"8 rows are not divided by .*data x expert = 6 .*--mesh.data, --mesh.expert"),
        (MeshConfig(1, tensor=8), "gpt", r"heads' dimension of 4 is not divided by tensor = 8 .*--mesh.tensor"),
        (MeshConfig(1, pipeline=4), "llama", r"'layers' dimension of 2 is not divided by .*--mesh.pipeline"),
    ],
    ids=str,
)
def test_what_an_axis_does_not_divide_is_one_line(mesh, model, message):
    experiment = experiment_of(TINY[model])
    with pytest.raises(UserError, match=message) as refused:
        _ = Session(dataclasses.replace(experiment, mesh=mesh)).program
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kernel", ["cudnn", "packed"])
def test_a_kernel_that_the_devices_do_not_have_is_one_line(kernel):
    experiment = experiment_of(TINY["gpt"], execution=Execution(attention=kernel, dtype="bfloat16"))
    with pytest.raises(UserError, match=f"--execution.attention {kernel} runs on NVIDIA GPUs alone.*platform cpu"):
        mesh_for(experiment)


def mesh_of_one(kind, capability):
    """A mesh of a GPU that is not here."""
    device = SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=capability)
    return SimpleNamespace(devices=np.array([device]))


def test_packed_rows_need_a_hopper():
    experiment = experiment_of(TINY["gpt"], execution=Execution(attention="packed", dtype="bfloat16"))

    with pytest.raises(UserError, match="packed needs a GPU of Hopper's generation or newer, not NVIDIA A100"):
        check_kernels(experiment, mesh_of_one("NVIDIA A100-SXM4-80GB", "8.0"))
    check_kernels(experiment, mesh_of_one("NVIDIA H100 80GB HBM3", "9.0"))


@pytest.mark.parametrize(
    ("model", "changes", "attention", "lacking"),
    [
        ("llama", {"attention_dropout": 0.1}, "auto", "dropout of attention probabilities"),
        ("t5", {}, "auto", "a bias of its scores"),
        ("gpt", {}, "reference", "the attention implementation 'reference'"),
    ],
    ids=str,
)
def test_what_a_ring_lacks_is_one_line_before_data_are_read(model, changes, attention, lacking):
    execution = Execution(context="ring", attention=attention)
    architecture = dataclasses.replace(TINY[model], **changes)
    experiment = experiment_of(architecture, execution=execution)
    with pytest.raises(UserError, match=f"--execution.context ring does not support {lacking}.*: choose .* gather"):
        mesh_for(dataclasses.replace(experiment, mesh=MeshConfig(1, sequence=2, fsdp=2)))
    mesh_for(dataclasses.replace(experiment, mesh=MeshConfig(1, fsdp=2)))  # nothing goes round


@pytest.mark.parametrize(("fsdp", "fits"), [(2, True), (-1, True), (16, False)])
def test_a_replay_takes_the_mesh_if_there_are_devices(fsdp, fits):
    config = MeshConfig(fsdp=fsdp, nodes=2, zero1=True)
    assert (_fitting_mesh(config, lambda line: None) == config) == fits


def test_a_pipeline_keeps_nothing_in_the_hosts_memory():
    experiment = experiment_of(TINY["gpt"], execution=Execution(remat="attention-offloaded"))
    check_kernels(experiment, make_mesh(MeshConfig(data=1)))
    with pytest.raises(UserError, match="with --mesh.pipeline 2, .*: choose attention, or no pipeline"):
        check_kernels(experiment, make_mesh(MeshConfig(data=1, pipeline=2)))


def test_eight_bits_need_an_ada_or_a_hopper_and_weights_that_are_trained():
    experiment = experiment_of(TINY["gpt"], execution=Execution(quantization="fp8"))

    with pytest.raises(UserError, match="fp8 needs a GPU of Ada's or Hopper's generation or newer, not NVIDIA A100"):
        check_kernels(experiment, mesh_of_one("NVIDIA A100-SXM4-80GB", "8.0"))
    check_kernels(experiment, mesh_of_one("NVIDIA L4", "8.9"))
    check_kernels(experiment, mesh_of_one("NVIDIA H100 80GB HBM3", "9.0"))
    adapted = dataclasses.replace(experiment, adapter=AdapterConfig(rank=4), init=InitConfig(path="x"))
    with pytest.raises(UserError, match="is for weights that are trained, and --adapter.rank freezes them"):
        check_kernels(adapted, mesh_of_one("NVIDIA H100 80GB HBM3", "9.0"))
