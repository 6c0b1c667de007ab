"""Continue prompts: one compiled program that reads the prompts into a KV cache and then decodes a token at a time."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.errors import UserError
from transformer.inference.sampling import Sampling, sample
from transformer.layers.heads import LanguageModelOutput

PROMPT_MULTIPLE = 32
"""Prompts are padded to a multiple of this, so that lengths near each other share a compiled program."""


def generate(
    model: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    stop_id: int | None = None,
) -> list[list[int]]:
    """Returns the continuation of each prompt, without the prompt and without the stop token.

    A continuation ends at the stop token, after `max_new_tokens`, or where the longest prompt's context is full.

    Args:
      model: a decoder-only model; `params`: its weights.
      prompts: token ids, of any lengths, at least one token each.
      max_new_tokens: at most so many tokens each.
      sampling: how a token is chosen.
      seed: of the choice; the same seed, prompts and settings give the same tokens.
      stop_id: the token that ends a text.

    Raises:
      UserError: an empty prompt, or one that leaves no room in the model's context.
    """
    context = model.config.context_length
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) == 0:
        raise UserError("a prompt has no token: give at least one")
    if longest >= context:
        raise UserError(f"a prompt has {longest} tokens and the model's context holds {context}: shorten the prompt")
    if max_new_tokens < 1:
        raise UserError(f"{max_new_tokens} new tokens asked for: it must be at least 1")
    new = min(max_new_tokens, context - longest)
    width = min(-(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE, context)
    tokens_BT = np.zeros((len(prompts), width), np.int32)
    segments_BT = np.zeros_like(tokens_BT)
    for row, prompt in enumerate(prompts):
        # Padded on the left: every row's next token then goes to the same slot of the cache.
        tokens_BT[row, width - len(prompt) :] = prompt
        segments_BT[row, width - len(prompt) :] = 1
    stop = -1 if stop_id is None else stop_id
    out_BT = np.asarray(_generate(model, params, tokens_BT, segments_BT, jax.random.key(seed), stop, new, sampling))
    return [_until(row, stop) for row in out_BT.tolist()]


@functools.partial(jax.jit, static_argnames=("model", "new", "sampling"))
def _generate(
    model: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    key: jax.Array,
    stop: jax.Array,
    new: int,
    sampling: Sampling,
) -> jax.Array:
    """Returns the new tokens, int32 [B, new]; after a row's stop token, more stop tokens."""
    batch, width = tokens_BT.shape
    positions_BT = jnp.maximum(jnp.cumsum(segments_BT, axis=1) - 1, 0)
    outputs: Any = model.apply(
        {"params": params},
        tokens=tokens_BT,
        positions=positions_BT,
        segment_ids=segments_BT,
        cache=model.init_cache(batch, width + new),
    )
    first_B = sample(jax.random.fold_in(key, 0), _last_logits(outputs), sampling)
    written = jnp.full((batch, new), stop, jnp.int32).at[:, 0].set(first_B)

    def unfinished(carry):
        index, _, last_B, *_ = carry
        done = carry[-1] | (last_B == stop)
        return (index < new) & ~jnp.all(done)

    def decode(carry):
        index, written, last_B, position_B, cache, done_B = carry
        done_B = done_B | (last_B == stop)
        outputs: Any = model.apply(
            {"params": params},
            tokens=last_B[:, None],
            positions=position_B[:, None],
            segment_ids=jnp.ones((batch, 1), jnp.int32),
            cache=cache,
        )
        next_B = sample(jax.random.fold_in(key, index), _last_logits(outputs), sampling)
        next_B = jnp.where(done_B, stop, next_B)
        written = jax.lax.dynamic_update_slice(written, next_B[:, None], (0, index))
        return index + 1, written, next_B, position_B + 1, outputs.cache, done_B

    done_B = jnp.zeros((batch,), bool)
    carry = (1, written, first_B, positions_BT[:, -1] + 1, outputs.cache, done_B)
    return jax.lax.while_loop(unfinished, decode, carry)[1]


def _last_logits(outputs: LanguageModelOutput) -> jax.Array:
    """Returns the logits of the last token, float32 [B, V]; those of the prompt's other tokens are never computed."""
    return dataclasses.replace(outputs, hidden_BTD=outputs.hidden_BTD[:, -1:]).logits[:, 0]


def _until(tokens: list[int], stop: int) -> list[int]:
    return tokens[: tokens.index(stop)] if stop in tokens else tokens
