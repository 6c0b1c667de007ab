"""Word times: where in the sound each word is, by the cross-attention of the heads that follow it.

Radford et al.'s released code (`timing.py`): the heads' attention is normalised over the tokens, smoothed by a median,
averaged, and a path of least cost through it (dynamic time warping) gives each token its time.

Shape letters: N layers, B batch (of 1), T tokens, H heads, S places of the encoder, K head width.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.inference.rows import padded, round_up
from transformer.inference.speech.segments import Segment
from transformer.inference.speech.vocabulary import SECONDS_A_TIME
from transformer.inference.speech.windows import WindowDecoder
from transformer.inference.unstacked import restack

_MEDIAN = 7
"""Places that the median is taken over."""
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that set no spaces between words."""
_BEFORE, _AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
"""Punctuation that belongs to the word after it, and to the word before it."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A word with the space before it, and when it is said, in seconds from the recording's start."""

    text: str
    start: float
    end: float


def word_times(
    decoder: WindowDecoder,
    memory_1SD: jax.Array,
    segments: Sequence[Segment],
    prefix: Sequence[int],
    *,
    language: str | None,
    offset: float,
    places: int,
) -> list[Word]:
    """Returns the words of a window's segments.

    Args:
      decoder: the model.
      memory_1SD: what it made of the window.
      segments: of that window.
      prefix: what the transcript started with, no times being said last.
      language: of the words.
      offset: seconds before the window.
      places: places of the encoder that are no padding.
    """
    vocabulary = decoder.vocabulary
    said = [token for segment in segments for token in segment.tokens if token < vocabulary.stops[0]]
    if not said:
        return []
    tokens = [*prefix, *said, vocabulary.stops[0]]
    row, segment_ids = padded([tokens], min(round_up(len(tokens)), decoder.architecture.context_length))
    heads = vocabulary.alignment_heads
    scores_HTS = np.asarray(_scores(decoder.model, decoder.params, memory_1SD, row, segment_ids, heads))
    weights_HTS = np.asarray(jax.nn.softmax(scores_HTS[:, : len(tokens), :places], axis=-1))
    deviation = weights_HTS.std(axis=1, keepdims=True)
    weights_HTS = (weights_HTS - weights_HTS.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-12)
    matrix_TS = median_filter(weights_HTS, _MEDIAN).mean(axis=0)[len(prefix) - 1 : -1]
    rows, columns = warping_path(-matrix_TS)
    token_times = offset + columns[np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)] * SECONDS_A_TIME
    words = split_words(said, decoder.tokenizer.decode, spaced=language not in _UNSPACED)
    bounds = np.cumsum([0, *(len(word) for _, word in words)])
    pairs = zip(words, itertools.pairwise(bounds), strict=True)
    return [Word(text, float(token_times[begin]), float(token_times[end])) for (text, _), (begin, end) in pairs]


@functools.partial(jax.jit, static_argnames=("model", "heads"))
def _scores(
    model: nn.Module,
    params: Any,
    memory_1SD: jax.Array,
    tokens_1T: jax.Array,
    segment_ids_1T: jax.Array,
    heads: tuple[tuple[int, int], ...],
) -> jax.Array:
    """Returns the scores of some (layer, head) of cross-attention, float32 [H, T, S]."""
    unboxed: Any = model
    _, sown = unboxed.apply(
        {"params": restack(unboxed.config, params)},
        memory=memory_1SD,
        decoder_tokens=tokens_1T,
        decoder_segment_ids=segment_ids_1T,
        mutable=["attended"],
    )
    attended = sown["attended"]["backbone"]["decoder"]["stack"]["layers"]["cross_attention"]
    layers, numbers = np.asarray(heads).T
    query_HTK = jnp.moveaxis(attended["queries"][:, 0], 2, 1)[layers, numbers]
    key_HSK = jnp.moveaxis(attended["keys"][:, 0], 2, 1)[layers, numbers]
    scores_HTS = jnp.einsum("HTK,HSK->HTS", query_HTK, key_HSK)
    return scores_HTS.astype(jnp.float32) * query_HTK.shape[-1] ** -0.5


def median_filter(array: np.ndarray, width: int) -> np.ndarray:
    """Returns the running median along the last axis, the ends reflected; an array too short for that as it is."""
    half = width // 2
    if array.shape[-1] <= half:
        return array
    reflected = np.pad(array, (*((0, 0),) * (array.ndim - 1), (half, half)), mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(reflected, width, axis=-1), axis=-1)


def warping_path(cost_TS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows and the columns of the path of least cost from the first corner to the last one.

    Each step goes down, right or both. A whole anti-diagonal is computed at a time.
    """
    rows, columns = cost_TS.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    came = np.zeros((rows + 1, columns + 1), np.int8)  # 0: from both, 1: from above, 2: from the left
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        both, above, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        came[i, j] = np.where((both < above) & (both < left), 0, np.where((above < both) & (above < left), 1, 2))
        total[i, j] = cost_TS[i - 1, j - 1] + np.choose(came[i, j], (both, above, left))
    came[0, :], came[:, 0] = 2, 1
    path, i, j = [], rows, columns
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    backwards = np.asarray(path[::-1])
    return backwards[:, 0], backwards[:, 1]


def split_words(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str], *, spaced: bool
) -> list[tuple[str, list[int]]]:
    """Returns the words of tokens, each with its tokens; punctuation belongs to the word beside it.

    Args:
      tokens: words, no specials.
      decode: tokens -> text.
      spaced: whether a space begins a word; otherwise every character does.
    """
    pieces: list[tuple[str, list[int]]] = []
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = decode(held)
        if "\ufffd" not in text:  # a token may hold a part of a character
            pieces.append((text, held))
            held = []
    if held:
        pieces.append((decode(held), held))
    words: list[tuple[str, list[int]]] = []
    opening: tuple[str, list[int]] | None = None
    for text, own in pieces:
        if opening is not None:
            text, own, opening = opening[0] + text, [*opening[1], *own], None
        bare = text.strip()
        if text.startswith(" ") and bare and bare in _BEFORE:
            opening = text, own
        elif words and (bare in _AFTER or (spaced and not text.startswith(" "))):
            words[-1] = words[-1][0] + text, [*words[-1][1], *own]
        else:
            words.append((text, own))
    return [*words, opening] if opening is not None else words
