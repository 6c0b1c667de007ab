"""How well answers agree with what people said: exact match and F1, by the rules of SQuAD's `evaluate-v2.0.py`
(Rajpurkar et al. 2016, section 6.1; 2018, section 4)."""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Returns a text in lower case, without punctuation and English articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(told: str, right: Sequence[str]) -> float:
    """Returns 1 where a told answer is one of the right ones, else 0.

    Args:
      told: empty: there is no answer.
      right: what people said; empty: there is none.
    """
    return float(any(normalized(told) == normalized(each) for each in _known(right)))


def f1(told: str, right: Sequence[str]) -> float:
    """Returns the best F1 of a told answer's words over the right ones; arguments as `exact_match`'s."""
    return max(_f1(normalized(told).split(), normalized(each).split()) for each in _known(right))


def best_threshold(margins_N: np.ndarray, f1_N: np.ndarray, has_none_N: np.ndarray) -> tuple[float, float]:
    """Returns the best mean F1 that any threshold on no answer gives, and that threshold, as `evaluate-v2.0.py` does.

    Args:
      margins_N: by how much no answer is ahead of the best span of each question; it is told above the threshold.
      f1_N: F1 of the best span.
      has_none_N: bool, whether there is no answer.
    """
    order = np.argsort(-margins_N)
    # With the first k questions told to have none, k = 0 ... N.
    means = np.concatenate([[0.0], np.cumsum(has_none_N[order] - f1_N[order])]) + f1_N.sum()
    falling = margins_N[order]
    told_apart = np.concatenate([[True], falling[1:] < falling[:-1], [True]])
    best = int(np.argmax(np.where(told_apart, means, -np.inf)))
    edges = np.concatenate([[falling[0] + 1.0], (falling[1:] + falling[:-1]) / 2, [falling[-1] - 1.0]])
    return float(means[best] / len(order)), float(edges[best])


def _known(right: Sequence[str]) -> Sequence[str]:
    """Returns the right answers that have words; of none of them, the empty one."""
    return [each for each in right if normalized(each)] or [""]


def _f1(told: list[str], right: list[str]) -> float:
    if not told or not right:
        return float(told == right)
    common = sum((collections.Counter(told) & collections.Counter(right)).values())
    return 2 * common / (len(told) + len(right))
