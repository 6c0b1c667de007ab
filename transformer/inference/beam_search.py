"""Beam search: the likeliest continuations, by keeping the best few at every length (Graves 2012; Wu et al. 2016).

Shape letters: B batch, M beams, C candidates, R = B * M rows, V vocabulary, L places of a row's
tokens.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from transformer import checks
from transformer.inference import incremental, slots
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
    """int32: the prompt, then what is said; `NOTHING` where there is no token."""
    live_scores_BM: jax.Array
    """Sums of log-probabilities."""
    ended_BML: jax.Array
    """int32, as above; the stop token left out."""
    ended_scores_BM: jax.Array
    """Scores with the length penalty; `_NEVER` where none has ended yet."""
    is_open_B: jax.Array
    """bool: whether something better may still come."""
    parents_R: jax.Array
    """int32: the row that each live continuation went on from with its newest token."""
    position_R: jax.Array
    """int32: the newest token's position."""
    said: jax.Array
    """int32 scalar: new tokens."""
    end: jax.Array
    """int32 scalar: places of a row in use, its padding included."""

    def goes_on(self, how: BeamSearch) -> jax.Array:
        """Returns whether something better may still come of a text."""
        all_ended = (how.early_stopping is True) & jnp.all(self.ended_scores_BM > _NEVER)
        return jnp.any(self.is_open_B) & ~all_ended

    def extended(
        self, logits_RV: jax.Array, how: BeamSearch, stop_ids: tuple[int, ...], processors: Processors
    ) -> "_Beams":
        """Returns the beams with a token more; `processors` has the rules of the B texts."""
        logprobs_RV = jax.nn.log_softmax(logits_RV, axis=-1)
        batch, M, places = self.live_BML.shape
        history_RL = self.live_BML.reshape(batch * M, places)
        logprobs_RV = processors.repeat(M)(logprobs_RV, history_RL, self.said, self.end)
        return _extend(self, logprobs_RV.reshape(batch, M, -1), how, stop_ids, processors.max_new_R)


def beam_search(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    *,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
    processors: Processors,
) -> tuple[jax.Array, jax.Array]:
    """Returns the M best continuations, best first, without stop tokens, and their scores, float32 [B, M].

    The continuations are int32 [B, M, at least the most new tokens], `NOTHING` from their ends on.

    Args:
      model: a model with a head of next words; `params`: its weights.
      inputs: the prompts or sources.
      how: the settings; 2 beams or more.
      stop_ids: tokens that end a continuation.
      processors: the rules of the B rows.
    """
    any_model: Any = model
    context, prompt = any_model.config.longest_input, inputs["prompt"].shape[1]
    rolling = slots.rolling(any_model.config)
    places = slots.enough(prompt + 1, context)
    beams, _ = slots.run(
        begin(model, params, inputs, processors, places, how, stop_ids, rolling),
        places,
        context,
        has_ended=lambda state: not state[0].goes_on(how),
        go_on=lambda state: _go_on(model, params, *state, processors, how, stop_ids),
        grown=lambda state, places: _grown(*state, places, rolling),
    )
    return beams.ended_BML[:, :, prompt:], beams.ended_scores_BM


@functools.partial(jax.jit, static_argnames=("model", "places", "how", "stop_ids", "rolling"))
def begin(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    processors: Processors,
    places: int,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
    rolling: int | None,
) -> tuple[_Beams, Any]:
    """Returns the beams with their first token, and the cache, with so many slots; with `rolling` ones at most."""
    logits_BV, cache, position_B = slots.start(model, params, inputs, places, rolling)
    prompt_BP = jnp.where(inputs["prompt_segment_ids"] > 0, inputs["prompt"], NOTHING)
    (batch, prompt), M = prompt_BP.shape, how.beams
    tokens_BL = jnp.pad(prompt_BP, ((0, 0), (0, places - prompt)), constant_values=NOTHING)
    tokens_BML = jnp.repeat(tokens_BL[:, None], M, axis=1)
    never_BM = jnp.full((batch, M), _NEVER, jnp.float32)
    beams = _Beams(
        live_BML=tokens_BML,
        # All beams begin alike, so only the first counts, or all would stay alike.
        live_scores_BM=never_BM.at[:, 0].set(0.0),
        ended_BML=jnp.full_like(tokens_BML, NOTHING),
        ended_scores_BM=never_BM,
        is_open_B=jnp.ones((batch,), bool),
        parents_R=jnp.arange(batch * M, dtype=jnp.int32),
        position_R=jnp.repeat(position_B, M) - 1,
        said=jnp.int32(0),
        end=jnp.int32(prompt),
    )
    beams = beams.extended(jnp.repeat(logits_BV, M, axis=0), how, stop_ids, processors)
    return beams, unstack_cache(params, cache.repeat(M))


@functools.partial(jax.jit, static_argnames=("model", "how", "stop_ids"), donate_argnames="cache")
def _go_on(
    model: nn.Module,
    params: Any,
    beams: _Beams,
    cache: Any,
    processors: Processors,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
) -> tuple[_Beams, Any]:
    """Returns the beams when nothing better can come or no place is left, and the cache."""

    def goes_on(state: tuple[_Beams, Any]) -> jax.Array:
        beams, _ = state
        return beams.goes_on(how) & (beams.end < beams.live_BML.shape[2])

    def step(state: tuple[_Beams, Any]) -> tuple[_Beams, Any]:
        beams, cache = state
        last_BM1 = jax.lax.dynamic_slice_in_dim(beams.live_BML, beams.end - 1, 1, axis=2)
        cache = cache.take(beams.parents_R)
        logits_RV, cache = incremental.advance(model, params, last_BM1.reshape(-1), beams.position_R, cache)
        return beams.extended(logits_RV, how, stop_ids, processors), cache

    return jax.lax.while_loop(goes_on, step, (beams, cache))


@functools.partial(jax.jit, static_argnames=("places", "rolling"))
def _grown(beams: _Beams, cache: Any, places: int, rolling: int | None) -> tuple[_Beams, Any]:
    """Returns the beams and the cache with more places."""
    more = ((0, 0), (0, 0), (0, places - beams.live_BML.shape[2]))
    live_BML, ended_BML = (jnp.pad(x, more, constant_values=NOTHING) for x in (beams.live_BML, beams.ended_BML))
    return beams.replace(live_BML=live_BML, ended_BML=ended_BML), slots.grown(cache, places, rolling)


def _extend(
    beams: _Beams,
    logprobs_BMV: jax.Array,
    how: BeamSearch,
    stop_ids: tuple[int, ...],
    max_new_B: jax.Array,
) -> _Beams:
    """Returns the search with a token more.

    Args:
      beams: the search so far.
      logprobs_BMV: log-probabilities of the next token.
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
    tokens_BCL = jax.lax.dynamic_update_slice(tokens_BCL, said_BC[:, :, None], (0, 0, beams.end))
    said = beams.said + 1
    is_last_B = said >= max_new_B
    ends_BC = is_stop_BC | is_last_B[:, None]

    live_scores_BM, live_BM = jax.lax.top_k(jnp.where(ends_BC, scores_BC + _NEVER, scores_BC), M)
    parents_BM = jnp.take_along_axis(beam_BC, live_BM, axis=1) + M * jnp.arange(batch, dtype=jnp.int32)[:, None]

    # Only the best M candidates can end: the others are there to go on from.
    counts_BC = ends_BC & (jnp.arange(count, dtype=jnp.int32) < M)[None] & beams.is_open_B[:, None]
    if how.early_stopping is True:
        counts_BC &= jnp.any(beams.ended_scores_BM == _NEVER, axis=1, keepdims=True)
    divisor = said.astype(jnp.float32) ** how.length_penalty
    merged_scores = jnp.concatenate([beams.ended_scores_BM, jnp.where(counts_BC, scores_BC / divisor, _NEVER)], axis=1)
    ended_scores_BM, best_BM = jax.lax.top_k(merged_scores, M)
    merged = jnp.concatenate([beams.ended_BML, tokens_BCL], axis=1)

    # The final length, where longer continuations gain and the search must not miss them; otherwise the length by now.
    hoped_B = max_new_B if how.early_stopping == "never" and how.length_penalty > 0 else said
    could_be_B = jnp.max(live_scores_BM, axis=1) / jnp.float32(hoped_B) ** how.length_penalty
    return beams.replace(
        live_BML=jnp.take_along_axis(tokens_BCL, live_BM[:, :, None], axis=1),
        live_scores_BM=live_scores_BM,
        ended_BML=jnp.take_along_axis(merged, best_BM[:, :, None], axis=1),
        ended_scores_BM=ended_scores_BM,
        is_open_B=beams.is_open_B & ~is_last_B & (could_be_B > jnp.min(ended_scores_BM, axis=1)),
        parents_R=parents_BM.reshape(-1),
        position_R=beams.position_R + 1,
        said=said,
        end=beams.end + 1,
    )
