"""Losses of words' scores: hidden states and the unembedding in, sums out, and never all scores at a time.

The gradient is computed in the forward pass, chunk by chunk, and only scaled in the backward pass. So no chunk's logits
outlive it and none are computed twice (as rematerialisation would). Evaluation, which takes no gradient, computes none.

On a mesh, each device takes its own rows and its own part of the sequence, in chunks of its own; the vocabulary may be
split too. The unembedding is gathered once, before the chunks, in the compute dtype; its gradient is added up in
float32 on each device, and reduced over devices once, after the chunks. The compiler would do both in every chunk.

Shape letters: B batch, T length, D model width, V vocabulary, C chunk.
"""

import functools
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.ops.outer import summed_outer
from transformer.parallel.local import divides, dividing_axes, on_parts, scattered_sum, splitting_axes, summed_along


class Words(NamedTuple):
    """Scores of words, not multiplied out."""

    hidden_BTD: jax.Array
    """Its dtype is that of the matrix products."""
    kernel_VD: jax.Array
    """The unembedding, a row a word; best in float32, as its gradient comes back in its dtype."""
    bias_V: jax.Array | None = None
    """Added to the scores."""

    def scores(self) -> jax.Array:
        """Returns float32 [B, T, V]: products in the dtype of the hidden states, summed in float32."""
        scores_BTV = jnp.einsum("BTD,VD->BTV", self.hidden_BTD, self.kernel_VD, preferred_element_type=jnp.float32)
        return scores_BTV if self.bias_V is None else scores_BTV + self.bias_V.astype(jnp.float32)[None, None]


class WordLoss(Protocol):
    """A loss of scores; hashable, for it is compiled with."""

    sums: ClassVar[Any]
    """NamedTuple of the float32 scalars that it returns."""

    def __call__(
        self,
        scores_BCV: jax.Array,
        teacher_BCV: Any,
        per_token: Any,
        vocab_axes: tuple[str, ...],
        *,
        with_gradients: bool,
    ) -> tuple[Any, jax.Array | None]:
        """Returns the sums over tokens and, if asked, the first one's gradient by the scores, float32 [B, C, V].

        Args:
          scores_BCV: float32, of this device's part of the vocabulary.
          teacher_BCV: a teacher's, likewise; None: there is none.
          per_token: tree of [B, C] arrays: what else the loss reads.
          vocab_axes: mesh axes that split the vocabulary.
          with_gradients: whether a gradient is wanted.
        """
        ...


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
    teacher_embed: tuple[str, ...] = ()
    """Split that of the teacher's."""


def word_loss(loss: WordLoss, words: Words, teacher: Words | None, per_token: Any, *, chunk: int | None) -> Any:
    """Returns a loss's sums over all tokens; the first one has a gradient, by `words`.

    Args:
      loss: what is summed.
      words: the scores, not multiplied out.
      teacher: those of a teacher, of the same words, which get no gradient.
      per_token: tree of [B, T] arrays, of which each token's loss gets its own; not differentiated.
      chunk: positions of the length axis taken at a time, so that B * chunk * V scores live at once; None: all.
    """
    return _sums((loss, chunk), words, teacher, per_token)


_Settings = tuple[WordLoss, int | None]
"""The loss, and the chunk."""


def _sums_only(settings: _Settings, words: Words, teacher: Words | None, per_token: Any) -> Any:
    return _on_mesh(settings, words, teacher, per_token, with_gradients=False)[0]


def _sums_forward(settings: _Settings, words: Words, teacher: Words | None, per_token: Any):
    return _on_mesh(settings, words, teacher, per_token, with_gradients=True)


def _sums_backward(settings: _Settings, gradients: _Gradients, cotangent: Any):
    del settings
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * cotangent[0]).astype(g.dtype), gradients)
    return Words(*scaled), None, None


_sums = jax.custom_vjp(_sums_only, nondiff_argnums=(0,))
_sums.defvjp(_sums_forward, _sums_backward)


def _on_mesh(settings: _Settings, words: Words, teacher: Words | None, per_token: Any, *, with_gradients: bool):
    """Returns the sums and the gradients (None without), each device taking its part."""
    split = _split(words, teacher)
    local = functools.partial(_on_device, settings, split, with_gradients=with_gradients)
    if not any(split):
        return local(words, teacher, per_token)

    def specs(words: Words, embed: tuple[str, ...]) -> Words:
        bias = None if words.bias_V is None else PartitionSpec(split.vocab)
        return Words(PartitionSpec(split.batch, split.length, None), PartitionSpec(split.vocab, embed), bias)  # type: ignore[arg-type]

    own = specs(words, split.embed)
    of_teacher = None if teacher is None else specs(teacher, split.teacher_embed)
    of_tokens = jax.tree.map(lambda _: PartitionSpec(split.batch, split.length), per_token)
    gradients = _Gradients(*own) if with_gradients else None
    return on_parts(local, (own, of_teacher, of_tokens), (PartitionSpec(), gradients))(words, teacher, per_token)


def _split(words: Words, teacher: Words | None) -> _Split:
    """Returns what splits the arrays on the mesh of today; nothing where it does not divide the batch."""
    batch = splitting_axes("activation_batch")
    if not divides(batch, words.hidden_BTD.shape[0]):
        return _Split()
    vocab, width = words.kernel_VD.shape
    return _Split(
        batch,
        dividing_axes("activation_length", words.hidden_BTD.shape[1]),
        dividing_axes("vocab", vocab),
        dividing_axes("embed", width),
        () if teacher is None else dividing_axes("embed", teacher.kernel_VD.shape[1]),
    )


def _gathered(words: Words, embed: tuple[str, ...]) -> Words:
    """Returns the words with this device's rows of the unembedding, whole, in the dtype of the products."""
    kernel_VD = words.kernel_VD.astype(words.hidden_BTD.dtype)
    if embed:
        kernel_VD = jax.lax.all_gather(kernel_VD, embed, axis=1, tiled=True)
    return words._replace(kernel_VD=kernel_VD)


def _on_device(
    settings: _Settings, split: _Split, words: Words, teacher: Words | None, per_token: Any, *, with_gradients: bool
):
    """Returns the sums of all devices and this one's part of the gradients, from its parts of the arrays."""
    kernel_dtype, bias_V = words.kernel_VD.dtype, words.bias_V
    words = _gathered(words, split.embed)
    teacher = None if teacher is None else _gathered(teacher, split.teacher_embed)
    sums, gradients = _over_chunks(settings, split.vocab, words, teacher, per_token, with_gradients=with_gradients)
    tokens = split.batch + split.length
    sums = summed_along(sums, tokens)
    if gradients is None:
        return sums, None
    dhidden, dkernel, dbias = gradients
    if split.embed:
        dkernel = scattered_sum(dkernel, split.embed, dimension=1)
    dkernel = summed_along(dkernel, tuple(axis for axis in tokens if axis not in split.embed)).astype(kernel_dtype)
    dbias = None if dbias is None or bias_V is None else summed_along(dbias, tokens).astype(bias_V.dtype)
    return sums, _Gradients(summed_along(dhidden, split.vocab), dkernel, dbias)


def _over_chunks(
    settings: _Settings, vocab_axes, words: Words, teacher: Words | None, per_token: Any, *, with_gradients: bool
):
    """Returns the sums and the gradients (None without), one chunk of the length after another.

    Those of parameters are float32; that of the hidden states is of this device's part of the vocabulary.
    """
    loss, chunk = settings
    chunk_loss = functools.partial(_chunk, loss, vocab_axes, with_gradients=with_gradients)
    length = words.hidden_BTD.shape[1]
    if chunk is None or chunk >= length:
        return chunk_loss(words, teacher, per_token)

    count = -(-length // chunk)

    def split(x):  # [B, T, ...] -> [count, B, C, ...], the end padded with weight 0
        x = jnp.pad(x, [(0, 0), (0, count * chunk - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, chunk, *x.shape[2:]), 1, 0)

    def step(carry, xs):
        hidden_BCD, teacher_BCD, per_token = xs
        of_teacher = None if teacher is None else teacher._replace(hidden_BTD=teacher_BCD)
        sums, gradients = chunk_loss(words._replace(hidden_BTD=hidden_BCD), of_teacher, per_token)
        if gradients is None:
            return jax.tree.map(jnp.add, carry, (sums, None)), None
        return jax.tree.map(jnp.add, carry, (sums, gradients._replace(hidden=None))), gradients.hidden

    totals = None
    if with_gradients:
        bias = None if words.bias_V is None else jnp.zeros(words.bias_V.shape, jnp.float32)
        totals = _Gradients(None, jnp.zeros(words.kernel_VD.shape, jnp.float32), bias)
    parts = jax.tree.map(split, (words.hidden_BTD, None if teacher is None else teacher.hidden_BTD, per_token))
    zeros = [jnp.zeros((), jnp.float32)] * len(loss.sums._fields)
    (sums, totals), hidden = jax.lax.scan(step, (loss.sums(*zeros), totals), parts)
    if totals is None or hidden is None:
        return sums, None
    hidden = jnp.moveaxis(hidden, 0, 1).reshape(words.hidden_BTD.shape[0], count * chunk, -1)[:, :length]
    return sums, totals._replace(hidden=hidden)


def _chunk(
    loss: WordLoss, vocab_axes, words: Words, teacher: Words | None, per_token: Any, *, with_gradients: bool
) -> tuple[Any, _Gradients | None]:
    """Returns the sums of one chunk and, if asked, their gradients; V is this device's part of the vocabulary."""
    sums, dscores_BCV = loss(
        words.scores(),
        None if teacher is None else teacher.scores(),
        per_token,
        vocab_axes,
        with_gradients=with_gradients,
    )
    if dscores_BCV is None:
        return sums, None
    dbias = None if words.bias_V is None else dscores_BCV.sum(axis=(0, 1))
    dscores_BCV = dscores_BCV.astype(words.hidden_BTD.dtype)
    dhidden = jnp.einsum("BCV,VD->BCD", dscores_BCV, words.kernel_VD)
    dkernel = summed_outer(dscores_BCV, words.hidden_BTD, 2)
    return sums, _Gradients(dhidden, dkernel, dbias)
