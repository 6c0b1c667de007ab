"""Answers by hand-made cases of SQuAD's official rules, and spans by trying them all."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from transformer.metrics import answers
from transformer.metrics.spans import Window, best_answers, best_spans


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The  Broncos!", "broncos"),
        ("an apple, a day", "apple day"),
        ("U.S.A.", "usa"),
        ("Theatre", "theatre"),  # an article is a word of its own
        ("a", ""),
        ("naïve \u2013 yes", "naïve \u2013 yes"),  # punctuation is ASCII's
    ],
)
def test_texts_are_normalized(text, want):
    assert answers.normalized(text) == want


@pytest.mark.parametrize(
    ("told", "right", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Denver Denver", ["Denver Broncos"], 0, 1 / 2),
        ("Broncos", ["Denver", "broncos."], 1, 1),  # the best of several
        ("Broncos", ["Panthers"], 0, 0),
        ("", [], 1, 1),
        ("Broncos", [], 0, 0),
        ("", ["Broncos"], 0, 0),
        ("", ["the"], 1, 1),  # an answer without words is none
    ],
)
def test_squads_rules(told, right, exact, f1):
    assert answers.exact_match(told, right) == exact
    assert answers.f1(told, right) == pytest.approx(f1)


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.3, 4.0]), st.floats(0, 1), st.booleans()), min_size=1)
)
def test_the_best_threshold_is_the_best_of_all(rows):
    margins, f1, has_none = (np.array(column) for column in zip(*rows, strict=True))

    def mean(threshold):
        return np.where(margins > threshold, has_none, f1).mean()

    best, threshold = answers.best_threshold(margins, f1, has_none)
    assert best == pytest.approx(mean(threshold))
    assert best == pytest.approx(max(mean(each) for each in (-3.0, -1.0, -0.2, 0.1, 1.0, 5.0)))


def window(seed, length=12, question=4):
    """A window whose first tokens are the question's, and whose every token of the context is a character."""
    rng = np.random.default_rng(seed)
    answerable = np.arange(length) >= question
    answerable[0] = True
    starts = np.maximum(np.arange(length) - question, 0)
    return Window(rng.normal(size=(length, 2)).astype(np.float32) * 3, answerable, starts, starts + 1)


def softmax(logits):
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


@pytest.mark.parametrize("seed", range(6))
def test_spans_are_the_surest_of_all(seed):
    logits, answerable, *_ = window(seed)
    places = np.flatnonzero(answerable)
    starts, ends = (dict(zip(places, softmax(logits[places, side]), strict=True)) for side in (0, 1))
    want = {(i, j): starts[i] * ends[j] for i, j in itertools.product(places[1:], repeat=2) if i <= j < i + 3}
    found, null = best_spans(logits, answerable, 5, 3)
    assert null == pytest.approx(starts[0] * ends[0], rel=1e-5)
    assert [(span.start, span.end) for span in found] == sorted(want, key=lambda each: -want[each])[:5]
    assert [span.score for span in found] == pytest.approx(sorted(want.values())[:-6:-1], rel=1e-5)


def test_there_may_be_no_answer_where_the_least_sure_window_says_so():
    windows = [window(seed) for seed in range(3)]
    for logits, *_ in windows:
        logits[0] = 50
    context = "abcdefgh"
    [none] = best_answers(context, windows, most_tokens=3, may_be_none=True)
    assert (none.text, none.start, none.end) == ("", 0, 0)
    assert none.score == pytest.approx(1, abs=1e-6)
    [some] = best_answers(context, windows, most_tokens=3, may_be_none=False)
    assert some.text
    windows[1].logits_T2[0] = -50
    windows[1].logits_T2[5, 0] = windows[1].logits_T2[6, 1] = 50
    [found] = best_answers(context, windows, most_tokens=3, may_be_none=True)
    assert (found.text, found.start, found.end) == ("bc", 1, 3)


def test_scores_of_equal_answers_add_up():
    """Windows that overlap find the same answer."""
    one = window(3)
    once = best_answers("abcdefgh", [one], most_tokens=3, may_be_none=False, top_k=4)
    twice = best_answers("abcdefgh", [one, one], most_tokens=3, may_be_none=False, top_k=4)
    assert [each.text for each in once] == [each.text for each in twice]
    assert [2 * each.score for each in once] == pytest.approx([each.score for each in twice])
