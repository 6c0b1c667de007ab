"""Decoding rules, applied to the scores of next tokens inside the compiled loop.

Every function here is one logits processor of Hugging Face Transformers' `generate`. The values of rules (penalties,
tokens) are traced, so that other values of the same rules share a program; which rules there are, and the sizes of
n-grams, are static.

Shape letters: B batch, R rows, V vocabulary, S tokens read, L tokens so far with room for those to come, W sequences of
up to C tokens, E stop tokens.
"""

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from transformer.inference.rules import DecodingRules

NOTHING = -1
"""Stands in a row of tokens where there is no token."""


def until_nothing(tokens: list[int]) -> list[int]:
    """Returns the tokens before the first place without one."""
    return tokens[: tokens.index(NOTHING)] if NOTHING in tokens else tokens


class Sequences(struct.PyTreeNode):
    """Sequences of tokens whose last one gets a bias where the text ends with the others."""

    before_WC: jax.Array
    """int32: all but the last, padded with `NOTHING` on the left."""
    last_W: jax.Array
    bias_W: jax.Array

    @classmethod
    def of(cls, biased: Sequence[tuple[Sequence[int], float]]) -> Self | None:
        """Returns the sequences, or None if there is none."""
        if not biased:
            return None
        before = np.full((len(biased), max(len(tokens) for tokens, _ in biased) - 1), NOTHING, np.int32)
        for row, (tokens, _) in zip(before, biased, strict=True):
            row[len(row) + 1 - len(tokens) :] = tokens[:-1]
        last = np.asarray([tokens[-1] for tokens, _ in biased], np.int32)
        return cls(jnp.asarray(before), jnp.asarray(last), jnp.asarray([bias for _, bias in biased], jnp.float32))


class Processors(struct.PyTreeNode):
    """Rules as arrays, for some rows; None where a rule does nothing."""

    prompt_lengths_R: jax.Array
    """int32: number of tokens that a row's decoder reads before its first new one."""
    read_RS: jax.Array | None
    """int32: the source, or a decoder's prompt, `NOTHING` where there is none; None where no rule asks for it."""
    min_new_R: jax.Array | None
    """int32: least number of new tokens in a row."""
    max_new_R: jax.Array
    """int32: most new tokens in a row."""
    stop_E: jax.Array
    biased: Sequences | None
    encoder_repetition_penalty: jax.Array | None
    repetition_penalty: jax.Array | None
    bad_words: Sequences | None
    forced_first: jax.Array | None
    forced_last: jax.Array | None
    decay: tuple[jax.Array, jax.Array] | None
    suppressed: jax.Array | None
    suppressed_first: jax.Array | None
    ngram_size: int = struct.field(pytree_node=False)
    encoder_ngram_size: int = struct.field(pytree_node=False)
    removes_invalid: bool = struct.field(pytree_node=False)
    renormalizes: bool = struct.field(pytree_node=False)
    further: Any = None
    """A rule of one family's own, applied after the others: called as `Processors` is."""

    @classmethod
    def of(
        cls,
        rules: DecodingRules,
        *,
        stop_ids: Sequence[int],
        read: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        width: int,
        min_new: Sequence[int],
        max_new: Sequence[int],
    ) -> Self:
        """Returns the rules for a batch.

        Args:
          rules: the rules.
          stop_ids: tokens that end a continuation.
          read: each row's source, or a decoder's prompt.
          prompt_lengths: number of tokens that each row's decoder reads before its first new one.
          width: number of tokens that `read` is padded to.
          min_new: the least new tokens of each row.
          max_new: the most new tokens of each row.
        """
        read_RS = np.full((len(read), width), NOTHING, np.int32)
        for row, tokens in zip(read_RS, read, strict=True):
            row[: len(tokens)] = tokens
        reads = rules.encoder_repetition_penalty != 1.0 or rules.encoder_no_repeat_ngram_size > 0
        # As in `generate`, a bad word that is a stop token alone does not forbid it.
        bad = [word for word in rules.bad_words_ids if word not in [(stop,) for stop in stop_ids]]
        first, decay = rules.forced_bos_token_id, rules.exponential_decay_length_penalty
        return cls(
            prompt_lengths_R=_ids(prompt_lengths),
            read_RS=jnp.asarray(read_RS) if reads else None,
            min_new_R=_ids(min_new) if max(min_new) > 0 else None,
            max_new_R=_ids(max_new),
            stop_E=_ids(stop_ids),
            biased=Sequences.of(rules.sequence_bias),
            encoder_repetition_penalty=_unless_one(rules.encoder_repetition_penalty),
            repetition_penalty=_unless_one(rules.repetition_penalty),
            bad_words=Sequences.of([(word, -np.inf) for word in bad]),
            forced_first=None if first is None else _ids([first]),
            forced_last=_ids(rules.forced_eos_token_id) if rules.forced_eos_token_id else None,
            decay=None if decay is None else (jnp.int32(decay[0]), jnp.float32(decay[1])),
            suppressed=_ids(rules.suppress_tokens) if rules.suppress_tokens else None,
            suppressed_first=_ids(rules.begin_suppress_tokens) if rules.begin_suppress_tokens else None,
            ngram_size=rules.no_repeat_ngram_size,
            encoder_ngram_size=rules.encoder_no_repeat_ngram_size,
            removes_invalid=rules.remove_invalid_values,
            renormalizes=rules.renormalize_logits,
        )

    def repeat(self, num: int) -> Self:
        """Returns the same for `num` rows in place of each."""
        return self.replace(**jax.tree.map(lambda array: jnp.repeat(array, num, axis=0), self._of_rows()))

    def put(self, other: Self, rows_K: jax.Array) -> Self:
        """Returns the same with another's rows in place of those with the numbers int32 [K]; of none: left out."""
        replaced = lambda mine, theirs: mine.at[rows_K].set(theirs, mode="drop")  # noqa: E731
        return self.replace(**jax.tree.map(replaced, self._of_rows(), other._of_rows()))

    def each(self, scores_RV: jax.Array, history_RL: jax.Array, index_R: jax.Array, end_R: jax.Array) -> jax.Array:
        """Returns what `__call__` does, for rows that have come unequally far: each has its own `index` and `end`."""

        def of_one(of_row: dict[str, Any], scores_V, history_L, index, end) -> jax.Array:
            alone = self.replace(**jax.tree.map(lambda array: array[None], of_row))
            return alone(scores_V[None], history_L[None], index, end)[0]

        return jax.vmap(of_one)(self._of_rows(), scores_RV, history_RL, index_R, end_R)

    def _of_rows(self) -> dict[str, jax.Array | None]:
        return {name: getattr(self, name) for name in ("prompt_lengths_R", "read_RS", "min_new_R", "max_new_R")}

    def __call__(self, scores_RV: jax.Array, history_RL: jax.Array, index: jax.Array, end: jax.Array) -> jax.Array:
        """Returns the scores of next tokens after all rules, in the order of `generate`.

        Args:
          scores_RV: float32: logits, or a beam search's log-probabilities.
          history_RL: int32: the tokens so far, `NOTHING` where there is none; each row's last one at `end` - 1.
          index: int32 scalar: number of new tokens so far.
          end: int32 scalar: number of places of the history in use.
        """
        if self.biased is not None:
            scores_RV = add_bias(scores_RV, history_RL, end, self.biased)
        if self.encoder_repetition_penalty is not None and self.read_RS is not None:
            scores_RV = penalize(scores_RV, self.read_RS, 1 / self.encoder_repetition_penalty)
        if self.repetition_penalty is not None:
            scores_RV = penalize(scores_RV, history_RL, self.repetition_penalty)
        if self.ngram_size > 0:
            scores_RV = ban_ngrams(scores_RV, history_RL, history_RL, end, self.ngram_size)
        if self.encoder_ngram_size > 0 and self.read_RS is not None:
            scores_RV = ban_ngrams(scores_RV, self.read_RS, history_RL, end, self.encoder_ngram_size)
        if self.bad_words is not None:
            scores_RV = add_bias(scores_RV, history_RL, end, self.bad_words)
        if self.min_new_R is not None:
            scores_RV = ban(scores_RV, self.stop_E, index < self.min_new_R)
        starts_alone_R = self.prompt_lengths_R == 1
        if self.forced_first is not None:
            scores_RV = force(scores_RV, self.forced_first, starts_alone_R & (index == 0))
        if self.forced_last is not None:
            scores_RV = force(scores_RV, self.forced_last, index + 1 == self.max_new_R)
        if self.removes_invalid:
            limits = jnp.finfo(scores_RV.dtype)
            scores_RV = jnp.nan_to_num(scores_RV, nan=0.0, posinf=limits.max, neginf=limits.min)
        if self.decay is not None:
            scores_RV = favour_stops(scores_RV, self.stop_E, index, *self.decay)
        if self.suppressed is not None:
            scores_RV = ban(scores_RV, self.suppressed)
        if self.suppressed_first is not None:
            # After a token that was forced to be first, the next one counts as the first.
            first_R = jnp.where(starts_alone_R, 0 if self.forced_first is None else 1, 0)
            scores_RV = ban(scores_RV, self.suppressed_first, index == first_R)
        if self.further is not None:
            scores_RV = self.further(scores_RV, history_RL, index, end)
        return jax.nn.log_softmax(scores_RV, axis=-1) if self.renormalizes else scores_RV


def penalize(scores_RV: jax.Array, history_RL: jax.Array, penalty: float | jax.Array) -> jax.Array:
    """Returns the scores, those of tokens in the row's history divided by the penalty, or multiplied if negative.

    Keskar et al. 2019 (CTRL), section 4.1, which always divides; the sign as in Transformers' `generate`.
    """
    seen_RV = _marked(scores_RV.shape, history_RL)
    return jnp.where(seen_RV, jnp.where(scores_RV > 0, scores_RV / penalty, scores_RV * penalty), scores_RV)


def ban_ngrams(
    scores_RV: jax.Array, source_RS: jax.Array, history_RL: jax.Array, end: jax.Array, size: int
) -> jax.Array:
    """Returns the scores, -inf where a token would complete `size` tokens in a row that are in the row's source."""
    windows = source_RS.shape[1] - size + 1
    if windows < 1:
        return scores_RV
    last_RS = source_RS[:, size - 1 :]
    matches_RS = last_RS != NOTHING
    for place in range(size - 1):
        token_R = _token_at(history_RL, end - (size - 1) + place)
        window_RS = source_RS[:, place : place + windows]
        matches_RS &= (window_RS == token_R[:, None]) & (window_RS != NOTHING)
    return jnp.where(_marked(scores_RV.shape, jnp.where(matches_RS, last_RS, NOTHING)), -jnp.inf, scores_RV)


def add_bias(scores_RV: jax.Array, history_RL: jax.Array, end: jax.Array, biased: Sequences) -> jax.Array:
    """Returns the scores with the sequences' biases, where the history ends with all but their last tokens."""
    count, before = biased.before_WC.shape
    matches_RW = jnp.ones((scores_RV.shape[0], count), bool)
    for place in range(before):
        wanted_W = biased.before_WC[:, place]
        token_R = _token_at(history_RL, end - before + place)
        matches_RW &= (wanted_W == NOTHING)[None] | (wanted_W[None] == token_R[:, None])
    bias_RW = jnp.where(matches_RW, biased.bias_W[None], 0.0)
    return scores_RV + jnp.zeros_like(scores_RV).at[:, biased.last_W].add(bias_RW)


def ban(scores_RV: jax.Array, tokens: jax.Array, where_R: jax.Array | bool = True) -> jax.Array:
    """Returns the scores, -inf for the tokens, in the rows `where_R`."""
    banned_V = jnp.zeros(scores_RV.shape[1:], bool).at[tokens].set(True, mode="drop")
    return jnp.where(banned_V[None] & jnp.reshape(where_R, (-1, 1)), -jnp.inf, scores_RV)


def force(scores_RV: jax.Array, tokens: jax.Array, where_R: jax.Array) -> jax.Array:
    """Returns the scores, in the rows `where_R` 0 for the tokens and -inf for all others."""
    forced_V = jnp.full(scores_RV.shape[1:], -jnp.inf, scores_RV.dtype).at[tokens].set(0.0)
    return jnp.where(where_R[:, None], forced_V[None], scores_RV)


def favour_stops(
    scores_RV: jax.Array, stop_E: jax.Array, index: jax.Array, start: jax.Array, factor: jax.Array
) -> jax.Array:
    """Returns the scores; those of stop tokens grow with the tokens said after `start`, by a part of their size."""
    is_stop_V = jnp.zeros(scores_RV.shape[1:], bool).at[stop_E].set(True, mode="drop")
    growth_RV = jnp.abs(scores_RV) * (factor ** (index - start).astype(jnp.float32) - 1)
    grows_RV = is_stop_V[None] & jnp.isfinite(scores_RV) & (index > start)
    return jnp.where(grows_RV, scores_RV + growth_RV, scores_RV)


def _marked(shape: tuple[int, ...], tokens_RL: jax.Array) -> jax.Array:
    """Returns bool [R, V]: whether a token is among the row's."""
    rows_R1 = jnp.arange(shape[0], dtype=jnp.int32)[:, None]
    # NOTHING would count from the end: it is sent out of range, where nothing is written.
    index_RL = jnp.where(tokens_RL == NOTHING, shape[1], tokens_RL)
    return jnp.zeros(shape, bool).at[rows_R1, index_RL].set(True, mode="drop")


def _token_at(history_RL: jax.Array, place: jax.Array) -> jax.Array:
    """Returns the rows' tokens at a place, int32 [R]; `NOTHING` before the beginning."""
    token_R = jax.lax.dynamic_index_in_dim(history_RL, jnp.maximum(place, 0), axis=1, keepdims=False)
    return jnp.where(place < 0, NOTHING, token_R)


def _ids(values: Sequence[int]) -> jax.Array:
    return jnp.asarray(np.asarray(values, np.int32))


def _unless_one(penalty: float) -> jax.Array | None:
    return None if penalty == 1.0 else jnp.float32(penalty)
