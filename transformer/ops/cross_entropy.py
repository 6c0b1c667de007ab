"""Cross entropy of a language model's head: hidden states and the unembedding in, sums out.

The gradient is computed in the forward pass, chunk by chunk, and only scaled in the backward pass. So no chunk's logits
outlive it and none are computed twice (as rematerialisation would). Evaluation, which takes no gradient, computes none.

On a mesh, each device takes its own rows and its own part of the sequence, in chunks of its own; the vocabulary may be
split too. The unembedding is gathered once, before the chunks, in the compute dtype; its gradient is added up in
float32 on each device, and reduced over devices once, after the chunks. The compiler would do both in every chunk.

Shape letters: B batch, T length, D model width, V vocabulary, C chunk.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.errors import UserError
from transformer.parallel.local import (
    devices_along,
    divides,
    dividing_axes,
    on_parts,
    rows_here,
    scattered_sum,
    splitting_axes,
    summed_along,
    target_platform,
)


class _Settings(NamedTuple):
    chunk: int | None
    z_loss: float
    label_smoothing: float


class _Sums(NamedTuple):
    loss: jax.Array
    nll: jax.Array
    z_loss: jax.Array
    correct: jax.Array


class _Gradients(NamedTuple):
    hidden: jax.Array | None
    kernel: jax.Array
    bias: jax.Array | None


class _Split(NamedTuple):
    """The mesh axes that split the arrays; all empty where one device computes everything."""

    batch: tuple[str, ...] = ()
    length: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()
    embed: tuple[str, ...] = ()
    """Split the unembedding's width, beside being among `batch`."""


def cross_entropy(
    hidden_BTD: jax.Array,
    kernel_VD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    bias: jax.Array | None = None,
    chunk: int | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of losses, the sum of weights, and weighted sums of metrics, all float32 scalars.

    A token's loss is (1 - s) * nll + s * mean_v(-log p_v) + z * log(Z)^2: label smoothing as in Szegedy et al. 2016,
    section 7, and z-loss as in PaLM (Chowdhery et al. 2022, section 5).

    Args:
      hidden_BTD: the backbone's output; its dtype is that of the matrix products.
      kernel_VD: the unembedding, a row a word; best in float32, as its gradient comes back in its dtype.
      targets_BT: the right words. A value outside [0, V) counts only under weight 0.
      weights_BT: what each token counts; 0 for padding. Not differentiated.
      bias: [V], added to the logits.
      chunk: positions of the length axis taken at a time, so that B * chunk * V logits live at once; None: all.
      z_loss: z above.
      label_smoothing: s above.

    Returns:
      loss sum, weight sum, and {"nll", "z_loss", "correct"}: the sums of the plain negative log likelihood, of the z
      term (with its factor), and of right guesses.
    """
    if chunk is not None and chunk < 1:
        raise UserError(f"the cross entropy's chunk is {chunk}: it must be at least 1")
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label smoothing {label_smoothing}: it must be in [0, 1)")
    settings = _Settings(chunk, z_loss, label_smoothing)
    weights_BT = weights_BT.astype(jnp.float32)
    sums = _loss(settings, hidden_BTD, kernel_VD, bias, targets_BT, weights_BT)
    metrics = {"nll": sums.nll, "z_loss": sums.z_loss, "correct": sums.correct}
    return sums.loss, weights_BT.sum(), jax.tree.map(jax.lax.stop_gradient, metrics)


def _loss_only(settings: _Settings, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT) -> _Sums:
    return _on_mesh(settings, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, with_gradients=False)[0]


def _loss_forward(settings: _Settings, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT):
    return _on_mesh(settings, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, with_gradients=True)


def _loss_backward(settings: _Settings, gradients: _Gradients, cotangent: _Sums):
    del settings
    hidden, kernel, bias = jax.tree.map(lambda g: (g.astype(jnp.float32) * cotangent.loss).astype(g.dtype), gradients)
    return hidden, kernel, bias, None, None


_loss = jax.custom_vjp(_loss_only, nondiff_argnums=(0,))
_loss.defvjp(_loss_forward, _loss_backward)


def _on_mesh(settings: _Settings, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, *, with_gradients: bool):
    """Returns the sums and the gradients (None without), each device taking its part."""
    split = _split(hidden_BTD.shape, kernel_VD.shape)
    local = functools.partial(_on_device, settings, split, with_gradients=with_gradients)
    args = hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT
    if not any(split):
        return local(*args)
    tokens, vocab = PartitionSpec(split.batch, split.length), PartitionSpec(split.vocab)
    hidden, kernel = PartitionSpec(split.batch, split.length, None), PartitionSpec(split.vocab, split.embed)
    gradients = _Gradients._make((hidden, kernel, None if bias_V is None else vocab)) if with_gradients else None
    in_specs = hidden, kernel, None if bias_V is None else vocab, tokens, tokens
    return on_parts(local, in_specs, (PartitionSpec(), gradients))(*args)


def _split(hidden_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> _Split:
    """Returns what splits [B, T, D] and [V, D] on the mesh of today; nothing where it does not divide the batch."""
    batch = splitting_axes("activation_batch")
    if not divides(batch, hidden_shape[0]):
        return _Split()
    vocab, embed = (dividing_axes(name, size) for name, size in zip(("vocab", "embed"), kernel_shape, strict=True))
    return _Split(batch, dividing_axes("activation_length", hidden_shape[1]), vocab, embed)


def _on_device(
    settings: _Settings, split: _Split, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, *, with_gradients: bool
):
    """Returns the sums of all devices and this one's part of the gradients, from its parts of the arrays."""
    kernel_dtype = kernel_VD.dtype
    kernel_VD = kernel_VD.astype(hidden_BTD.dtype)
    if split.embed:
        kernel_VD = jax.lax.all_gather(kernel_VD, split.embed, axis=1, tiled=True)
    sums, gradients = _over_chunks(
        settings, split.vocab, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, with_gradients=with_gradients
    )
    tokens = split.batch + split.length
    sums = summed_along(sums, tokens)
    if gradients is None:
        return sums, None
    dhidden, dkernel, dbias = gradients
    if split.embed:
        dkernel = scattered_sum(dkernel, split.embed, dimension=1)
    dkernel = summed_along(dkernel, tuple(axis for axis in tokens if axis not in split.embed)).astype(kernel_dtype)
    dbias = None if dbias is None else summed_along(dbias, tokens).astype(bias_V.dtype)
    return sums, _Gradients(summed_along(dhidden, split.vocab), dkernel, dbias)


def _over_chunks(
    settings: _Settings, vocab_axes, hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT, *, with_gradients: bool
):
    """Returns the sums and the gradients (None without), one chunk of the length after another.

    Those of parameters are float32; that of the hidden states is of this device's part of the vocabulary.
    """
    chunk_loss = functools.partial(_chunk, settings, vocab_axes, with_gradients=with_gradients)
    length = hidden_BTD.shape[1]
    if settings.chunk is None or settings.chunk >= length:
        return chunk_loss(hidden_BTD, kernel_VD, bias_V, targets_BT, weights_BT)

    chunk = settings.chunk
    count = -(-length // chunk)

    def split(x):  # [B, T, ...] -> [count, B, C, ...], the end padded with weight 0
        x = jnp.pad(x, [(0, 0), (0, count * chunk - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, chunk, *x.shape[2:]), 1, 0)

    def step(carry, xs):
        hidden_BCD, targets_BC, weights_BC = xs
        sums, gradients = chunk_loss(hidden_BCD, kernel_VD, bias_V, targets_BC, weights_BC)
        if gradients is None:
            return jax.tree.map(jnp.add, carry, (sums, None)), None
        return jax.tree.map(jnp.add, carry, (sums, gradients._replace(hidden=None))), gradients.hidden

    zero = jnp.zeros((), jnp.float32)
    totals = None
    if with_gradients:
        bias = None if bias_V is None else jnp.zeros(bias_V.shape, jnp.float32)
        totals = _Gradients(None, jnp.zeros(kernel_VD.shape, jnp.float32), bias)
    (sums, totals), hidden = jax.lax.scan(
        step, (_Sums(zero, zero, zero, zero), totals), (split(hidden_BTD), split(targets_BT), split(weights_BT))
    )
    if totals is None or hidden is None:
        return sums, None
    hidden = jnp.moveaxis(hidden, 0, 1).reshape(hidden_BTD.shape[0], count * chunk, -1)[:, :length]
    return sums, totals._replace(hidden=hidden)


def _chunk(
    settings: _Settings, vocab_axes, hidden_BCD, kernel_VD, bias_V, targets_BC, weights_BC, *, with_gradients: bool
) -> tuple[_Sums, _Gradients | None]:
    """Returns the sums of one chunk and, if asked, their gradients; V is this device's part of the vocabulary."""
    dtype = hidden_BCD.dtype
    parts = devices_along(vocab_axes)
    vocab = kernel_VD.shape[0] * parts
    smooth, z = settings.label_smoothing, settings.z_loss
    logits_BCV = jnp.einsum("BCD,VD->BCV", hidden_BCD, kernel_VD, preferred_element_type=jnp.float32)
    if bias_V is not None:
        logits_BCV += bias_V.astype(jnp.float32)[None, None]
    targets_BC = jnp.clip(targets_BC, 0, vocab - 1)
    peak_BC1 = logits_BCV.max(axis=-1, keepdims=True)
    if vocab_axes:
        peak_BC1 = jax.lax.pmax(peak_BC1, vocab_axes)
    exp_BCV = jnp.exp(logits_BCV - peak_BC1)
    targets_BC, here_BC = rows_here(targets_BC, kernel_VD.shape[0], vocab_axes)
    target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)[..., 0]
    if here_BC is not None:
        target_BC = jnp.where(here_BC, target_BC, jnp.float32(0))
    sum_BC1, target_BC, sum_BC = summed_along(
        (exp_BCV.sum(axis=-1, keepdims=True), target_BC, logits_BCV.sum(axis=-1) if smooth and parts > 1 else None),
        vocab_axes,
    )
    logz_BC = (peak_BC1 + jnp.log(sum_BC1))[..., 0]

    nll_BC = logz_BC - target_BC
    z_BC = z * jnp.square(logz_BC)
    loss_BC = nll_BC + z_BC
    if smooth:
        mean_BC = logits_BCV.mean(axis=-1) if sum_BC is None else sum_BC / vocab
        loss_BC = (1 - smooth) * nll_BC + smooth * (logz_BC - mean_BC) + z_BC
    correct_BC = (target_BC >= peak_BC1[..., 0]).astype(jnp.float32)
    sums = _Sums(*((values_BC * weights_BC).sum() for values_BC in (loss_BC, nll_BC, z_BC, correct_BC)))
    if not with_gradients:
        return sums, None

    factor_BC = weights_BC * (1 + 2 * z * logz_BC)
    dlogits_BCV = exp_BCV * (factor_BC[..., None] / sum_BC1)
    if smooth:
        dlogits_BCV -= (smooth / vocab) * weights_BC[..., None]
    amount_BC = (1 - smooth) * weights_BC
    if here_BC is not None:
        amount_BC = jnp.where(here_BC, amount_BC, jnp.float32(0))
    dlogits_BCV = _subtract_at(dlogits_BCV, targets_BC, amount_BC)
    dbias = None if bias_V is None else dlogits_BCV.sum(axis=(0, 1))
    dlogits_BCV = dlogits_BCV.astype(dtype)
    dhidden = jnp.einsum("BCV,VD->BCD", dlogits_BCV, kernel_VD)
    dkernel = jnp.einsum("BCV,BCD->VD", dlogits_BCV, hidden_BCD, preferred_element_type=jnp.float32)
    return sums, _Gradients(dhidden, dkernel, dbias)


def _subtract_at(x_BCV: jax.Array, targets_BC: jax.Array, amount_BC: jax.Array) -> jax.Array:
    """Returns `x_BCV` less `amount_BC` at each token's target.

    On a CPU a scatter, in place: comparing every word with the target makes the whole loss take twice as long. On an
    accelerator the comparison fuses away.
    """
    if target_platform() == "cpu":
        rows, columns = jnp.indices(targets_BC.shape, dtype=jnp.int32, sparse=True)
        return x_BCV.at[rows, columns, targets_BC].add(-amount_BC)
    hit_BCV = targets_BC[..., None] == jnp.arange(x_BCV.shape[-1], dtype=targets_BC.dtype)[None, None]
    return x_BCV - jnp.where(hit_BCV, amount_BC[..., None], jnp.float32(0))
