"""The pairs of next sentence prediction and sentence order prediction: what they are made of, and what tells of it."""

import numpy as np
import pytest

from tests.exhaustive import few
from transformer.objectives import MaskedLM
from transformer.objectives.sentence_pairs import make_pair

from .world import CLS, FIRST, LONG, SEP, STORE, VOCABULARY, WORDS, examples, make_store, original


def find(store, tokens):
    """Where in the stream these tokens stand: everywhere that they do."""
    stream = store.tokens.astype(np.int64)
    starts = np.flatnonzero(stream[: len(stream) - len(tokens) + 1] == tokens[0])
    return [int(i) for i in starts if np.array_equal(stream[i : i + len(tokens)], tokens)]


def pair_of(example):
    tokens, segments, types = original(example), example["inputs"]["segment_ids"], example["inputs"]["token_types"]
    row = tokens[segments > 0]
    first, second = np.flatnonzero(row == SEP)
    assert row[0] == CLS
    assert second == len(row) - 1
    np.testing.assert_array_equal(types[: len(row)], np.arange(len(row)) > first)
    assert (types[len(row) :] == 0).all()
    np.testing.assert_array_equal(example["inputs"]["positions"], np.arange(len(tokens)) * (segments > 0))
    return row[1:first], row[first + 1 : second]


@pytest.mark.parametrize("task", few(["nsp", "sop"], "nsp"))
def test_half_of_the_pairs_are_false(task):
    found = [e["sentence_targets"] for e in examples(MaskedLM(sentence=task), 64, LONG, 6000)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_a_true_pair_follows_and_a_false_one_is_another_documents():
    ends = STORE.offsets[1:]
    for example in examples(MaskedLM(sentence="nsp"), 96, STORE, 120):
        first, second = pair_of(example)
        if example["sentence_targets"] == 0:
            assert find(STORE, np.concatenate((first, second)))
        elif min(len(first), len(second)) > 3:
            [a], [b] = find(STORE, first), find(STORE, second)
            assert np.searchsorted(ends, a, side="right") != np.searchsorted(ends, b, side="right")


def test_a_false_order_is_the_true_one_swapped():
    for example in examples(MaskedLM(sentence="sop"), 96, STORE, 120):
        first, second = pair_of(example)
        if example["sentence_targets"] == 1:
            first, second = second, first
        [start] = find(STORE, np.concatenate((first, second)))
        assert STORE.tokens[start + len(first) + len(second)] < WORDS  # the next word, or </s>


@pytest.mark.parametrize("task", few(["nsp", "sop"], "sop"))
def test_neither_lengths_nor_edges_give_the_sentence_task_away(task):
    """Documents of many parts: both classes have rows as long, and begin and end at words."""
    store = make_store([5000] * 40)
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for example in examples(MaskedLM(sentence=task), 64, store, 3000):
        first, second = pair_of(example)
        lengths[int(example["sentence_targets"])].append(len(first) + len(second))
        assert first[0] < WORDS
        assert second[0] < WORDS
    assert np.mean(lengths[0]) == pytest.approx(np.mean(lengths[1]), abs=0.15)
    assert np.mean(lengths[0]) > {"nsp": 57, "sop": 53}[task]  # a word less at either end


def test_the_words_at_the_borders_do_not_tell_the_order():
    """Long words, each followed by a sign: a part begins inside a word, so after it a sign is next more often than
    elsewhere. Were that where the first sentence begins, eight of nine true pairs would begin with a sign."""
    long, sign = [FIRST + 1, *[WORDS + 1] * 7], [FIRST]
    text = np.array((long + sign) * 12)
    begins: dict[int, list[tuple[bool, bool, bool]]] = {0: [], 1: []}
    for index in range(3000):
        rng = np.random.default_rng(index)
        tokens = text[(start := rng.integers(9)) : start + 61]
        pair = make_pair("sop", {"tokens": tokens, "segment_ids": np.ones_like(tokens)}, VOCABULARY, rng)
        begins[pair.target].append((pair.first[0] == FIRST, pair.second[0] == FIRST, pair.second[-1] == FIRST))
    for true, false in zip(np.mean(begins[0], axis=0), np.mean(begins[1], axis=0), strict=True):
        assert true == pytest.approx(false, abs=0.06)
