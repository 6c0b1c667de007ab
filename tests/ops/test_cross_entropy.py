"""The chunked cross entropy against PyTorch's, the plain form's gradients, closed forms, and its promise of memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from transformer.errors import UserError
from transformer.ops.cross_entropy import cross_entropy

B, T, D, V = 3, 13, 7, 29

_jitted = jax.jit(cross_entropy, static_argnames=("chunk", "z_loss", "label_smoothing"))


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    weights = rng.uniform(size=(B, T))
    weights[:, :3] = 0
    return {
        "hidden_BTD": normal(B, T, D),
        "kernel_VD": normal(V, D),
        "targets_BT": jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32),
        "weights_BT": jnp.asarray(weights, jnp.float32),
        "bias": normal(V),
    }


def _plain(hidden_BTD, kernel_VD, targets_BT, weights_BT, *, bias, z_loss, label_smoothing):
    """The definition, with automatic differentiation."""
    logits = jnp.einsum("BTD,VD->BTV", hidden_BTD, kernel_VD)
    logits = logits if bias is None else logits + bias[None, None]
    logz = jax.nn.logsumexp(logits, axis=-1)
    smooth = jax.nn.one_hot(targets_BT, V) * (1 - label_smoothing) + label_smoothing / V
    loss = logz - (smooth * logits).sum(-1) + z_loss * logz**2
    return (loss * weights_BT).sum()


@pytest.mark.parametrize("chunk", [None, 1, 4, 13, 50])
@pytest.mark.parametrize(("z_loss", "label_smoothing", "biased"), [(0.0, 0.0, False), (0.01, 0.1, True)])
def test_equals_the_definition_with_gradients(example, chunk, z_loss, label_smoothing, biased):
    args = example | ({} if biased else {"bias": None})
    options = {"z_loss": z_loss, "label_smoothing": label_smoothing}

    def loss(form, hidden, kernel, bias):
        out = form(**{**args, "hidden_BTD": hidden, "kernel_VD": kernel, "bias": bias}, **options)
        return 1.7 * (out if form is _plain else out[0])

    ours = lambda **kwargs: cross_entropy(**kwargs, chunk=chunk)  # noqa: E731
    which = (1, 2, 3) if biased else (1, 2)
    inputs = args["hidden_BTD"], args["kernel_VD"], args["bias"]
    have = jax.jit(jax.value_and_grad(loss, argnums=which), static_argnums=0)(ours, *inputs)
    want = jax.jit(jax.value_and_grad(loss, argnums=which), static_argnums=0)(_plain, *inputs)
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_pytorch(example, label_smoothing):
    weights = (example["weights_BT"] > 0).astype(jnp.float32)
    args = example | {"weights_BT": weights, "bias": None}
    loss, weight, metrics = _jitted(**args, chunk=5, label_smoothing=label_smoothing)
    logits = torch.tensor(np.einsum("btd,vd->btv", args["hidden_BTD"], args["kernel_VD"]))
    targets = np.where(weights > 0, args["targets_BT"], -100)
    want = torch.nn.functional.cross_entropy(
        logits.reshape(-1, V),
        torch.tensor(targets).reshape(-1).long(),
        ignore_index=-100,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    np.testing.assert_allclose(loss, want.item(), rtol=1e-6)
    assert weight == weights.sum()
    correct = np.asarray(logits).argmax(-1) == np.asarray(args["targets_BT"])
    assert float(metrics["correct"]) == correct[np.asarray(weights) > 0].sum()


def test_closed_forms(example):
    args = example | {"hidden_BTD": jnp.zeros((B, T, D)), "bias": None}
    loss, weight, metrics = _jitted(**args, z_loss=0.5, label_smoothing=0.2)
    np.testing.assert_allclose(metrics["nll"] / weight, np.log(V), rtol=1e-6)
    np.testing.assert_allclose(metrics["z_loss"] / weight, 0.5 * np.log(V) ** 2, rtol=1e-6)
    np.testing.assert_allclose(loss, metrics["nll"] + metrics["z_loss"], rtol=1e-6)


def test_huge_logits_stay_finite(example):
    args = example | {"hidden_BTD": example["hidden_BTD"] * 1e4}
    loss = lambda hidden: cross_entropy(**{**args, "hidden_BTD": hidden}, chunk=4)[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(args["hidden_BTD"])
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_bfloat16_products_and_float32_parameter_gradients(example):
    hidden = example["hidden_BTD"].astype(jnp.bfloat16)
    run = lambda h, k: cross_entropy(**{**example, "hidden_BTD": h, "kernel_VD": k}, chunk=4)[0]  # noqa: E731
    loss, (dhidden, dkernel) = jax.jit(jax.value_and_grad(run, (0, 1)))(hidden, example["kernel_VD"])
    assert (loss.dtype, dhidden.dtype, dkernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    full = _jitted(**example)[0]
    assert abs(loss - full) < 0.02 * full


def test_an_ignored_target_may_be_anything(example):
    targets = example["targets_BT"].at[:, :3].set(-100)  # weight 0 there
    have = _jitted(**{**example, "targets_BT": targets})
    np.testing.assert_array_equal(have[0], _jitted(**example)[0])


def test_chunks_never_hold_the_whole_logits():
    rows, length, width, vocab, chunk = 2, 256, 8, 1000, 16
    whole = rows * length * vocab * 4
    shapes = (rows, length, width), (vocab, width)
    targets, weights = jnp.zeros((rows, length), jnp.int32), jnp.ones((rows, length))

    def step(chunk, hidden, kernel):
        loss = lambda h, k: cross_entropy(h, k, targets, weights, chunk=chunk, z_loss=1e-4, label_smoothing=0.1)[0]  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1))(hidden, kernel)

    def temporary(chunk):
        lowered = jax.jit(step, static_argnums=0).lower(chunk, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(None) >= whole
    assert temporary(chunk) < whole / 4


def test_bad_options_are_refused(example):
    with pytest.raises(UserError, match="chunk is 0"):
        cross_entropy(**example, chunk=0)
    with pytest.raises(UserError, match="label smoothing 1"):
        cross_entropy(**example, label_smoothing=1.0)
