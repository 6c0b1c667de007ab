"""Incremental reading: a model reads its prompt once, then a token at a time; decoders and encoder-decoders alike.

Shape letters: B batch, P tokens of a prompt, S of a source, R rows, V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from transformer.inference.unstacked import has_unstacked_memory, restack, restack_memory
from transformer.layers.heads import LanguageModelOutput

Inputs = dict[str, jax.Array]
"""`prompt` and `prompt_segment_ids`, int32 [B, P], padded (segment 0) on the left, and for a prefix language model its
`prefix`, as in `Decoder.__call__`; of an encoder-decoder, whose prompt its decoder reads, also `source` and
`source_segment_ids`, int32 [B, S], padded on the right; of a speech model `features` or `memory`, as in
`Whisper.__call__`."""


def start(model: Any, params: Any, inputs: Inputs, slots: int) -> tuple[jax.Array, Any, jax.Array]:
    """Reads the inputs; returns the next token's logits, float32 [B, V], the cache, and the next position, int32 [B].

    An encoder-decoder's encoder runs here, and its keys and values for cross-attention are computed here, once.

    Args:
      model: a model with a head of next words; `params`: its weights, stacked or not (`unstacked`).
      inputs: the prompts, and the sources of an encoder-decoder.
      slots: number of tokens that the cache has room for, the prompt's included.
    """
    segment_ids_BP = inputs["prompt_segment_ids"]
    positions_BP = jnp.maximum(jnp.cumsum(segment_ids_BP, axis=1) - 1, 0)
    further: dict[str, Any] = {"prefix": inputs["prefix"]} if "prefix" in inputs else {}
    for name in ("features", "memory"):
        if name in inputs:
            further[name] = inputs[name]
    if "source" in inputs:
        further |= {"tokens": inputs["source"], "segment_ids": inputs["source_segment_ids"]}
    cache = model.init_cache(segment_ids_BP.shape[0], slots)
    outputs: Any = model.apply(
        {"params": restack(model.config, params)},
        **further,
        **_read(model, inputs["prompt"], positions_BP, segment_ids_BP),
        cache=cache,
    )
    return _last_logits(outputs), outputs.cache, positions_BP[:, -1] + 1


def advance(model: Any, params: Any, tokens_R: jax.Array, positions_R: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
    """Returns the logits of the tokens after these, float32 [R, V], and the cache with these.

    Args:
      model, params: as `start`'s.
      tokens_R: the newest token of each row; `positions_R`: its position.
      cache: from `start` or an earlier step; its memory may be unstacked (`unstacked.unstack_cache`), and stays so.
    """
    logits_R1V, cache = advance_by(model, params, tokens_R[:, None], positions_R[:, None], cache)
    return logits_R1V[:, 0], cache


def advance_by(
    model: Any, params: Any, tokens_RT: jax.Array, positions_RT: jax.Array, cache: Any
) -> tuple[jax.Array, Any]:
    """Returns what `advance` does, for several tokens of each row: logits [R, T, V], of the tokens after each."""
    inputs = _read(model, tokens_RT, positions_RT, jnp.ones_like(tokens_RT))
    outputs: Any = model.apply({"params": restack(model.config, params)}, **inputs, cache=restack_memory(cache))
    advanced = outputs.cache.replace(memory=cache.memory) if has_unstacked_memory(cache) else outputs.cache
    return outputs.logits, advanced


def _read(model: Any, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> dict[str, Any]:
    side = "" if model.config.first_decoder_token is None else "decoder_"
    return {f"{side}tokens": tokens, f"{side}positions": positions, f"{side}segment_ids": segment_ids}


def _last_logits(outputs: LanguageModelOutput) -> jax.Array:
    """Returns the last token's logits; the logits of the prompt's other tokens are never computed."""
    return dataclasses.replace(outputs, hidden_BTD=outputs.hidden_BTD[:, -1:]).logits[:, 0]
