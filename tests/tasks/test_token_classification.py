"""Classes of tokens: answers of `transformer.pipeline` against Transformers' on the same folder."""

import numpy as np
import pytest

import transformer
from tests.exhaustive import few
from tests.tasks.folders import CONTEXT, TEXTS, both, check_equal, save
from transformer.errors import UserError
from transformer.tasks.token_classification import STRATEGIES, without_overlaps

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "NAME")
LONG = " ".join(TEXTS * 6)


@pytest.fixture(scope="module", params=few(("bert", "roberta", "distilbert", "gpt2"), "bert", "roberta"))
def pipelines(request, tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("m"), request.param, "ForTokenClassification", labels=LABELS)
    return both(folder, "ner")


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_answers_are_transformers(pipelines):
    ours, theirs = pipelines
    for strategy in STRATEGIES:
        for ignored in ({}, {"ignore_labels": []}, {"ignore_labels": ["PER", "B-PER"]}):
            options = {"aggregation_strategy": strategy, **ignored}
            check_equal(ours(TEXTS, **options), theirs(TEXTS, **options), f"{options}")
            check_equal(ours(TEXTS[1], **options), theirs(TEXTS[1], **options), f"{options}")


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_windows_of_a_long_text(pipelines):
    """All of it is read; groups of two windows that overlap are one."""
    ours, theirs = pipelines
    if theirs.tokenizer.pad_token is None:  # without one, theirs reads no windows
        theirs.tokenizer.pad_token = theirs.tokenizer.eos_token
    for strategy in ("simple", "first", "max"):
        for stride in (0, 5, 17):
            options = {"aggregation_strategy": strategy, "stride": stride}
            answers = ours(LONG, **options)
            check_equal(answers, theirs(LONG, **options), f"{options}")
            assert answers[-1]["end"] > 0.9 * len(LONG)


def test_a_long_text_is_cut_and_said_to_be(pipelines, caplog):
    ours, theirs = pipelines
    check_equal(ours([TEXTS[0], LONG]), theirs([TEXTS[0], LONG]))
    [record] = caplog.records
    assert record.getMessage().startswith(f"input 1 is longer than the {CONTEXT} tokens"), record.getMessage()
    assert "give stride" in record.getMessage()


def test_offsets_are_characters(pipelines):
    ours, _ = pipelines
    text = "日本 naïve Zürich é! 😀 the cat"
    for answer in ours(text, ignore_labels=[], aggregation_strategy="simple"):
        assert 0 <= answer["start"] < answer["end"] <= len(text)


def test_overlaps():
    """The longest stays, of equally long ones the surest, and each is compared with the last that was kept."""
    group = lambda start, end, score: {"start": start, "end": end, "score": score}  # noqa: E731
    given = [group(0, 4, 0.5), group(2, 8, 0.1), group(6, 12, 0.2), group(12, 13, 0.3), group(12, 13, 0.2)]
    assert without_overlaps(given) == [given[2], given[3]]
    assert without_overlaps([]) == []


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        (["a", ""], {}, "^input 1: a text is empty"),
        ("a", {"aggregation_strategy": "mean"}, "^aggregation_strategy is 'mean': give none, simple"),
        ("a", {"stride": 3}, "^stride joins windows by their groups"),
        (
            LONG,
            {"stride": CONTEXT - 2, "aggregation_strategy": "simple"},
            f"a stride of {CONTEXT - 2} tokens where a window has",
        ),
    ],
)
def test_what_is_refused(tmp_path, given, options, says):
    folder = save(tmp_path, "bert", "ForTokenClassification", labels=LABELS)
    with pytest.raises(UserError, match=says):
        transformer.pipeline("ner", model=folder)(given, **options)


def test_scores_are_plain_numbers(pipelines):
    ours, _ = pipelines
    assert not any(isinstance(value, np.generic) for answer in ours(TEXTS[1]) for value in answer.values())
