"""Classes of texts: answers of `transformer.pipeline` against Transformers' on the same folder."""

import weakref

import pytest

import transformer
from tests.exhaustive import few
from tests.tasks.folders import CONTEXT, TEXTS, both, check_equal, save
from transformer.errors import UserError

PAIR = {"text": TEXTS[1], "text_pair": TEXTS[3]}
LABELS = ("NEGATIVE", "NEUTRAL", "POSITIVE")
MODELS = {
    "bert": {"labels": LABELS},
    "roberta": {"num_labels": 4},
    "distilbert": {"labels": LABELS},
    "gpt2": {"labels": LABELS},
    "bart": {"labels": LABELS},
    "t5": {"labels": LABELS},
}


@pytest.fixture(scope="module", params=few(MODELS, "bert", "roberta", "bart"))
def pipelines(request, tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("m"), request.param, "ForSequenceClassification", **MODELS[request.param])
    return both(folder, "text-classification")


def test_answers_are_transformers(pipelines):
    ours, theirs = pipelines
    for given in (TEXTS[0], TEXTS, PAIR, [PAIR, {"text": TEXTS[0]}], [[[TEXTS[0], TEXTS[2]]]]):
        for options in (
            {},
            {"top_k": 2},
            {"top_k": None},
            {"top_k": 1},
            {"top_k": None, "function_to_apply": "sigmoid"},
        ):
            check_equal(ours(given, **options), theirs(given, **options), f"{given} {options}")


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", None])
@pytest.mark.parametrize("count", [1, 3])
def test_what_the_problem_asks_for(tmp_path, problem, count):
    folder = save(tmp_path, "bert", "ForSequenceClassification", num_labels=count, problem_type=problem)
    ours, theirs = both(folder, "sentiment-analysis", top_k=None)
    check_equal(ours(TEXTS), theirs(TEXTS, top_k=None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("m"), "bert", "ForSequenceClassification", labels=LABELS)


def test_options_of_the_pipeline_stand_for_those_of_calls(folder):
    """And a text alone then comes in a list, as Transformers' has it."""
    ours, theirs = both(folder, "text-classification", top_k=2)
    from transformers import pipeline

    theirs = pipeline("text-classification", model=str(folder), top_k=2)
    check_equal(ours(TEXTS[0]), theirs(TEXTS[0]))
    check_equal(ours(TEXTS[0], top_k=1), theirs(TEXTS[0], top_k=1))
    check_equal(ours(TEXTS), theirs(TEXTS))


def test_a_stream_is_read_as_it_is_answered(folder):
    ours, theirs = both(folder, "text-classification")
    taken = []

    def stream():
        for number in range(300):
            taken.append(number)
            yield TEXTS[number % 5] * (1 + number % 3)

    answers = ours(stream(), batch_size=2)
    first = next(answers)
    assert len(taken) == 2, "a stream's first answers come after one batch"
    rest = list(answers)
    assert len(rest) == 299
    wanted = theirs([TEXTS[number % 5] * (1 + number % 3) for number in range(300)])
    check_equal([first, *rest], wanted)


class Text(str):
    """A text that can be watched."""


def test_a_stream_is_not_held(folder):
    """However many the inputs are, those of a window or two are there at a time."""
    ours, _ = both(folder, "text-classification")
    alive, most = weakref.WeakSet(), 0

    def stream():
        for number in range(600):
            text = Text(TEXTS[number % 5])
            alive.add(text)
            yield text

    for _ in ours(stream(), batch_size=2):
        most = max(most, len(alive))
    assert most <= 2 * 2 * ours.task.window


def test_batches_do_not_change_answers(folder):
    ours, _ = both(folder, "text-classification", top_k=None)
    texts = [TEXTS[number % 5] * (1 + number % 3) for number in range(40)]
    for size in (1, 3, 64):
        check_equal(ours(texts, batch_size=size), ours(texts), tolerance=1e-6)


def test_a_long_text_is_refused_or_cut(folder):
    ours, theirs = both(folder, "text-classification")
    long = "the cat sat " * CONTEXT
    with pytest.raises(
        UserError, match=rf"^input 1 has {3 * CONTEXT + 2} tokens and the model reads {CONTEXT}: .* truncation=True"
    ):
        ours([TEXTS[0], long])
    check_equal(ours(long, truncation=True), theirs(long, truncation=True))
    check_equal(
        ours({"text": long, "text_pair": long}, truncation=True),
        theirs({"text": long, "text_pair": long}, truncation=True),
    )
    check_equal(ours(long, truncation=True, max_length=9), theirs(long, truncation=True, max_length=9))


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([TEXTS[0], ""], {}, "^input 1: a text is empty"),
        ("  ", {}, "^input 0: a text is empty"),
        (3, {}, "^input 0: a text is to be a string, and it is a int"),
        ([["a", "b"], ["c", "d"]], {}, "^input 0: a list within a list"),
        ({"words": "a"}, {}, '^input 0: a dict is to have "text"'),
        ("a", {"top": 1}, "^text-classification has no option 'top'; did you mean top_k"),
        ("a", {"top_k": 0}, "^top_k is 0: give at least 1"),
        ("a", {"function_to_apply": "square"}, "^function_to_apply is 'square': give softmax, sigmoid, none"),
        ("a", {"batch_size": 0}, "^batch_size is 0"),
    ],
)
def test_what_is_refused(folder, given, options, says):
    with pytest.raises(UserError, match=says):
        transformer.pipeline("text-classification", model=folder)(given, **options)


def test_nothing_is_answered_with_nothing(folder):
    assert transformer.pipeline("text-classification", model=folder)([]) == []


def test_the_wrong_task(folder):
    with pytest.raises(UserError, match="is a bert model with the head sequence_classification: token-classification "):
        transformer.pipeline("ner", model=folder)
    with pytest.raises(UserError, match="no task 'text-clasification'; did you mean text-classification"):
        transformer.pipeline("text-clasification", model=folder)
    with pytest.raises(UserError, match="needs model="):
        transformer.pipeline("ner")
    with pytest.raises(UserError, match="has no option 'top'"):
        transformer.pipeline("text-classification", model=folder, top=3)
    assert transformer.pipeline(model=folder).task.name == "text-classification"
