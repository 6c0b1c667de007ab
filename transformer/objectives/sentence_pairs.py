"""Two sentences in a row, and how they belong together: next sentence prediction (Devlin et al. 2019, BERT, section
3.1, task 2) and sentence order prediction (Lan et al. 2020, ALBERT, section 3.1).

A "sentence" is a stretch of text, here from a word's beginning to a word's end. Both classes are cut by the same rules,
so that neither lengths nor ends give the answer away.
"""

from typing import Literal, NamedTuple

import numpy as np

from transformer.data.records import Record
from transformer.tokenizers.vocabulary import Vocabulary

SPECIALS = 3  # [CLS] A [SEP] B [SEP]
FOLLOWS, DOES_NOT = 0, 1  # or: in order, swapped


class SentencePair(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    target: int


def make_pair(
    task: Literal["nsp", "sop"], record: Record, vocabulary: Vocabulary, rng: np.random.Generator
) -> SentencePair:
    """Returns two sentences, int32[...] each, and what they are: half of the pairs are false.

    Args:
      task: nsp: a false pair's second sentence is another document's; sop: a false pair is swapped.
      record: `tokens` and `segment_ids`, a part of a document; for nsp also `other_tokens`, `other_segment_ids`.
    """
    tokens = record["tokens"][record["segment_ids"] > 0]
    starts = _word_starts(tokens, vocabulary)
    if task == "sop" and len(starts) > 6:
        # The word across a part's border is a long one more often than others, for it covers more borders, and tells
        # of the next ones. A word or two further inside, a border is like the cut: what stands at the sentences' ends
        # does not tell their order.
        begin, end = rng.integers(1, 3, size=2)
        tokens, starts = tokens[starts[begin] : starts[-end]], starts[begin:-end] - starts[begin]
    # The part may begin and end inside a word; a cut needs a word on either side.
    if len(starts) > 2:
        tokens, starts = tokens[starts[0] :], starts[1:-1] - starts[0]
        cut = int(starts[rng.integers(len(starts))])
    else:
        cut = len(tokens) // 2
    false = bool(rng.random() < 0.5)
    first, second, room = tokens[:cut], tokens[cut:], len(tokens) - cut
    if task == "nsp" and false:
        other = record["other_tokens"][record["other_segment_ids"] > 0]
        starts = _word_starts(other, vocabulary)
        fitting = int(np.searchsorted(starts, len(other) - room, side="right"))
        begin = int(starts[rng.integers(max(fitting, 1))]) if len(starts) else 0
        second = other[begin : begin + room]
    second = _whole_words(second, vocabulary)
    if task == "sop" and false:
        first, second = second, first
    return SentencePair(first, second, DOES_NOT if false else FOLLOWS)


def join_pair(pair: SentencePair, length: int, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, segment ids (1; 0 is padding) and token types (0 for [CLS] A [SEP], 1 for B [SEP]), int32[T]."""
    cls, sep = [vocabulary.cls], [vocabulary.sep]
    joined = np.concatenate((cls, pair.first, sep, pair.second, sep))
    tokens = np.full(length, vocabulary.pad, np.int32)
    tokens[: len(joined)] = joined
    place = np.arange(length)
    segment_ids = (place < len(joined)).astype(np.int32)
    token_types = ((place >= len(pair.first) + 2) & (segment_ids > 0)).astype(np.int32)
    return tokens, segment_ids, token_types


def _word_starts(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    return np.flatnonzero(vocabulary.begins_word[tokens])


def _whole_words(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """`tokens` without the last word, whose end may be missing; all of them if they are one word."""
    starts = _word_starts(tokens[1:], vocabulary) + 1
    return tokens[: starts[-1]] if len(starts) else tokens
