"""Metrics by hand-counted tables, and where they end."""

import numpy as np
import pytest

from transformer.metrics import classification
from transformer.metrics.bootstrap import intervals


def scores(guesses, classes):
    return np.eye(classes)[guesses]


def test_two_classes_by_a_table():
    targets, guesses = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 1, 0, 0, 0, 1, 0, 0])
    found = classification.one_class(scores(guesses, 2), targets)
    # true positives 2, false positives 1, false negatives 2, true negatives 3
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found["matthews"] == pytest.approx((2 * 3 - 1 * 2) / np.sqrt(3 * 4 * 4 * 5))


def test_more_classes_are_averaged_and_an_absent_one_is_none():
    found = classification.one_class(scores([0, 1, 1], 3), np.array([0, 1, 0]))
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert classification.one_class(scores([0, 0], 2), np.array([0, 0])) == {"accuracy": 1, "f1": 0, "matthews": 0}


def test_several_classes():
    found = classification.several_classes(
        np.array([[1.0, -1], [1, 1], [-1, -1]]), np.array([[1, 0], [1, 0], [0, 1.0]])
    )
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["f1_macro"] == pytest.approx((1 + 0) / 2)


def test_numbers():
    found = classification.numbers(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]))
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert found["mse"] == pytest.approx(1 / 3)
    assert classification.numbers(np.ones(3), np.arange(3.0))["pearson"] == 0
    assert classification.numbers(np.ones(1), np.ones(1)) == {"pearson": 0, "spearman": 0, "mse": 0}


def test_a_confusion_matrix_is_read_by_rows():
    lines = classification.confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), ["bad", "good"]).splitlines()
    assert [line.split() for line in lines] == [
        ["right", "\\", "told", "bad", "good"],
        ["bad", "1", "1"],
        ["good", "0", "1"],
    ]


def test_an_interval_holds_what_theory_says():
    right = np.random.default_rng(1).random(400) < 0.8
    low, high = intervals(lambda chosen: {"accuracy": right[chosen].mean()}, 400)["accuracy"]
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (low, high) == pytest.approx((right.mean() - error, right.mean() + error), abs=0.008)
