"""Answers to questions: the rules of Transformers 4's pipeline, rendered plainly; and numbers of Transformers' model.

Transformers 5 has no such pipeline any more. `reference` renders that of Transformers 4 in plain loops over what
Transformers' own model and tokenizer give for the same windows.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
import transformers

import transformer
from tests.exhaustive import few
from tests.tasks.folders import CONTEXT, check_equal, save
from transformer.errors import UserError
from transformer.metrics.spans import best_spans

QUESTION = "the cat sat to a dog?"
CONTEXTS = [
    "a dog ran to THE CAT, the naïve Zürich cat sat . covid 19!",
    "日本 " + "the dog sat to a naïve cat; a covid dog ran to Zürich . " * 12,
]


def reference(model, tokenizer, question, context, *, top_k=1, max_answer_len=15, handle_impossible_answer=False,
              align_to_words=True, max_seq_len=None, doc_stride=None):  # fmt: skip
    """The pipeline of Transformers 4, in loops."""
    most = min(CONTEXT, 384) if max_seq_len is None else max_seq_len
    stride = min(most // 2, 128) if doc_stride is None else doc_stride
    encoded = tokenizer([question], [context], truncation="only_second", max_length=most, stride=stride,
                        return_overflowing_tokens=True)  # fmt: skip
    null, answers = 1e6, []
    for window, ids in enumerate(encoded["input_ids"]):
        inputs = {name: torch.tensor([encoded[name][window]]) for name in tokenizer.model_input_names}
        with torch.no_grad():
            out = model(**inputs)
        may = [
            text == 1 or token == tokenizer.cls_token_id
            for text, token in zip(encoded.sequence_ids(window), ids, strict=True)
        ]
        probabilities = []
        for logits in (out.start_logits[0].numpy(), out.end_logits[0].numpy()):
            masked = np.where(may, logits, -10_000.0)
            exponentials = np.exp(masked - masked.max())
            probabilities.append(exponentials / exponentials.sum())
        starts, ends = probabilities
        null = min(null, float(starts[0] * ends[0]))
        starts[0] = ends[0] = 0.0
        spans = [
            (starts[i] * ends[j], i, j)
            for i, j in itertools.product(range(len(ids)), repeat=2)
            if i <= j < i + max_answer_len and may[i] and may[j]
        ]
        spans.sort(key=lambda span: -span[0])
        encoding = encoded.encodings[window]
        for score, i, j in spans[: 2 * top_k + 10 if align_to_words else top_k]:
            begin, end = encoding.offsets[i][0], encoding.offsets[j][1]
            words = [encoding.token_to_word(place) for place in (i, j)]
            if align_to_words and None not in words:
                begin = encoding.word_to_chars(words[0], 1)[0]
                end = encoding.word_to_chars(words[1], 1)[1]
            answer = context[begin:end]
            same = [each for each in answers if each["answer"].lower() == answer.lower()]
            if same:
                same[0]["score"] += float(score)
            else:
                answers.append({"score": float(score), "start": begin, "end": end, "answer": answer})
    if handle_impossible_answer:
        answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
    answers = sorted(answers, key=lambda each: -each["score"])[:top_k]
    return answers[0] if len(answers) == 1 else answers


OPTIONS = [
    {},
    {"top_k": 3},
    {"top_k": 4, "handle_impossible_answer": True},
    {"top_k": 3, "align_to_words": False, "max_answer_len": 4},
    {"top_k": 2, "max_seq_len": 40, "doc_stride": 7},
    {"handle_impossible_answer": True, "max_answer_len": 1},
]


@pytest.fixture(scope="module", params=few(("bert", "roberta", "distilbert", "bart"), "bert", "roberta"))
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("m"), request.param, "ForQuestionAnswering")


def test_answers_are_those_of_the_rules(folder):
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = transformer.pipeline("question-answering", model=folder)
    for context, options in itertools.product(CONTEXTS, OPTIONS):
        wanted = reference(model, tokenizer, QUESTION, context, **options)
        check_equal(ours(question=QUESTION, context=context, **options), wanted, f"{context[:9]} {options}")


def test_the_ways_to_ask(folder):
    ours = transformer.pipeline("question-answering", model=folder)
    asked = [{"question": QUESTION, "context": context} for context in CONTEXTS]
    wanted = [ours(each) for each in asked]
    one = functools.partial(check_equal, tolerance=1e-5)
    one(ours(asked), wanted)
    one(ours(asked[:1]), wanted[0], "a list of one is answered as one")
    one(ours(question=QUESTION, context=CONTEXTS), wanted)
    one(ours(question=[QUESTION] * 2, context=CONTEXTS), wanted)
    one(list(ours(iter(asked))), wanted)


def test_spans_of_a_row():
    """The outer product of both softmaxes, at most two tokens long, in the context alone."""
    scores = np.log(np.array([[0.2, 0.3], [9.0, 9.0], [0.5, 0.1], [0.2, 0.4], [0.1, 0.2]], np.float32))
    may = np.array([True, False, True, True, True])
    spans, null = best_spans(scores, may, 3, 2)
    assert null == pytest.approx(0.2 * 0.3)
    expected = [(2, 3, 0.5 * 0.4), (3, 3, 0.2 * 0.4), (2, 2, 0.5 * 0.1)]
    assert [(span.start, span.end) for span in spans] == [(start, end) for start, end, _ in expected]
    np.testing.assert_allclose([span.score for span in spans], [score for *_, score in expected], rtol=1e-5)
    spans, _ = best_spans(scores, may, 1, 3)
    assert [(span.start, span.end) for span in spans] == [(2, 3)]


def test_a_long_question_is_shortened(folder):
    """The first tokens of a question are read, and the context keeps its room."""
    ours = transformer.pipeline("question-answering", model=folder)
    long = "the cat sat to a dog " * 20
    [spans] = ours.task.tokenizer.encode_spans([long])
    read = long[: spans.ends[5]]
    assert 5 < len(read) < 25
    asked = {"question": long, "context": CONTEXTS[0]}
    assert ours(asked, max_question_len=6) == ours(asked | {"question": read})
    assert ours(asked, max_question_len=6) != ours(asked, max_question_len=9)
    with pytest.raises(UserError, match="the first, which is not cut, leaves no room for the other"):
        ours(question=long * 2, context=CONTEXTS[0], max_question_len=200)


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ({"question": QUESTION, "context": " "}, {}, "^input 0: the context is empty"),
        ({"question": "", "context": "a"}, {}, "^input 0: the question is empty"),
        ({"question": "a"}, {}, "^input 0: an input is to be a dict with 'question' and 'context'"),
        ("a", {}, "^input 0: an input is to be a dict"),
        ({"question": "a", "context": "a"}, {"top_k": 0}, "^top_k is 0"),
        ({"question": "a", "context": "a"}, {"max_answer_length": 0}, "did you mean max_answer_len"),
    ],
)
def test_what_is_refused(folder, given, options, says):
    with pytest.raises(UserError, match=says):
        transformer.pipeline("question-answering", model=folder)(given, **options)
