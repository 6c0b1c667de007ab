"""Speculative decoding: a small model proposes tokens, and the model reads them all in one pass.

What is said has the model's own distribution, whatever the draft; greedy, it is what the model says alone (Leviathan,
Kalman and Matias 2023, "Fast inference from Transformers via speculative decoding", algorithm 1 and appendix A.1; Chen
et al. 2023, "Accelerating large language model decoding with speculative sampling", algorithm 2). A pass over a few
tokens of each row reads the weights once, as a pass over one does.

Rows accept unequally many. All write to the same slots of the caches: a row's slots of tokens that were not accepted
stay empty, and are used again where no row needs them.

Shape letters: B batch, R rows, T tokens of a pass (the newest one and those proposed), L places, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.errors import UserError
from transformer.inference import drawing, incremental, slots
from transformer.inference.drawing import Rows
from transformer.inference.processors import Processors
from transformer.inference.sampling import Sampling, filter_logits, sample
from transformer.inference.unstacked import unstack_cache

_PROPOSED, _ACCEPTED, _CORRECTED = range(3)
"""Folded into the key of a token's place in its row: what is drawn for it."""


@dataclasses.dataclass(frozen=True)
class Draft:
    """A model that proposes tokens, with the words of the one that it proposes to."""

    model: nn.Module
    params: Any
    tokens: int = 4
    """Tokens proposed at a time."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "tokens")

    def check(self, config: Any, longest: int) -> None:
        """Raises UserError unless it can propose to a model of this architecture, for prompts of so many tokens."""
        any_model: Any = self.model
        own = any_model.config
        for name in ("kind", "vocab_size", "head"):
            if getattr(own, name) != getattr(config, name):
                raise UserError(
                    f"the draft's {name} is {getattr(own, name)} and the model's {getattr(config, name)}: a draft says "
                    "the same words in the same way"
                )
        if own.longest_input is not None and longest > own.longest_input:
            raise UserError(f"a text takes {longest} tokens and the draft's context holds {own.longest_input}")


def draw(
    model: nn.Module,
    params: Any,
    draft: Draft,
    inputs: incremental.Inputs,
    keys_B: jax.Array,
    processors: Processors,
    sampling: Sampling,
    num: int,
    stop_ids: tuple[int, ...],
) -> jax.Array:
    """Returns what `drawing.draw` does; drawn otherwise by the same keys, with the same probabilities."""
    any_model: Any = model
    context, prompt = any_model.config.longest_input, inputs["prompt"].shape[1]
    draft.check(any_model.config, prompt)
    passed = draft.tokens + 1
    places = slots.enough(prompt + passed, context)
    rows, cache = drawing.begin(model, params, inputs, keys_B, processors, places, sampling, num, stop_ids)
    caches = cache, _read(draft.model, draft.params, inputs, places, num)
    models, weights = (model, draft.model), (params, draft.params)
    rows, _ = slots.run(
        (rows, caches),
        places,
        context,
        has_ended=lambda state: state[0].have_ended(),
        go_on=lambda state: _go_on(models, weights, *state, draft.tokens, sampling, stop_ids),
        grown=lambda state, places: _grown(*state, places),
    )
    return rows.tokens_RL[:, prompt:]


@functools.partial(jax.jit, static_argnames=("model", "places", "num"))
def _read(model: nn.Module, params: Any, inputs: incremental.Inputs, places: int, num: int) -> Any:
    """Returns the draft's cache of the prompts."""
    _, cache, _ = incremental.start(model, params, inputs, places)
    return unstack_cache(params, cache.repeat(num))


@functools.partial(jax.jit, static_argnames=("models", "ahead", "sampling", "stop_ids"), donate_argnames="caches")
def _go_on(
    models: tuple[nn.Module, nn.Module],
    weights: tuple[Any, Any],
    rows: Rows,
    caches: tuple[Any, Any],
    ahead: int,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
) -> tuple[Rows, tuple[Any, Any]]:
    """Returns the rows when all have ended or there is no room for another pass; and the caches, the draft's last."""
    (model, draft), (params, draft_params), passed = models, weights, ahead + 1

    def goes_on(state: tuple[Rows, tuple[Any, Any]]) -> jax.Array:
        rows, (cache, _) = state
        used = jnp.maximum(jnp.max(rows.end_R), cache.index)
        return ~jnp.all(rows.has_ended_R) & (used + passed <= rows.tokens_RL.shape[1])

    def propose(carry: tuple[Rows, Any], _: None) -> tuple[tuple[Rows, Any], tuple[jax.Array, jax.Array]]:
        rows, cache = carry
        logits_RV, cache = incremental.advance(draft, draft_params, rows.last_R, rows.position_R, cache)
        scores_RV = rows.scores(logits_RV)
        token_R = sample(_keys(rows, 0, _PROPOSED), scores_RV, sampling)
        return (rows.say(token_R, ()), cache), (token_R, scores_RV)

    def step(state: tuple[Rows, tuple[Any, Any]]) -> tuple[Rows, tuple[Any, Any]]:
        rows, (cache, draft_cache) = state
        # The last proposal is one too many: it is made so that the draft, too, has read the others.
        (_, draft_cache), (proposed_TR, proposed_TRV) = jax.lax.scan(propose, (rows, draft_cache), None, length=passed)
        tokens_RT = jnp.concatenate([rows.last_R[None], proposed_TR[:-1]]).T
        positions_RT = rows.position_R[:, None] + jnp.arange(passed, dtype=jnp.int32)[None]
        logits_RTV, cache = incremental.advance_by(model, params, tokens_RT, positions_RT, cache)
        scores, supposed = [], rows
        for place in range(passed):
            scores.append(supposed.scores(logits_RTV[:, place]))
            supposed = supposed.say(proposed_TR[place], ())
        accepted_R, next_R = _verified(jnp.stack(scores), proposed_TR, proposed_TRV, rows, sampling)
        counts_R = jnp.where(rows.has_ended_R, 0, accepted_R + 1)
        for place in range(passed):
            token_R = jnp.where(place < accepted_R, proposed_TR[place], next_R)
            rows = rows.say(token_R, stop_ids, place <= accepted_R)
        return rows, (cache.keep(passed, counts_R), draft_cache.keep(passed, counts_R))

    return jax.lax.while_loop(goes_on, step, (rows, caches))


def _verified(
    scores_TRV: jax.Array, proposed_TR: jax.Array, proposed_TRV: jax.Array, rows: Rows, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """Returns how many proposed tokens of each row are accepted, and which token comes after those: int32 [R] each.

    Args:
      scores_TRV: the model's scores of the tokens after each of a pass.
      proposed_TR: the tokens proposed there, of which the last is none; `proposed_TRV`: the draft's scores.
      rows: the rows before them.
      sampling: how tokens are drawn from scores.
    """
    if sampling.temperature == 0:
        best_TR = jnp.argmax(scores_TRV, axis=-1).astype(jnp.int32)
        accepted_R = _leading(best_TR[:-1] == proposed_TR[:-1])
        return accepted_R, jnp.take_along_axis(best_TR, accepted_R[None], axis=0)[0]
    probabilities = jax.vmap(lambda scores_RV: jax.nn.softmax(filter_logits(scores_RV, sampling)))
    p_TRV, q_TRV = probabilities(scores_TRV), probabilities(proposed_TRV).at[-1].set(0.0)
    of_proposed = lambda x_TRV: jnp.take_along_axis(x_TRV, proposed_TR[:, :, None], axis=2)[:-1, :, 0]  # noqa: E731
    places = range(len(proposed_TR) - 1)
    uniform_TR = jnp.stack([jax.vmap(jax.random.uniform)(_keys(rows, place, _ACCEPTED)) for place in places])
    accepted_R = _leading(uniform_TR * of_proposed(q_TRV) < of_proposed(p_TRV))
    at_R = lambda x_TRV: jnp.take_along_axis(x_TRV, accepted_R[None, :, None], axis=0)[0]  # noqa: E731
    p_RV = at_R(p_TRV)
    left_RV = jnp.maximum(p_RV - at_R(q_TRV), 0.0)
    # Rounding may leave nothing where both are alike.
    left_RV = jnp.where(left_RV.sum(axis=1, keepdims=True) > 0, left_RV, p_RV)
    next_R = jax.vmap(jax.random.categorical)(_keys(rows, accepted_R, _CORRECTED), jnp.log(left_RV))
    return accepted_R, next_R.astype(jnp.int32)


def _leading(is_accepted_TR: jax.Array) -> jax.Array:
    """Returns how many are true before the first that is not, int32 [R]."""
    return jnp.cumprod(is_accepted_TR.astype(jnp.int32), axis=0).sum(axis=0)


def _keys(rows: Rows, place: int | jax.Array, purpose: int) -> jax.Array:
    """Returns keys for the rows' tokens so many places after the next ones.

    What is drawn for a token that comes after one that is not accepted decides nothing: its place's keys serve again.
    """
    of_places_R = jax.vmap(jax.random.fold_in)(rows.keys_R, rows.said_R + place)
    return jax.vmap(jax.random.fold_in, (0, None))(of_places_R, purpose)


@functools.partial(jax.jit, static_argnames="places")
def _grown(rows: Rows, caches: tuple[Any, Any], places: int) -> tuple[Rows, tuple[Any, Any]]:
    """Returns the rows and the caches with more places."""
    return rows.resized(places), (caches[0].resized(places), caches[1].resized(places))
