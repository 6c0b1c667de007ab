"""Decoding, for every model that generates: it reads its rows once, then emits a token at a time.

Shape letters: B batch, P tokens of a prompt, M beams, R = B * num rows, L tokens of a continuation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from transformer.errors import UserError
from transformer.inference import speculative
from transformer.inference.beam_search import BeamSearch, beam_search
from transformer.inference.drawing import draw
from transformer.inference.processors import Processors, until_nothing
from transformer.inference.rows import padded, round_up
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.speculative import Draft


@dataclasses.dataclass(frozen=True)
class Generated:
    """A continuation of a row, or an answer to it."""

    tokens: list[int]
    """Tokens without the prompt and without the stop token."""
    score: float | None
    """Score of a beam search: log-probability / length ** length_penalty, the stop token counted; None where drawn or
    greedy."""


def generate(
    model: nn.Module,
    params: Any,
    texts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    min_new_tokens: int | Sequence[int] = 0,
    how: Sampling | BeamSearch = Sampling(),
    rules: DecodingRules = DecodingRules(),
    num: int = 1,
    seed: int = 0,
    places: Sequence[int] | None = None,
    stop_ids: Sequence[int] = (),
    start_id: int | None = None,
    prefix: bool = False,
    draft: Draft | None = None,
) -> list[list[Generated]]:
    """Returns `num` continuations of each text; by an encoder-decoder, that many answers to it. The best come first.

    A continuation ends at a stop token, after `max_new_tokens`, or where the longest text's context is full.

    Args:
      model: a decoder or an encoder-decoder, with a head of next words; `params`: its weights.
      texts: token ids, of any lengths, at least one each: the prompts of a decoder, or the sources of an encoder.
      max_new_tokens: the most new tokens, one number or a number for each text.
      min_new_tokens: the least tokens before a stop token, one number or a number for each text.
      how: the settings of sampling, or of a beam search.
      rules: rules that change scores before a token is chosen.
      num: number of continuations for each text; with a beam search, at most its beams.
      seed: seed of sampling; the same seed, texts and settings give the same tokens.
      places: the texts' numbers in the whole input of which they are a batch: draws for a text depend on the seed and
        its number alone, not on the batch. None: 0, 1, ...
      stop_ids: the tokens that end a text.
      start_id: the token that an encoder-decoder's answers begin after; None: its architecture's.
      prefix: a decoder reads the texts from both sides, as a prefix language model has learnt to.
      draft: a small model that proposes tokens, which the model accepts or not: what is said is distributed as without.

    Raises:
      UserError: an empty text, a text that leaves no room in the model's context, more continuations than beams, a
        rule about tokens that the model does not have, or a draft that cannot propose to it, or to a beam search.
    """
    max_new, min_new = _each(max_new_tokens, texts), _each(min_new_tokens, texts)
    check_numbers(texts, min(max_new), num, how)
    if isinstance(how, BeamSearch) and how.beams == 1:
        how = Sampling(temperature=0)
    rules.check_ids(model.config.vocab_size)
    answers = model.config.kind == "encoder_decoder"
    width, max_new = fitting(texts, model.config.longest_input, max_new, answers)
    if answers:
        inputs: Any = _answered(texts, width, model.config.decoder_start_id if start_id is None else start_id)
    else:
        inputs = continued_inputs(texts, width, prefix)
    stops = tuple(sorted(set(stop_ids)))
    processors = Processors.of(
        rules,
        stop_ids=stops,
        read=texts,
        prompt_lengths=[1 if answers else len(text) for text in texts],
        width=width,
        min_new=min_new,
        max_new=max_new,
    )
    if isinstance(how, BeamSearch):
        if draft is not None:
            raise UserError(f"{how.beams} beams and a draft, which proposes to one: leave out one of them")
        said_BML, scores_BM = beam_search(model, params, inputs, how=how, stop_ids=stops, processors=processors)
        found = zip(np.asarray(said_BML)[:, :num].tolist(), np.asarray(scores_BM)[:, :num].tolist(), strict=True)
        return [
            [Generated(until_nothing(tokens), score) for tokens, score in zip(*text, strict=True)] for text in found
        ]
    numbers = np.arange(len(texts)) if places is None else np.asarray(places)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers.astype(np.int32))
    drawn_by = keys_B, processors, how, num, stops
    if draft is None:
        said_RL, _ = draw(model, params, inputs, *drawn_by)
    else:
        said_RL = speculative.draw(model, params, draft, inputs, *drawn_by)
    drawn = [Generated(until_nothing(tokens), None) for tokens in np.asarray(said_RL).tolist()]
    return [drawn[first : first + num] for first in range(0, len(drawn), num)]


def check_numbers(texts: Sequence[Sequence[int]], max_new: int, num: int, how: Sampling | BeamSearch) -> None:
    """Raises UserError for an empty text, or numbers of tokens and continuations that cannot be."""
    if min(len(text) for text in texts) == 0:
        raise UserError("a text has no token: give at least one")
    if max_new < 1:
        raise UserError(f"{max_new} new tokens asked for: it must be at least 1")
    if num < 1:
        raise UserError(f"{num} continuations asked for: it must be at least 1")
    if isinstance(how, BeamSearch) and num > how.beams:
        raise UserError(f"{num} continuations asked for and {how.beams} beams: raise --beams to at least {num}")


def fitting(
    texts: Sequence[Sequence[int]], context: int | None, max_new: list[int], answers: bool
) -> tuple[int, list[int]]:
    """Returns how wide the texts' rows are, and the most new tokens of each that the context has room for; UserError
    where a text leaves none.
    """
    longest = max(len(text) for text in texts)
    if context is None:
        return round_up(longest), max_new
    if longest > context - (not answers):
        raise UserError(f"a text has {longest} tokens and the model's context holds {context}: shorten the text")
    return min(round_up(longest), context), [min(number, context - (0 if answers else longest)) for number in max_new]


def _answered(texts: Sequence[Sequence[int]], width: int, start_id: int) -> dict[str, np.ndarray]:
    """Returns the inputs of an encoder-decoder: the texts, and the token that answers begin after."""
    source, source_segment_ids = padded(texts, width)
    prompt = np.full((len(texts), 1), start_id, np.int32)
    inputs = {"prompt": prompt, "prompt_segment_ids": np.ones_like(prompt)}
    return inputs | {"source": source, "source_segment_ids": source_segment_ids}


def continued_inputs(texts: Sequence[Sequence[int]], width: int, prefix: bool) -> dict[str, np.ndarray]:
    """Returns the inputs of a decoder: the texts, read from both sides with `prefix`."""
    # Padded on the left, so that every row's next token goes to the same slot of the cache.
    prompt, prompt_segment_ids = padded(texts, width, left=True)
    inputs = {"prompt": prompt, "prompt_segment_ids": prompt_segment_ids}
    return inputs | ({"prefix": prompt_segment_ids} if prefix else {})


def _each(number: int | Sequence[int], texts: Sequence[Sequence[int]]) -> list[int]:
    return [number] * len(texts) if isinstance(number, int) else list(number)
