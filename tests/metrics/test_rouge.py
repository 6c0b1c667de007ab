"""ROUGE by counted words."""

import pytest

from transformer.metrics.rouge import rouge


def test_words_and_pairs_are_counted_and_stemmed():
    found = rouge(["the cats sat", "a dog"], ["the cat sat down", "a dog"])
    # 3 of 3 and of 4 words, 2 of 2 and of 3 pairs; all of the second
    assert found["rouge1"] == pytest.approx(100 * (2 * 3 / (3 + 4) + 1) / 2)
    assert found["rouge2"] == pytest.approx(100 * (2 * 2 / (2 + 3) + 1) / 2)
    assert found["rougeL"] == found["rouge1"]
    assert rouge([""], ["x"])["rouge1"] == 0
