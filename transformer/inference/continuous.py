"""Continuous batching: where a text has ended, the next one takes its row, and no row idles until all have ended (Yu et
al. 2022, "Orca", section 4.1).

All rows write to the same slots of the cache, whichever token of theirs it is (`KVCache`): a text that comes later has
its prompt's tokens in the slots before the next one, and empty ones before these.

Shape letters: R rows, K texts that come, L places of a row's tokens.
"""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.inference import incremental, slots
from transformer.inference.decode import check_numbers, continued_inputs, fitting
from transformer.inference.drawing import Rows, begin
from transformer.inference.processors import Processors, until_nothing
from transformer.inference.rows import MULTIPLE, filled, round_up
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling

_SHARE = 8
"""While texts wait, the newest of them are read as soon as a row in so many has ended: reading one at a time would take
a pass over all weights for each."""


class Text(NamedTuple):
    """A text to continue."""

    number: int
    """Its number in the whole input: draws depend on the seed and on this alone."""
    tokens: Sequence[int]
    max_new: int
    min_new: int


def applies(model: Any, rules: DecodingRules) -> bool:
    """Whether a model's texts can be continued so: it is a decoder that keeps all tokens, and no rule looks at a prompt
    apart from what was said.
    """
    reads = rules.encoder_repetition_penalty != 1.0 or rules.encoder_no_repeat_ngram_size > 0
    return model.config.kind == "decoder" and slots.rolling(model.config) is None and not reads


def continued(
    model: nn.Module,
    params: Any,
    texts: Sequence[Text],
    batch_size: int,
    *,
    how: Sampling,
    rules: DecodingRules,
    stop_ids: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, list[int]]]:
    """Yields the place among `texts` and the new tokens of each when it has ended: those of `decode.generate` alone.

    Args:
      model, params: a decoder that `applies`, and its weights.
      texts: more than `batch_size`, in any order.
      batch_size: rows.
      how, rules, stop_ids, seed: as `decode.generate`'s.

    Raises:
      UserError: as `decode.generate` does, before anything is read.
    """
    any_model: Any = model
    context = any_model.config.longest_input
    check_numbers([text.tokens for text in texts], min(text.max_new for text in texts), 1, how)
    rules.check_ids(any_model.config.vocab_size)
    rooms = [fitting([text.tokens], context, [text.max_new], False)[1] for text in texts]
    texts = [text._replace(max_new=max_new) for text, [max_new] in zip(texts, rooms, strict=True)]
    reader = _Reader(model, params, texts, how, rules, tuple(sorted(set(stop_ids))), seed)
    # The longest first: a prompt then hardly needs more slots than are in use, which leave a gap in the rows beside it.
    waiting = collections.deque(sorted(range(len(texts)), key=lambda place: len(texts[place].tokens), reverse=True))
    owners: list[int | None] = [waiting.popleft() for _ in range(batch_size)]
    width, places = reader.width(owners), reader.places
    rows, cache = reader.read(owners, places)
    begins = [width] * batch_size
    while True:
        most_ended = batch_size if not waiting else max(1, batch_size // _SHARE)
        rows, cache = _go_on(model, params, rows, cache, how, reader.stops, np.int32(most_ended))
        has_ended, said = np.asarray(rows.has_ended_R), np.asarray(rows.tokens_RL)
        for row, owner in enumerate(owners):
            if owner is not None and has_ended[row]:
                yield owner, until_nothing(said[row, begins[row] :].tolist())
                owners[row] = None
        free = [row for row, owner in enumerate(owners) if owner is None]
        if len(free) == batch_size and not waiting:
            return
        if int(cache.index) >= places:  # before others come: what they are put beside may have to move
            in_use_S = (np.asarray(cache.segment_ids_BS)[~has_ended] > 0).any(axis=0)
            live = places - int(in_use_S.argmax()) if in_use_S.any() else 0  # slots, from the first that a row needs
            if 4 * live > 3 * places and (context is None or places < round_up(context) + MULTIPLE):
                places = slots.enough(places + 1, context)
                cache = _grown(cache, places)
            else:
                cache = _without_oldest(cache, np.int32(places - live))
        if waiting and len(free) >= most_ended:
            chosen = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
            width = reader.width(chosen)
            come = filled(chosen, 1 << (len(chosen) - 1).bit_length())
            new_rows, new_cache = reader.read(come, width + MULTIPLE)
            at_K = np.full(len(come), batch_size, np.int32)  # of no row, where a text is there to fill up
            at_K[: len(chosen)] = free[: len(chosen)]
            rows, cache = _put(rows, cache, new_rows, new_cache, at_K, width)
            for row, text in zip(free, chosen, strict=False):
                owners[row], begins[row] = text, width


class _Reader:
    """Reads texts, and says the first token of each."""

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        texts: Sequence[Text],
        how: Sampling,
        rules: DecodingRules,
        stops: tuple[int, ...],
        seed: int,
    ):
        self._model, self._params, self._texts = model, params, texts
        self._how, self._rules, self.stops = how, rules, stops
        self._key = jax.random.key(seed)
        any_model: Any = model
        self._context = any_model.config.longest_input
        self.places = slots.enough(1 + round_up(max(len(text.tokens) for text in texts)), self._context)
        """Slots to begin with."""
        most = max(round_up(len(text.tokens)) + max(text.max_new, MULTIPLE) for text in texts)
        self._room = max(most, self.places)  # which any row's tokens have, whatever it is read with
        self._any_least = max(text.min_new for text in texts) > 0

    def width(self, numbers: Sequence[Any]) -> int:
        """Returns the width of the rows of the texts with these numbers."""
        return fitting([self._texts[number].tokens for number in numbers], self._context, [], False)[0]

    def read(self, numbers: Sequence[Any], places: int) -> tuple[Rows, Any]:
        """Returns the texts' rows, with room for the tokens of any of all texts, and a cache of so many slots."""
        texts, width = [self._texts[number] for number in numbers], self.width(numbers)
        tokens = [text.tokens for text in texts]
        processors = Processors.of(
            self._rules,
            stop_ids=self.stops,
            read=tokens,
            prompt_lengths=[len(each) for each in tokens],
            width=width,
            min_new=[text.min_new for text in texts],
            max_new=[text.max_new for text in texts],
        )
        if self._any_least and processors.min_new_R is None:  # of these none has a least
            processors = processors.replace(min_new_R=jnp.zeros_like(processors.max_new_R))
        places_K = np.array([text.number for text in texts], np.int32)
        keys_K = jax.vmap(jax.random.fold_in, (None, 0))(self._key, places_K)
        inputs: Any = continued_inputs(tokens, width, False)
        rows, cache = begin(
            self._model, self._params, inputs, keys_K, processors, places, self._how, 1, self.stops, False, None
        )
        return rows.resized(self._room), cache


@functools.partial(jax.jit, static_argnames=("model", "sampling", "stop_ids"), donate_argnames="cache")
def _go_on(
    model: nn.Module,
    params: Any,
    rows: Rows,
    cache: Any,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
    most_ended: jax.Array,
) -> tuple[Rows, Any]:
    """Returns the rows when so many have ended, or the cache is full, and the cache."""

    def goes_on(state: tuple[Rows, Any]) -> jax.Array:
        rows, cache = state
        return (rows.has_ended_R.sum() < most_ended) & (cache.index < cache.positions_BS.shape[1])

    def step(state: tuple[Rows, Any]) -> tuple[Rows, Any]:
        rows, cache = state
        logits_RV, cache = incremental.advance(model, params, rows.last_R, rows.position_R, cache)
        return rows.choose(logits_RV, sampling, stop_ids), cache

    return jax.lax.while_loop(goes_on, step, (rows, cache))


@functools.partial(jax.jit, static_argnames="width", donate_argnames="cache")
def _put(rows: Rows, cache: Any, new_rows: Rows, new_cache: Any, at_K: jax.Array, width: int) -> tuple[Rows, Any]:
    return rows.put(new_rows, at_K), cache.put(new_cache, at_K, width)


@functools.partial(jax.jit, static_argnames="places")
def _grown(cache: Any, places: int) -> Any:
    return cache.resized(places)


@functools.partial(jax.jit, donate_argnames="cache")
def _without_oldest(cache: Any, count: jax.Array) -> Any:
    return cache.without_oldest(count)
