"""Answers read off scores of where they start and end: what a pipeline answers, and what an evaluation scores.

Rules as Hugging Face Transformers 4's pipeline had them (`QuestionAnsweringPipeline`, gone in Transformers 5), after
Devlin et al. 2019, sections 4.2 and 4.3.

Shape letters: T tokens of a window.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Tokens of a window that may answer."""

    start: int
    end: int
    """The last token, included."""
    score: float


class Answer(NamedTuple):
    """A part of a context; an empty one stands for no answer."""

    score: float
    start: int
    """Its first character in the context."""
    end: int
    """The character after its last one."""
    text: str


class Window(NamedTuple):
    """A part of a context as a model read it, behind the question, and what the model said."""

    logits_T2: np.ndarray
    """Scores of each token as a start, and as an end."""
    answerable_T: np.ndarray
    """bool: tokens of the context; and the first of the window, which stands for no answer."""
    starts_T: np.ndarray
    """First character of the context that a token stands for."""
    ends_T: np.ndarray
    """The character after the last one."""


def best_answers(
    context: str,
    windows: Iterable[Window],
    *,
    most_tokens: int,
    may_be_none: bool,
    top_k: int = 1,
    spans: int = 20,
    place: Callable[[int, Span], tuple[int, int]] | None = None,
) -> list[Answer]:
    """Returns the surest answers of all windows of a context, the surest first.

    Args:
      context, windows, most_tokens, spans, place: as `scored`'s.
      may_be_none: whether no answer is one too.
      top_k: answers, at most.
    """
    answers, null = scored(context, windows, most_tokens=most_tokens, spans=spans, place=place)
    answers += [Answer(null, 0, 0, "")] if may_be_none else []
    return sorted(answers, key=lambda each: each.score, reverse=True)[:top_k]


def scored(
    context: str,
    windows: Iterable[Window],
    *,
    most_tokens: int,
    spans: int = 20,
    place: Callable[[int, Span], tuple[int, int]] | None = None,
) -> tuple[list[Answer], float]:
    """Returns the answers of all windows of a context, in no order, and the score of there being none.

    Scores of answers with the same text, whatever its case, are added up. No answer has the score of the window that
    is the least sure of there being none.

    Args:
      context: what answers are parts of.
      windows: one or more.
      most_tokens: tokens of an answer, at most.
      spans: spans of a window that are looked at, at most.
      place: returns the characters that a span of a window, by its number, stands for; None: those of its tokens.
    """
    found: dict[str, Answer] = {}
    null = np.inf
    for number, window in enumerate(windows):
        candidates, of_null = best_spans(window.logits_T2, window.answerable_T, spans, most_tokens)
        null = min(null, of_null)
        for span in candidates:
            if place is None:
                start, end = int(window.starts_T[span.start]), int(window.ends_T[span.end])
            else:
                start, end = place(number, span)
            text = context[start:end]
            earlier = found.get(text.lower(), Answer(0.0, start, end, text))
            found[text.lower()] = earlier._replace(score=earlier.score + span.score)
    return [*found.values()], float(null)


def best_spans(
    logits_T2: np.ndarray, answerable_T: np.ndarray, count: int, most_tokens: int
) -> tuple[list[Span], float]:
    """Returns the surest spans of a window, the surest first, and the score of there being no answer.

    A span's score is the product of the probabilities of its start and of its end, each a softmax over the tokens that
    may answer; that of no answer is the product at the first token, which no span includes.

    Args:
      logits_T2: scores of each token as a start, and as an end.
      answerable_T: where an answer may be.
      count: spans, at most.
      most_tokens: tokens of a span, at most.
    """
    logits = np.where(answerable_T[:, None], logits_T2, np.float32(-10_000.0))
    probabilities_T2 = np.exp(logits - logits.max(axis=0))
    probabilities_T2 /= probabilities_T2.sum(axis=0)
    null = float(probabilities_T2[0].prod())
    probabilities_T2[0] = 0.0
    starts_T, ends_T = probabilities_T2.T
    length = len(starts_T)
    sizes = range(min(most_tokens, length))
    first = np.concatenate([np.arange(length - size) for size in sizes])
    last = first + np.repeat(np.arange(len(sizes)), [length - size for size in sizes])
    scores = starts_T[first] * ends_T[last]
    best = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
    order = best[np.lexsort((last[best], first[best], -scores[best]))]
    return [
        Span(int(first[each]), int(last[each]), float(scores[each]))
        for each in order
        if answerable_T[first[each]] and answerable_T[last[each]]
    ], null
