"""Decoding, for every model that generates: it reads its rows once, then emits a token at a time, in one program.

Shape letters: B batch, P tokens of a prompt, R = B * num rows, L tokens of a continuation.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.errors import UserError
from transformer.inference import incremental
from transformer.inference.beam_search import BeamSearch, beam_search
from transformer.inference.processors import NOTHING, Processors
from transformer.inference.rows import padded, round_up
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling, sample
from transformer.inference.unstacked import unstack_cache


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

    Raises:
      UserError: an empty text, a text that leaves no room in the model's context, more continuations than beams, or a
        rule about tokens that the model does not have.
    """
    longest = max(len(text) for text in texts)
    max_new, min_new = _each(max_new_tokens, texts), _each(min_new_tokens, texts)
    _check_numbers(texts, min(max_new), num, how)
    if isinstance(how, BeamSearch) and how.beams == 1:
        how = Sampling(temperature=0)
    rules.check_ids(model.config.vocab_size)
    answers = model.config.kind == "encoder_decoder"
    context = model.config.longest_input
    if context is not None:
        if longest > context - (not answers):
            raise UserError(f"a text has {longest} tokens and the model's context holds {context}: shorten the text")
        max_new = [min(number, context - (0 if answers else longest)) for number in max_new]
    width = round_up(longest) if context is None else min(round_up(longest), context)
    if answers:
        inputs = _answered(texts, width, model.config.decoder_start_id if start_id is None else start_id)
    else:
        inputs = _continued(texts, width, prefix)
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
    # Each row ends by its own number (`Processors.max_new_R`): with room for a little more, numbers near each other, as
    # prompts near the context's end leave, share a program.
    new = round_up(max(max_new))
    numbers = np.arange(len(texts)) if places is None else np.asarray(places)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers.astype(np.int32))
    said, scores = _generate(model, params, inputs, keys_B, processors, new, how, num, stops)
    rows = zip(np.asarray(said).tolist(), np.asarray(scores).tolist(), strict=True)
    return [[_generated(*row) for row in zip(*text, strict=True)] for text in rows]


def _check_numbers(texts: Sequence[Sequence[int]], max_new: int, num: int, how: Sampling | BeamSearch) -> None:
    """Raises UserError for an empty text, or numbers of tokens and continuations that cannot be."""
    if min(len(text) for text in texts) == 0:
        raise UserError("a text has no token: give at least one")
    if max_new < 1:
        raise UserError(f"{max_new} new tokens asked for: it must be at least 1")
    if num < 1:
        raise UserError(f"{num} continuations asked for: it must be at least 1")
    if isinstance(how, BeamSearch) and num > how.beams:
        raise UserError(f"{num} continuations asked for and {how.beams} beams: raise --beams to at least {num}")


def _answered(texts: Sequence[Sequence[int]], width: int, start_id: int) -> dict[str, np.ndarray]:
    """Returns the inputs of an encoder-decoder: the texts, and the token that answers begin after."""
    source, source_segment_ids = padded(texts, width)
    prompt = np.full((len(texts), 1), start_id, np.int32)
    inputs = {"prompt": prompt, "prompt_segment_ids": np.ones_like(prompt)}
    return inputs | {"source": source, "source_segment_ids": source_segment_ids}


def _continued(texts: Sequence[Sequence[int]], width: int, prefix: bool) -> dict[str, np.ndarray]:
    """Returns the inputs of a decoder: the texts, read from both sides with `prefix`."""
    # Padded on the left, so that every row's next token goes to the same slot of the cache.
    prompt, prompt_segment_ids = padded(texts, width, left=True)
    inputs = {"prompt": prompt, "prompt_segment_ids": prompt_segment_ids}
    return inputs | ({"prefix": prompt_segment_ids} if prefix else {})


@functools.partial(jax.jit, static_argnames=("model", "new", "how", "num", "stop_ids"))
def _generate(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    keys_B: jax.Array,
    processors: Processors,
    new: int,
    how: Sampling | BeamSearch,
    num: int,
    stop_ids: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """Returns tokens, int32 [B, num, new], and scores, float32 [B, num]: NaN where drawn."""
    if isinstance(how, BeamSearch):
        search = {"new": new, "how": how, "stop_ids": stop_ids, "processors": processors}
        said_BML, scores_BM = beam_search(model, params, inputs, **search)
        return said_BML[:, :num], scores_BM[:, :num]
    said_RL, _ = draw(model, params, inputs, keys_B, processors, new, how, num, stop_ids)
    batch = inputs["prompt"].shape[0]
    return said_RL.reshape(batch, num, new), jnp.full((batch, num), jnp.nan, jnp.float32)


def draw(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    keys_B: jax.Array,
    processors: Processors,
    new: int,
    sampling: Sampling,
    num: int,
    stop_ids: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """Returns tokens, int32 [R, new], `NOTHING` from a row's stop token on, and their log-probability, float32 [R].

    That counts a stop token too, and is of the scores after all rules, before the temperature. A caller that has no use
    for it pays nothing: the compiler drops it.
    """
    history_BP = jnp.where(inputs["prompt_segment_ids"] > 0, inputs["prompt"], NOTHING)
    history_RP = jnp.repeat(history_BP, num, axis=0)
    processors = processors.repeat(num)
    stops = jnp.asarray(stop_ids, jnp.int32)
    each = jax.vmap(jax.random.fold_in, (None, 0))
    keys_R = jax.vmap(each, (0, None))(keys_B, jnp.arange(num)).reshape(-1)

    def choose(index: jax.Array, logits_RV: jax.Array, said_RL: jax.Array, total_R: jax.Array, done_R: jax.Array):
        history_RL = jnp.concatenate([history_RP, said_RL], axis=1)
        keys_now_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, index)
        scores_RV = processors(logits_RV, history_RL, index, history_RP.shape[1] + index)
        token_R = sample(keys_now_R, scores_RV, sampling)
        chosen_R = jnp.take_along_axis(jax.nn.log_softmax(scores_RV), token_R[:, None], axis=1)[:, 0]
        total_R = jnp.where(done_R, total_R, total_R + chosen_R)
        done_R = done_R | jnp.isin(token_R, stops) if stop_ids else done_R
        said_R = jnp.where(done_R, NOTHING, token_R)
        said_RL = jax.lax.dynamic_update_slice(said_RL, said_R[:, None], (0, index))
        return token_R, said_RL, total_R, done_R | (index + 1 >= processors.max_new_R)

    def unfinished(carry):
        index, *_, done_R = carry
        return (index < new) & ~jnp.all(done_R)

    def step(carry):
        index, last_R, position_R, cache, *so_far = carry
        logits_RV, cache = incremental.advance(model, params, last_R, position_R, cache)
        last_R, *so_far = choose(index, logits_RV, *so_far)
        return index + 1, last_R, position_R + 1, cache, *so_far

    logits_BV, cache, position_B = incremental.start(model, params, inputs, inputs["prompt"].shape[1] + new)
    logits_RV, position_R, cache = jnp.repeat(logits_BV, num, axis=0), jnp.repeat(position_B, num), cache.repeat(num)
    cache = unstack_cache(params, cache)
    rows = logits_RV.shape[0]
    said_RL = jnp.full((rows, new), NOTHING, jnp.int32)
    nothing = jnp.zeros((rows,), jnp.float32), jnp.zeros((rows,), bool)
    last_R, *so_far = choose(jnp.int32(0), logits_RV, said_RL, *nothing)
    *_, said_RL, total_R, _ = jax.lax.while_loop(unfinished, step, (jnp.int32(1), last_R, position_R, cache, *so_far))
    return said_RL, total_R


def _generated(tokens: list[int], score: float) -> Generated:
    said = tokens[: tokens.index(NOTHING)] if NOTHING in tokens else tokens
    return Generated(said, None if math.isnan(score) else score)


def _each(number: int | Sequence[int], texts: Sequence[Sequence[int]]) -> list[int]:
    return [number] * len(texts) if isinstance(number, int) else list(number)
