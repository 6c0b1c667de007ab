"""How well words are tagged: names as seqeval finds them, or single words; tables by seqeval and scikit-learn.

Shape letters: N sentences, K kinds of what is counted.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer.metrics.classification import undefined_is_0

Sentences = Sequence[list[str]]
"""Tags of the words of each sentence."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is counted of each sentence, so that any of them can be scored together."""

    right_NK: np.ndarray
    """What there is to be found: names of all kinds together, or words of each tag."""
    told_NK: np.ndarray
    """What was told."""
    found_NK: np.ndarray
    """What was told and is there."""
    right_words_N: np.ndarray
    words_N: np.ndarray

    def entities(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Returns how well names are found in some sentences, over all kinds; and the share of right words."""
        right, told, found = (float(each[chosen].sum()) for each in (self.right_NK, self.told_NK, self.found_NK))
        figures = {"f1": 2 * found / max(told + right, 1), "precision": found / max(told, 1)}
        return {**figures, "recall": found / max(right, 1), "accuracy": self._accuracy(chosen)}

    def words(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Returns how well words by themselves are tagged; `f1` is the mean over the tags that there are."""
        right_K, told_K, found_K = (each[chosen].sum(axis=0) for each in (self.right_NK, self.told_NK, self.found_NK))
        f1_K = 2 * found_K / np.maximum(told_K + right_K, 1)
        return {"accuracy": self._accuracy(chosen), "f1": float(f1_K[right_K > 0].mean())}

    def _accuracy(self, chosen: np.ndarray | slice) -> float:
        return float(self.right_words_N[chosen].sum() / self.words_N[chosen].sum())


def count_entities(right: Sentences, told: Sentences) -> Counts:
    """Counts names, as conlleval does (Tjong Kim Sang and De Meulder 2003).

    A name is found where its first word, its last one and its kind are right.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    names = [[set(get_entities(tags)) for tags in sentences] for sentences in (right, told)]
    rows = [(len(one), len(other), len(one & other)) for one, other in zip(*names, strict=True)]
    right_NK, told_NK, found_NK = np.array(rows, np.int64).reshape(-1, 3).T[:, :, None]
    return Counts(right_NK, told_NK, found_NK, *_count_words(right, told))


def count_words(right: Sentences, told: Sentences) -> Counts:
    """Counts the words of each tag."""
    numbers = {tag: number for number, tag in enumerate(sorted({tag for tags in (*right, *told) for tag in tags}))}
    counts = np.zeros((3, len(right), len(numbers)), np.int64)
    for sentence, (one, other) in enumerate(zip(right, told, strict=True)):
        for tag, guess in zip(one, other, strict=True):
            counts[0, sentence, numbers[tag]] += 1
            counts[1, sentence, numbers[guess]] += 1
            counts[2, sentence, numbers[tag]] += tag == guess
    right_NK, told_NK, found_NK = counts
    return Counts(right_NK, told_NK, found_NK, *_count_words(right, told))


def _count_words(right: Sentences, told: Sentences) -> tuple[np.ndarray, np.ndarray]:
    """Returns of each sentence how many words have the right tag, and how many there are."""
    equal = [sum(map(str.__eq__, one, other)) for one, other in zip(right, told, strict=True)]
    return np.array(equal), np.array([len(tags) for tags in right])


def entity_table(right: Sentences, told: Sentences) -> str:
    """Returns precision, recall and F1 of each kind of name, and how many there are of it."""
    from seqeval.metrics import classification_report

    with undefined_is_0():
        return str(classification_report(right, told, digits=4, zero_division=0)).rstrip()  # type: ignore


def word_table(right: Sentences, told: Sentences) -> str:
    """Returns precision, recall and F1 of each tag, and how many words have it."""
    from sklearn.metrics import classification_report

    flat_right, flat_told = ([tag for tags in sentences for tag in tags] for sentences in (right, told))
    labels = sorted(set(flat_right))
    with undefined_is_0():
        return str(classification_report(flat_right, flat_told, labels=labels, digits=4, zero_division=0)).rstrip()  # type: ignore
