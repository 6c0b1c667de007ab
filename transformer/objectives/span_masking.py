"""Spans of words: SpanBERT's (Joshi et al. 2020, section 3.1) and ALBERT's (Lan et al. 2020, section 4.1)."""

import bisect

import numpy as np

MAX_TOKENS = 20
"""The longest span, in tokens: as many offsets as SpanBERT's boundary objective tells apart (`max_pair_targets`)."""
# Geometric with p = 0.2, clipped at ten words, which makes the mean 3.8; and in proportion to 1/n, up to three.
SPANBERT = 0.8 ** np.arange(10) / (0.8 ** np.arange(10)).sum()
"""The probability of spans of 1, 2, ... words."""
ALBERT = np.array([6, 3, 2]) / 11
_TRIES = 20  # places tried for a span before a shorter one is drawn


def choose_spans(
    maskable: np.ndarray, starts: np.ndarray, count: int, shares: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns int[spans, 2]: the first token of each span and the one after its last, rising.

    A span is whole words. It crosses no special and touches no other span: the tokens around it are seen. Together they
    have at most `count` tokens: the last span is cut to fit.

    Args:
      maskable: bool[T].
      starts: bool[T]: where a word begins.
      count: the budget.
      shares: the probability of a span of 1, 2, ... words.
    """
    first = np.flatnonzero(starts)
    if not len(first):
        return np.zeros((0, 2), int)
    # The end of a word is the next word's start, or the special or padding before it.
    blocked = np.flatnonzero(np.concatenate((~maskable, [True])))
    run = np.searchsorted(blocked, first)  # words with no special between them have one number
    end = np.minimum(np.append(first[1:], len(maskable)), blocked[run])
    # Plain lists, for the loop looks at one word at a time.
    firsts, ends, runs = first.tolist(), end.tolist(), run.tolist()
    below, free = np.cumsum(shares)[:-1].tolist(), bytearray(maskable.tobytes())
    spans: list[tuple[int, int]] = []
    left = count
    while left > 0:
        words, span = 1 + bisect.bisect_right(below, rng.random()), None
        longest = min(left, MAX_TOKENS)
        for word in rng.integers(len(firsts), size=_TRIES).tolist():
            last = word + words - 1
            if last < len(firsts) and runs[last] == runs[word]:
                # A span that is too long loses whole words, or is one word that loses its end.
                while last > word and ends[last] - firsts[word] > longest:
                    last -= 1
                begin, stop = firsts[word], min(ends[last], firsts[word] + longest)
                if 0 not in free[begin:stop]:
                    span = begin, stop
                    break
        if span is None:
            if words == 1:
                break
            continue
        begin, stop = span
        spans.append(span)
        left -= stop - begin
        around = slice(max(begin - 1, 0), stop + 1)  # with a seen token on both sides
        free[around] = bytes(len(free[around]))
    return np.array(sorted(spans), int).reshape(-1, 2)


def places_of(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (places, numbers), int[K] each: the tokens of all spans, and which span each is of."""
    lengths = spans[:, 1] - spans[:, 0]
    number = np.repeat(np.arange(len(spans)), lengths)
    within = np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return spans[number, 0] + within, number
