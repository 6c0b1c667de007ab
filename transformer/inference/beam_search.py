"""Beam search: the likeliest continuations, by keeping the best few at every length (Graves 2012; Wu et al. 2016).

Shape letters: B batch, M beams, C candidates, R = B * M rows, V vocabulary, L tokens of a continuation.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer import checks
from transformer.inference import incremental
from transformer.inference.processors import NOTHING, Processors
from transformer.inference.unstacked import unstack_cache

_NEVER = -1e9  # finite, so that differences of it are numbers; below any sum of log-probabilities


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search as the `generate` of Hugging Face Transformers does it with `num_beams`, step by step."""

    beams: int = 4
    """Continuations kept at every length; 1 is greedy, by logits and without a score, as in `generate`."""
    length_penalty: float = 1.0
    """A continuation's score is its log-probability / length ** length_penalty: above 0, longer ones gain."""
    early_stopping: bool | Literal["never"] = False
    """True: stop at as many finished continuations as beams. False: when the best unfinished one, at its score by now,
    would not be among them. never: when it could not be, whatever its length."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "beams")
        known = self.early_stopping in (True, False, "never")
        checks.rule(self, "early_stopping", known, "it must be True, False or never")


class _Beams(struct.PyTreeNode):
    """State of the search: M continuations that go on, and the M best that have ended, each best first."""

    live_BML: jax.Array
    """int32; `NOTHING` where no token is yet."""
    live_scores_BM: jax.Array
    """Sums of log-probabilities."""
    ended_BML: jax.Array
    """int32; `NOTHING` from the stop token on."""
    ended_scores_BM: jax.Array
    """Scores with the length penalty; `_NEVER` where none has ended yet."""
    is_open_B: jax.Array
    """bool: whether something better may still come."""


def beam_search(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    *,
    new: int,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
    processors: Processors,
) -> tuple[jax.Array, jax.Array]:
    """Returns the M best continuations, best first: tokens, int32 [B, M, new], without stop tokens, and scores [B, M].

    Args:
      model: a model with a head of next words; `params`: its weights.
      inputs: the prompts or sources.
      new: the most tokens of a continuation.
      how: the settings, static under jit; 2 beams or more.
      stop_ids: tokens that end a continuation.
      processors: the rules of the B rows.
    """
    processors_R = processors.repeat(how.beams)
    (batch, prompt), M = inputs["prompt"].shape, how.beams
    history_BP = jnp.where(inputs["prompt_segment_ids"] > 0, inputs["prompt"], NOTHING)
    history_RP = jnp.repeat(history_BP, M, axis=0)

    def extend(beams: _Beams, logits_RV: jax.Array, index: jax.Array) -> tuple[_Beams, jax.Array]:
        logprobs_RV = jax.nn.log_softmax(logits_RV, axis=-1)
        history_RL = jnp.concatenate([history_RP, beams.live_BML.reshape(batch * M, new)], axis=1)
        logprobs_RV = processors_R(logprobs_RV, history_RL, index, prompt + index)
        return _extend(beams, logprobs_RV.reshape(batch, M, -1), index, how, stop_ids, processors.max_new_R)

    def unfinished(carry):
        index, beams, *_ = carry
        all_ended = (how.early_stopping is True) & jnp.all(beams.ended_scores_BM > _NEVER)
        return (index < new) & jnp.any(beams.is_open_B) & ~all_ended

    def step(carry):
        index, beams, parents_R, position_R, cache = carry
        last_R = jax.lax.dynamic_index_in_dim(beams.live_BML, index - 1, axis=2, keepdims=False).reshape(-1)
        logits_RV, cache = incremental.advance(model, params, last_R, position_R, cache.take(parents_R))
        beams, parents_R = extend(beams, logits_RV, index)
        return index + 1, beams, parents_R, position_R + 1, cache

    logits_BV, cache, position_B = incremental.start(model, params, inputs, prompt + new)
    nothing_BML = jnp.full((batch, M, new), NOTHING, jnp.int32)
    never_BM = jnp.full((batch, M), _NEVER, jnp.float32)
    # All beams begin alike, so only the first counts, or all would stay alike.
    beams = _Beams(nothing_BML, never_BM.at[:, 0].set(0.0), nothing_BML, never_BM, jnp.ones((batch,), bool))
    beams, parents_R = extend(beams, jnp.repeat(logits_BV, M, axis=0), jnp.int32(0))
    carry = (jnp.int32(1), beams, parents_R, jnp.repeat(position_B, M), unstack_cache(params, cache.repeat(M)))
    beams = jax.lax.while_loop(unfinished, step, carry)[1]
    return beams.ended_BML, beams.ended_scores_BM


def _extend(
    beams: _Beams,
    logprobs_BMV: jax.Array,
    index: jax.Array,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
    max_new_B: jax.Array,
) -> tuple[_Beams, jax.Array]:
    """Returns the search with a token more, and the row that each live continuation goes on from, int32 [R].

    Args:
      beams: the search after continuations of `index` tokens.
      logprobs_BMV: log-probabilities of the next token.
      index: int32 scalar.
      how: static under jit.
      stop_ids: tokens that end a continuation.
      max_new_B: int32, tokens after which a continuation ends in any case.
    """
    batch, M, V = logprobs_BMV.shape
    # Enough candidates that M are left to go on, whichever end.
    count = min(max(2, 1 + len(stop_ids)) * M, M * V)
    scores_BC, chosen_BC = jax.lax.top_k((beams.live_scores_BM[:, :, None] + logprobs_BMV).reshape(batch, M * V), count)
    beam_BC, token_BC = chosen_BC // V, chosen_BC % V
    is_stop_BC = jnp.isin(token_BC, jnp.asarray(stop_ids, jnp.int32)) if stop_ids else jnp.zeros_like(token_BC, bool)
    said_BC = jnp.where(is_stop_BC, NOTHING, token_BC)
    tokens_BCL = jnp.take_along_axis(beams.live_BML, beam_BC[:, :, None], axis=1)
    tokens_BCL = jax.lax.dynamic_update_slice(tokens_BCL, said_BC[:, :, None], (0, 0, index))
    is_last_B = index + 1 >= max_new_B
    ends_BC = is_stop_BC | is_last_B[:, None]

    live_scores_BM, live_BM = jax.lax.top_k(jnp.where(ends_BC, scores_BC + _NEVER, scores_BC), M)
    parents_BM = jnp.take_along_axis(beam_BC, live_BM, axis=1) + M * jnp.arange(batch, dtype=jnp.int32)[:, None]

    # Only the best M candidates can end: the others are there to go on from.
    counts_BC = ends_BC & (jnp.arange(count, dtype=jnp.int32) < M)[None] & beams.is_open_B[:, None]
    if how.early_stopping is True:
        counts_BC &= jnp.any(beams.ended_scores_BM == _NEVER, axis=1, keepdims=True)
    divisor = (index + 1).astype(jnp.float32) ** how.length_penalty
    merged_scores = jnp.concatenate([beams.ended_scores_BM, jnp.where(counts_BC, scores_BC / divisor, _NEVER)], axis=1)
    ended_scores_BM, best_BM = jax.lax.top_k(merged_scores, M)
    merged = jnp.concatenate([beams.ended_BML, tokens_BCL], axis=1)

    # The final length, where longer continuations gain and the search must not miss them; otherwise the length by now.
    hoped_B = max_new_B if how.early_stopping == "never" and how.length_penalty > 0 else index + 1
    could_be_B = jnp.max(live_scores_BM, axis=1) / jnp.float32(hoped_B) ** how.length_penalty
    return _Beams(
        live_BML=jnp.take_along_axis(tokens_BCL, live_BM[:, :, None], axis=1),
        live_scores_BM=live_scores_BM,
        ended_BML=jnp.take_along_axis(merged, best_BM[:, :, None], axis=1),
        ended_scores_BM=ended_scores_BM,
        is_open_B=beams.is_open_B & ~is_last_B & (could_be_B > jnp.min(ended_scores_BM, axis=1)),
    ), parents_BM.reshape(-1)
