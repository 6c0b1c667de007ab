"""Drawing: rows that are continued by a token at a time, the likeliest or a drawn one.

Shape letters: B batch, P tokens of a prompt, R = B * num rows, L places of a row's tokens, V vocabulary.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from transformer.inference import incremental, slots
from transformer.inference.processors import NOTHING, Processors
from transformer.inference.sampling import Sampling, sample
from transformer.inference.unstacked import unstack_cache


class Rows(struct.PyTreeNode):
    """Rows that are continued."""

    tokens_RL: jax.Array
    """int32: a row's prompt, then what was said; `NOTHING` where there is no token."""
    end_R: jax.Array
    """int32: places of a row in use, its padding included."""
    said_R: jax.Array
    """int32: new tokens."""
    last_R: jax.Array
    """int32: the newest token."""
    position_R: jax.Array
    """int32: its position."""
    total_R: jax.Array | None
    """float32: log-probability of what was said; None where nobody asks."""
    has_ended_R: jax.Array
    keys_R: jax.Array
    """A PRNG key of each row's draws."""
    processors: Processors

    def have_ended(self) -> bool:
        """Whether all rows have; waits for them."""
        return bool(np.asarray(self.has_ended_R).all())

    def scores(self, logits_RV: jax.Array) -> jax.Array:
        """Returns the scores of the next tokens, after all rules."""
        return self.processors.each(logits_RV, self.tokens_RL, self.said_R, self.end_R)

    def choose(self, logits_RV: jax.Array, sampling: Sampling, stop_ids: tuple[int, ...]) -> "Rows":
        """Returns the rows with the next token, drawn or the likeliest, where they have not ended."""
        scores_RV = self.scores(logits_RV)
        token_R = sample(jax.vmap(jax.random.fold_in)(self.keys_R, self.said_R), scores_RV, sampling)
        rows = self
        if self.total_R is not None:
            chosen_R = jnp.take_along_axis(jax.nn.log_softmax(scores_RV), token_R[:, None], axis=1)[:, 0]
            rows = self.replace(total_R=jnp.where(self.has_ended_R, self.total_R, self.total_R + chosen_R))
        return rows.say(token_R, stop_ids)

    def say(self, token_R: jax.Array, stop_ids: tuple[int, ...], where_R: jax.Array | bool = True) -> "Rows":
        """Returns the rows with these tokens, `where_R`, unless they have ended."""
        to_R = jnp.broadcast_to(where_R, token_R.shape)
        stops_R = to_R & jnp.isin(token_R, jnp.asarray(stop_ids, jnp.int32)) if stop_ids else jnp.zeros_like(to_R)
        is_said_R = to_R & ~self.has_ended_R & ~stops_R
        more_R = is_said_R.astype(jnp.int32)
        said_R = self.said_R + more_R
        rows_R = jnp.arange(token_R.shape[0], dtype=jnp.int32)
        written_R = jnp.where(is_said_R, token_R, NOTHING)  # the place after a row's end holds nothing anyway
        return self.replace(
            tokens_RL=self.tokens_RL.at[rows_R, self.end_R].set(written_R, mode="drop"),
            end_R=self.end_R + more_R,
            said_R=said_R,
            last_R=jnp.where(to_R, token_R, self.last_R),
            position_R=self.position_R + to_R.astype(jnp.int32),
            has_ended_R=self.has_ended_R | stops_R | (said_R >= self.processors.max_new_R),
        )

    def put(self, other: "Rows", rows_K: jax.Array) -> "Rows":
        """Returns the rows with others in place of those with the numbers int32 [K]; of none, they are left out."""
        replaced = lambda mine, theirs: mine.at[rows_K].set(theirs, mode="drop")  # noqa: E731
        of_rows = jax.tree.map(replaced, self.replace(processors=None), other.replace(processors=None))
        return of_rows.replace(processors=self.processors.put(other.processors, rows_K))

    def resized(self, places: int) -> "Rows":
        """Returns the rows with more places."""
        more = ((0, 0), (0, places - self.tokens_RL.shape[1]))
        return self.replace(tokens_RL=jnp.pad(self.tokens_RL, more, constant_values=NOTHING))


def draw(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    keys_B: jax.Array,
    processors: Processors,
    sampling: Sampling,
    num: int,
    stop_ids: tuple[int, ...],
    *,
    scored: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns what is said, int32 [R, at least the most new tokens], `NOTHING` from where a row ends on; and scores.

    These are log-probabilities, float32 [R], None unless `scored`. They count a stop token too, and are of the scores
    after all rules, before the temperature.
    """
    any_model: Any = model
    context, prompt = any_model.config.longest_input, inputs["prompt"].shape[1]
    rolling = slots.rolling(any_model.config)
    places = slots.enough(prompt + 1, context)
    rows, _ = slots.run(
        begin(model, params, inputs, keys_B, processors, places, sampling, num, stop_ids, scored, rolling),
        places,
        context,
        has_ended=lambda state: state[0].have_ended(),
        go_on=lambda state: _go_on(model, params, *state, sampling, stop_ids),
        grown=lambda state, places: _grown(*state, places, rolling),
    )
    return rows.tokens_RL[:, prompt:], rows.total_R


@functools.partial(jax.jit, static_argnames=("model", "places", "sampling", "num", "stop_ids", "scored", "rolling"))
def begin(
    model: nn.Module,
    params: Any,
    inputs: incremental.Inputs,
    keys_B: jax.Array,
    processors: Processors,
    places: int,
    sampling: Sampling,
    num: int,
    stop_ids: tuple[int, ...],
    scored: bool = False,
    rolling: int | None = None,
) -> tuple[Rows, Any]:
    """Returns the rows with their first token, and the cache, with so many slots; with `rolling` ones at most."""
    tokens_BP = jnp.where(inputs["prompt_segment_ids"] > 0, inputs["prompt"], NOTHING)
    batch, prompt = tokens_BP.shape
    logits_BV, cache, position_B = slots.start(model, params, inputs, places, rolling)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    tokens_BL = jnp.pad(tokens_BP, ((0, 0), (0, places - prompt)), constant_values=NOTHING)
    none_R = jnp.zeros((batch * num,), jnp.int32)
    rows = Rows(
        tokens_RL=jnp.repeat(tokens_BL, num, axis=0),
        end_R=none_R + prompt,
        said_R=none_R,
        last_R=none_R,
        position_R=jnp.repeat(position_B, num) - 1,
        total_R=none_R.astype(jnp.float32) if scored else None,
        has_ended_R=none_R > 0,
        keys_R=fold(keys_B, jnp.arange(num)).reshape(-1),
        processors=processors.repeat(num),
    )
    rows = rows.choose(jnp.repeat(logits_BV, num, axis=0), sampling, stop_ids)
    return rows, unstack_cache(params, cache.repeat(num))


@functools.partial(jax.jit, static_argnames=("model", "sampling", "stop_ids"), donate_argnames="cache")
def _go_on(
    model: nn.Module, params: Any, rows: Rows, cache: Any, sampling: Sampling, stop_ids: tuple[int, ...]
) -> tuple[Rows, Any]:
    """Returns the rows when all have ended or one has no place left, and the cache."""

    def goes_on(state: tuple[Rows, Any]) -> jax.Array:
        rows, _ = state
        return ~jnp.all(rows.has_ended_R) & (jnp.max(rows.end_R) < rows.tokens_RL.shape[1])

    def step(state: tuple[Rows, Any]) -> tuple[Rows, Any]:
        rows, cache = state
        logits_RV, cache = incremental.advance(model, params, rows.last_R, rows.position_R, cache)
        return rows.choose(logits_RV, sampling, stop_ids), cache

    return jax.lax.while_loop(goes_on, step, (rows, cache))


@functools.partial(jax.jit, static_argnames=("places", "rolling"))
def _grown(rows: Rows, cache: Any, places: int, rolling: int | None) -> tuple[Rows, Any]:
    """Returns the rows and the cache with more places."""
    return rows.resized(places), slots.grown(cache, places, rolling)
