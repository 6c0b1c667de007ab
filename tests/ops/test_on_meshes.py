"""The loss and the embedding on meshes of eight fake devices, against one device, and what a GPU would be given."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from transformer.ops.attention import Mask, attention
from transformer.ops.cross_entropy import cross_entropy
from transformer.ops.embedding import look_up
from transformer.parallel.local import target_capability, target_platform
from transformer.parallel.mesh import MESH_AXES, MeshConfig, make_mesh

B, T, D, V = 8, 12, 16, 32
AXES = ("data", "fsdp", "tensor", "sequence", "pipeline", "expert")
MESHES = [{"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}]
ALL_MESHES = [{"data": 1, axis: 4} if axis != "data" else {"data": 4} for axis in AXES]
ALL_MESHES += [{"data": 1} | {one: 2, other: 4} for one, other in itertools.permutations(AXES, 2)]


def rounded(values):
    return jax.tree.map(np.asarray, values)


@functools.cache
def example():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    weights = jnp.asarray(rng.uniform(size=(B, T)) * (rng.uniform(size=(B, T)) < 0.8), jnp.float32)
    targets = jnp.where(weights > 0, jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32), -100)
    return normal(B, T, D), normal(V, D), normal(V), targets, weights


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def loss_and_gradients(chunk, extras, dtype, hidden, kernel, bias, targets, weights):
    options = {"z_loss": 0.01, "label_smoothing": 0.1} if extras else {}

    def loss(hidden, kernel, bias):
        value, weight, metrics = cross_entropy(
            hidden.astype(dtype), kernel, targets, weights, bias=bias if extras else None, chunk=chunk, **options
        )
        return 1.7 * value, (weight, metrics)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(hidden, kernel, bias)


@jax.jit
def embedded_and_gradient(table, ids, cotangent):
    y, back = jax.vjp(lambda table: look_up(table, ids, cotangent.dtype, ("vocab", "embed")), table)
    return y, back(cotangent)[0]


def close(have, want):
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(other).max()))


def check_loss(sizes, chunk, extras):
    want = loss_and_gradients(chunk, extras, jnp.float32, *example())
    with jax.set_mesh(make_mesh(MeshConfig(**sizes))):
        have = loss_and_gradients(chunk, extras, jnp.float32, *example())
    close(rounded(have), rounded(want))


def check_embedding(sizes, rows):
    """The exchange of tokens for a table of many rows, the gathered table for one of few."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(rows, D)), jnp.float32)
    ids = jnp.asarray(rng.integers(-1, rows + 1, (B, T)), jnp.int32)  # those outside take the nearest row
    cotangent = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
    want = embedded_and_gradient(table, ids, cotangent)
    with jax.set_mesh(make_mesh(MeshConfig(**sizes))):
        have = embedded_and_gradient(table, ids, cotangent)
    np.testing.assert_array_equal(have[0], want[0])
    close(rounded(have), rounded(want))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_loss_is_one_devices(sizes):
    check_loss(sizes, 4, True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("sizes", ALL_MESHES, ids=str)
@pytest.mark.parametrize(("chunk", "extras"), [(None, True), (4, False), (2, True)])
def test_the_loss_is_one_devices_on_every_mesh(sizes, chunk, extras):
    check_loss(sizes, chunk, extras)


@pytest.mark.parametrize("rows", [8, 256])
@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_the_embedding_is_one_devices(sizes, rows):
    check_embedding(sizes, rows)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rows", [8, 256])
@pytest.mark.parametrize("sizes", ALL_MESHES, ids=str)
def test_the_embedding_is_one_devices_on_every_mesh(sizes, rows):
    check_embedding(sizes, rows)


def test_closed_form_on_a_mesh():
    """Hidden states of zeros: every word is as likely, whatever the unembedding."""
    _, kernel, bias, targets, weights = example()
    with jax.set_mesh(make_mesh(MeshConfig(**MESHES[0]))):
        (loss, (weight, metrics)), _ = loss_and_gradients(
            4, True, jnp.float32, jnp.zeros((B, T, D)), kernel, jnp.zeros_like(bias), targets, weights
        )
    np.testing.assert_allclose(metrics["nll"] / weight, np.log(V), rtol=1e-6)
    np.testing.assert_allclose(loss, 1.7 * (np.log(V) + 0.01 * np.log(V) ** 2) * weight, rtol=1e-6)


def test_a_gradient_of_many_devices_is_summed_in_float32():
    """257 ones a device: bfloat16 has no 257 * 8, and would stand still at 256."""
    ids = jnp.zeros((8, 257), jnp.int32)
    for rows in (8, 4096):
        with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=4))):
            _, gradient = embedded_and_gradient(jnp.ones((rows, D)), ids, jnp.ones((8, 257, D), jnp.bfloat16))
        np.testing.assert_array_equal(gradient[0], np.full(D, 257.0 * 8))


def described(platform: str, **sizes: int) -> AbstractMesh:
    """A mesh of devices that are described only."""
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    return AbstractMesh(shape, MESH_AXES, (AxisType.Auto,) * len(MESH_AXES), abstract_device=device)


def test_the_platform_is_that_of_the_mesh():
    assert target_platform() == "cpu"
    for platform in ("cpu", "gpu", "tpu"):
        with jax.sharding.use_abstract_mesh(described(platform)):
            assert target_platform() == platform


@pytest.mark.parametrize(
    ("kind", "capability"),
    [
        ("NVIDIA A100-SXM4-80GB", (0, 0)),
        ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("NVIDIA GH200 480GB", (9, 0)),
        ("NVIDIA GB200", (10, 0)),
    ],
)
def test_heads_may_be_wider_since_hopper(kind, capability, monkeypatch):
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 92_800)
    q = jax.ShapeDtypeStruct((2, 8, 2, 256), jnp.bfloat16)
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device)):
        assert target_capability() == capability
        traced = jax.make_jaxpr(lambda q: attention(q, q, q, Mask.self_attention(None, causal=True)))(q)
    assert ("dot_product_attention_fwd" in str(traced)) == (capability >= (9, 0))


def test_the_loss_for_a_gpu_scatters_nothing_and_gathers_once():
    """Traced on this host for devices that are described only."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in example()]
    with jax.sharding.use_abstract_mesh(described("gpu", fsdp=8)):
        text = loss_and_gradients.trace(4, True, jnp.bfloat16, *shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert not re.findall(r"stablehlo\.scatter", text)
    assert len(re.findall(r"stablehlo\.all_gather", text)) == 1
    assert len(re.findall(r"stablehlo\.reduce_scatter", text)) == 1


@pytest.mark.parametrize(("sizes", "chosen"), [({}, True), ({"fsdp": 2, "tensor": 2}, True), ({"sequence": 2}, False)])
def test_the_kernel_is_chosen_by_the_mesh(sizes, chosen, monkeypatch):
    """cuDNN's attention on described GPUs, but where they split the sequence, along which it cannot be cut."""
    called = []
    monkeypatch.setitem(attention.__globals__["IMPLEMENTATIONS"], "cudnn", lambda q, *_: called.append("cudnn") or q)
    q = jax.ShapeDtypeStruct((2, 8, 2, 8), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(described("gpu", **sizes)):
        jax.eval_shape(lambda q: attention(q, q, q, Mask.self_attention(None, causal=True)), q)
    assert called == ["cudnn"] * chosen
    called.clear()
    jax.eval_shape(lambda q: attention(q, q, q, Mask.self_attention(None, causal=True)), q)
    assert not called
