"""Tags by hand-counted sentences, as conlleval counts names."""

import numpy as np
import pytest

from transformer.metrics import tagging

RIGHT = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"], ["B-LOC", "B-LOC"]]
TOLD = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "O"], ["B-LOC", "B-LOC"]]
# right names 5; told 4: the person, an organisation that is a place, two places


def test_a_name_counts_where_all_of_it_is_right():
    found = tagging.count_entities(RIGHT, TOLD).entities()
    assert found["precision"] == pytest.approx(3 / 4)
    assert found["recall"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 3 / (4 + 5))
    assert found["accuracy"] == pytest.approx(6 / 8)


def of(right, told):
    return tagging.count_entities(right, told).entities()


def test_half_a_name_is_none_and_one_that_goes_on_without_a_beginning_begins():
    assert of([["B-PER", "I-PER"]], [["B-PER", "O"]])["f1"] == 0
    assert of([["B-PER", "I-PER"]], [["I-PER", "I-PER"]])["f1"] == 1  # as conlleval has it
    assert of([["O", "O"]], [["O", "O"]]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}


def test_any_tags_are_scored_as_seqeval_and_scikit_learn_score_them():
    from seqeval import metrics
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    tags = ["O", "B-X", "I-X", "B-Y", "I-Y", "E-X", "S-Y"]
    right, told = ([[str(rng.choice(tags)) for _ in range(n % 9 + 1)] for n in range(60)] for _ in range(2))
    chosen = rng.integers(60, size=60)
    some = [[sentences[n] for n in chosen] for sentences in (right, told)]
    found = tagging.count_entities(right, told).entities(chosen)
    assert found["f1"] == pytest.approx(metrics.f1_score(*some))
    assert found["precision"] == pytest.approx(metrics.precision_score(*some))
    assert found["recall"] == pytest.approx(metrics.recall_score(*some))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(*some))
    flat = [[tag for tags in sentences for tag in tags] for sentences in some]
    found = tagging.count_words(right, told).words(chosen)
    assert found["f1"] == pytest.approx(f1_score(*flat, average="macro"))


def test_tables_have_a_line_a_kind():
    rows = [line.split() for line in tagging.entity_table(RIGHT, TOLD).splitlines() if line]
    assert ["LOC", "1.0000", "0.6667", "0.8000", "3"] in rows
    assert ["ORG", "0.0000", "0.0000", "0.0000", "1"] in rows
    rows = [line.split() for line in tagging.word_table([["NOUN", "VERB"]], [["NOUN", "NOUN"]]).splitlines()]
    assert ["NOUN", "0.5000", "1.0000", "0.6667", "1"] in rows
