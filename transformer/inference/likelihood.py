"""Log-likelihoods of tokens, given those before them, by a decoder on a mesh; and how a long text is cut in windows.

Shape letters: B batch, T length, C scored places, D model width, V vocabulary.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rows import batches, padded, round_up
from transformer.parallel.layout import BatchLayout, batch_divisor
from transformer.parallel.mesh import MeshConfig, make_mesh

_CHUNK = 32  # places whose logits exist at a time


class Continuation(NamedTuple):
    """Tokens to score, after others that are only read."""

    context: Sequence[int]
    """At least one token."""
    tokens: Sequence[int]
    """At least one token."""


class Likelihood(NamedTuple):
    """What a model makes of a continuation."""

    log_likelihood: float
    """Sum over its tokens, nats."""
    is_greedy: bool
    """Whether each of them is the likeliest one in its place."""


class LikelihoodModel:
    """A decoder that scores tokens: batched, sorted by length, and in few shapes, so that few programs are compiled.

    Args:
      restored: a decoder with the head of next words, on `mesh`.
      mesh: the devices that its weights are on; None: the one device of `restore`.
      batch_size: rows that are read together, rounded up to what the mesh divides.

    Raises:
      UserError: it is another model.
    """

    def __init__(self, restored: Restored, mesh: Mesh | None = None, batch_size: int = 16):
        architecture = restored.architecture
        if architecture.kind != "decoder" or architecture.head != "language_model":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model with the head {architecture.head}: only "
                "decoders with the head language_model score texts"
            )
        self._model, self._params = restored.model, restored.params
        self.mesh = make_mesh(MeshConfig(data=1)) if mesh is None else mesh
        self._layout = BatchLayout(self.mesh, round_up(batch_size, batch_divisor(self.mesh)))
        self.context: int = restored.model.config.context_length
        """Tokens that it reads at once, at most."""

    def __call__(self, continuations: Sequence[Continuation], *, progress: bool = False) -> list[Likelihood]:
        """Returns the likelihood of each continuation; a context that is too long loses its first tokens.

        Raises:
          UserError: a continuation, or a context, without a token; more tokens than the model reads at once.
        """
        rows = [self._row(*continuation) for continuation in continuations]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]), reverse=True)
        found: list[Likelihood] = [Likelihood(0.0, True)] * len(rows)
        with tqdm(total=len(rows), unit="text", desc="score", disable=not progress) as bar, jax.set_mesh(self.mesh):
            for chosen, filled in batches(order, self._layout.batch_size):
                # The last rows, of a batch that is not full, are read again.
                filled = list(itertools.islice(itertools.cycle(filled), self._layout.batch_size))
                sums, greedy = self._scores([rows[index] for index in filled])
                for index, log_likelihood, is_greedy in zip(chosen, sums.tolist(), greedy.tolist(), strict=False):
                    found[index] = Likelihood(log_likelihood, is_greedy)
                bar.update(len(chosen))
        return found

    def _row(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], int]:
        """Returns the tokens that are read and the last one's successor, and how many of them are scored."""
        if not len(context) or not len(tokens):
            raise UserError("a text to score has no token, or none before it: give at least one of each")
        if len(tokens) > self.context:
            raise UserError(f"a continuation has {len(tokens)} tokens and the model's context holds {self.context}")
        return [*context, *tokens][-(self.context + 1) :], len(tokens)

    def _scores(self, rows: Sequence[tuple[list[int], int]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sums of log-likelihoods, float32 [B], and whether the tokens are the likeliest, bool [B]."""
        width = min(bucket(max(len(row) for row, _ in rows) - 1), self.context)
        tokens_BT, segment_ids_BT = padded([row[:-1] for row, _ in rows], width)
        scored = bucket(max(count for _, count in rows))
        places_BC, targets_BC = np.zeros((2, len(rows), scored), np.int32)
        weights_BC = np.zeros((len(rows), scored), np.float32)
        for number, (row, count) in enumerate(rows):
            places_BC[number, :count] = np.arange(len(row) - 1 - count, len(row) - 1)
            targets_BC[number, :count] = row[-count:]
            weights_BC[number, :count] = 1
        batch = self._layout.place((tokens_BT, segment_ids_BT, places_BC, targets_BC, weights_BC))
        return jax.device_get(_score(self._model, self._params, *batch))


def bucket(length: int) -> int:
    """Returns the next of 32, 64, 96, 128, 192, 256, 384, ...: few shapes, and at most half of one is padding."""
    power = max(1 << (length - 1).bit_length(), _CHUNK)
    return 3 * power // 4 if power > 2 * _CHUNK and length <= 3 * power // 4 else power


@functools.partial(jax.jit, static_argnames=("model",))
def _score(
    model: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    places_BC: jax.Array,
    targets_BC: jax.Array,
    weights_BC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns sums of log-likelihoods, float32 [B], and whether all targets are the likeliest, bool [B]."""
    outputs: Any = model.apply({"params": params}, tokens=tokens_BT, segment_ids=segment_ids_BT)
    hidden_BCD = jnp.take_along_axis(outputs.hidden_BTD, places_BC[:, :, None], axis=1)
    batch, chunks = hidden_BCD.shape[0], hidden_BCD.shape[1] // _CHUNK

    def part(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_BCD, targets_BC, weights_BC = chunk
        logits_BCV = dataclasses.replace(outputs, hidden_BTD=hidden_BCD).logits
        own_BC = jnp.take_along_axis(logits_BCV, targets_BC[:, :, None], axis=2)[:, :, 0]
        log_likelihood_BC = own_BC - jax.nn.logsumexp(logits_BCV, axis=2)
        is_best_BC = jnp.argmax(logits_BCV, axis=2).astype(jnp.int32) == targets_BC
        return (log_likelihood_BC * weights_BC).sum(axis=1), (is_best_BC | (weights_BC == 0)).all(axis=1)

    split = lambda x: jnp.moveaxis(x.reshape(batch, chunks, _CHUNK, *x.shape[2:]), 1, 0)  # noqa: E731
    sums, best = jax.lax.map(part, (split(hidden_BCD), split(targets_BC), split(weights_BC)))
    return sums.sum(axis=0), best.all(axis=0)


def disjoint_windows(tokens: Sequence[int], context: int, begin: int) -> Iterator[Continuation]:
    """Yields continuations that together score every token of a text once: the harness' rolling windows.

    Each is as long as the model reads at once; the last has the tokens before it as context, as many as fit.

    Args:
      tokens: of a text.
      context: tokens that the model reads at once.
      begin: the token that the first one is given.
    """
    first = tokens[:context]
    if first:
        yield Continuation([begin], first)
    for start in range(len(first), len(tokens), context):
        end = min(start + context, len(tokens))
        yield Continuation(tokens[end - context - 1 : start], tokens[start:end])


def strided_windows(tokens: Sequence[int], context: int, stride: int) -> Iterator[Continuation]:
    """Yields continuations that together score every token of a text but the first once, `stride` of them at a time.

    The windows of Transformers' guide to perplexity: each is `context` tokens long and begins `stride` after the one
    before, and its tokens that no window had before are scored. So each has context - stride tokens before it or more,
    but for those of the first window.

    Raises:
      UserError: a stride that leaves tokens out, or a text of a single token.
    """
    if not 1 <= stride <= context:
        raise UserError(f"--stride {stride}: give 1 to {context}, the tokens that the model reads at once")
    if len(tokens) < 2:
        raise UserError("a text of fewer than two tokens has no perplexity: give a longer one")
    scored = 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        if scored < end:
            # With a stride as long as the context, a window's first token has none before it: it is the last one of the
            # window before that it is given.
            yield Continuation(tokens[min(begin, scored - 1) : scored], tokens[scored:end])
            scored = end


class Perplexity(NamedTuple):
    """What a model makes of a text."""

    loss: float
    """Nats a token."""
    tokens: int
    """Tokens that were scored: all but the first."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def strided_perplexity(model: LikelihoodModel, tokens: Sequence[int], context: int, stride: int) -> Perplexity:
    """Returns the mean over the tokens of a text, in `strided_windows`.

    Raises:
      UserError: a context or a stride that cannot be, or a text of a single token.
    """
    if not 2 <= context <= model.context:
        raise UserError(f"--context {context}: give 2 to {model.context}, the tokens that the model reads at once")
    found = model(list(strided_windows(tokens, context, stride)), progress=True)
    return Perplexity(-math.fsum(part.log_likelihood for part in found) / (len(tokens) - 1), len(tokens) - 1)
