"""The divergence from a teacher against PyTorch's, its gradients too, in chunks and on meshes of fake devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from transformer.ops.divergence import divergence, divergence_of_scores
from transformer.ops.word_loss import Words
from transformer.parallel.mesh import MeshConfig, make_mesh

B, T, D, E, V = 8, 12, 16, 8, 32
NAMES = ("hidden", "kernel", "bias")


@functools.cache
def example():
    """A student, and a teacher of another width; some tokens weigh nothing."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    student, teacher = (Words(normal(B, T, width), normal(V, width), normal(V)) for width in (D, E))
    weights = (rng.uniform(size=(B, T)) * (rng.uniform(size=(B, T)) < 0.8)).astype(np.float32)
    return student, teacher, weights


@functools.partial(jax.jit, static_argnums=(0, 1))
def ours(temperature, chunk, student, teacher, weights):
    loss = lambda words: 1.7 * divergence(words, teacher, weights, temperature=temperature, chunk=chunk)  # noqa: E731
    return jax.value_and_grad(loss)(student)


def pytorchs(temperature, student, teacher, weights):
    """`loss_ce` of Hugging Face's `distiller.py`, before its mean, with weights: KLDivLoss times t squared."""
    own = Words(*(torch.tensor(array).double().requires_grad_() for array in student))
    other = Words(*(torch.tensor(array).double() for array in teacher))
    scores, theirs = (torch.einsum("btd,vd->btv", w.hidden_BTD, w.kernel_VD) + w.bias_V for w in (own, other))
    each = torch.nn.KLDivLoss(reduction="none")(
        torch.nn.functional.log_softmax(scores / temperature, dim=-1),
        torch.nn.functional.softmax(theirs / temperature, dim=-1),
    ).sum(-1)
    loss = 1.7 * (each * torch.tensor(weights)).sum() * temperature**2
    loss.backward()
    return loss.item(), Words(*(array.grad.numpy() for array in own))


def close(have, want):
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_pytorch_with_gradients(temperature, chunk):
    close(ours(temperature, chunk, *example()), pytorchs(temperature, *example()))


def test_there_is_none_from_oneself():
    student, _, weights = example()
    value, gradients = ours(2.0, None, student, student, weights)
    assert abs(value) < 1e-4
    assert max(np.abs(array).max() for array in gradients) < 1e-4


def test_scores_that_are_there_give_the_same():
    student, teacher, weights = example()
    each = divergence_of_scores(student.scores(), teacher.scores(), temperature=2.0)
    np.testing.assert_allclose(1.7 * (each * weights).sum(), ours(2.0, None, *example())[0], rtol=1e-5)


@pytest.mark.parametrize(
    "sizes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "tensor": 4, "sequence": 2}], ids=str
)
def test_it_is_one_devices_on_a_mesh(sizes):
    want = ours(2.0, 4, *example())
    with jax.set_mesh(make_mesh(MeshConfig(**sizes))):
        have = ours(2.0, 4, *example())
    close(jax.tree.map(np.asarray, have), jax.tree.map(np.asarray, want))


def test_chunks_never_hold_the_scores_of_either():
    rows, length, width, vocab = 2, 256, 8, 1000
    words = Words(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, length, width), (vocab, width))))
    weights = jax.ShapeDtypeStruct((rows, length), jnp.float32)

    def temporary(chunk):
        memory = ours.lower(2.0, chunk, words, words, weights).compile().memory_analysis()
        return memory.temp_size_in_bytes

    whole = rows * length * vocab * 4
    assert temporary(None) >= 2 * whole
    assert temporary(16) < whole / 2
