"""Questions: every format gives the same windows, targets are those of Transformers' example, bad input is a line."""

import ast
import json

import numpy as np
import pytest

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.defaults import defaults
from transformer.data.examples.questions import QuestionsReading
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

LONG = "The tower of number {} is {} metres high, and stands in Paris since 1889, as all know who were there."
ROWS = []
for i in range(8):
    context = LONG.format(i, 300 + i)
    place = {"text": [str(300 + i)], "answer_start": [context.index(f"{300 + i} m")]}
    ROWS.append({"question": "how high?", "context": context, "answers": place})
    ROWS.append({"question": "how wide?", "context": context, "answers": {"text": [], "answer_start": []}})


def listed(row):
    pairs = zip(*(row["answers"][name] for name in ("text", "answer_start")), strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def squad(rows):
    paragraphs = [
        {"context": row["context"], "qas": [{"id": f"q{n}", "question": row["question"], "answers": listed(row)}]}
        for n, row in enumerate(rows)
    ]
    return {"version": "v2.0", "data": [{"title": "towers", "paragraphs": paragraphs}]}


def opened(path, length=64, **fields):
    whole = fields.pop("whole", False)
    named = {"text_field": "question", "pair_field": "context", "label_field": "answers", "validation_fraction": 0.3}
    config = ExamplesConfig(path=str(path), **{**named, "stride": 8, **fields})
    return open_dataset(config, QuestionsReading(length), vocab_size=400, tokenizer=ByteTokenizer(), whole=whole)


def write(folder, name, rows=ROWS):
    path = folder / name
    if name.startswith("squad"):
        path.write_text(json.dumps(squad(rows), indent=1))
    elif name.startswith("flat"):
        path.write_text(json.dumps({"version": 2.0, "data": rows}, indent=1))
    elif name.startswith("listed"):
        path.write_text("\n".join(json.dumps({**row, "answers": listed(row)}) for row in rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def contents(found):
    records = found.validation
    return [{name: values.tolist() for name, values in records[i].items()} for i in range(len(records))]


@pytest.mark.parametrize("name", ["squad.json", "flat.json", "listed.jsonl", "rows.json"])
def test_every_format_gives_the_same_windows(name, tmp_path):
    want, found = opened(write(tmp_path, "rows.jsonl")), opened(write(tmp_path, name))
    assert contents(found) == contents(want)
    assert found.labels == ()
    assert len(found.train[0].questions) + len(found.validation.questions) == len(ROWS)


def test_all_questions_about_a_context_are_in_one_split(tmp_path):
    found = opened(write(tmp_path, "rows.jsonl"))
    contexts = [{each.context for each in records.questions} for records in (found.train[0], found.validation)]
    assert contexts[0].isdisjoint(contexts[1])


def theirs(starts, ends, texts, start, end):
    """The tokens of an answer as Transformers' example finds them (examples/pytorch/question-answering/run_qa.py)."""
    first, last = np.flatnonzero(texts == 1)[[0, -1]]
    if not (starts[first] <= start and ends[last] >= end):
        return 0, 0
    while first < len(starts) and texts[first] == 1 and starts[first] <= start:
        first += 1
    while ends[last] >= end:
        last -= 1
    return first - 1, last + 1


def test_windows_overlap_and_have_the_answer_where_all_of_it_is(tmp_path):
    found = opened(write(tmp_path, "rows.jsonl"), whole=True)
    records = found.validation
    assert len(records) > 2 * len(records.questions)
    with_answer = 0
    for number, question in enumerate(records.questions):
        read = ""
        for window in range(records.windows[number], records.windows[number + 1]):
            texts, starts, ends = (each[window] for each in (records.in_context, records.starts, records.ends))
            places = np.flatnonzero(texts)
            shared = len(read) - starts[places[0]]
            assert shared == (0 if not read else 8)
            read = question.context[: ends[places[-1]]]
            span = records[window]["span"].tolist()
            if not question.answers:
                assert span == [0, 0]
                continue
            [(text, start)] = question.answers
            assert tuple(span) == theirs(starts, ends, texts, start, start + len(text))
            if span != [0, 0]:
                assert question.context[starts[span[0]] : ends[span[1]]] == text
                with_answer += 1
        assert read == question.context
    assert with_answer >= len(records.questions) // 2
    assert "windows of" in found.about.validation[0]


def test_a_question_is_cut_to_half_of_a_row(tmp_path):
    row = {**ROWS[0], "question": "why " * 100}
    records = opened(write(tmp_path, "rows.jsonl", [row, row]), whole=True).validation
    assert records.in_context[0].tolist().index(1) == 32 + 2  # between the specials
    assert records.in_context[0].sum() >= 28


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": {"text": ["Rome"], "answer_start": [4]}}, "'Rome' does not begin at character 4 of its context: "),
        ({"answers": {"text": ["Paris"], "answer_start": [4]}}, "of its context: it begins at "),
        ({"answers": {"text": ["tower"], "answer_start": []}}, "answers: give as many answer_start as text, in lists"),
        ({"answers": "Paris"}, 'answers is "Paris": give text and answer_start of each answer, or []'),
        ({"answers": [{"text": "Paris"}]}, "an answer has text, not empty, and answer_start"),
        ({"answers": None}, "no 'answers'; it has: question, context. Name another with --data.label-field"),
        ({"context": " "}, "context is empty"),
        ({"question": 5}, "question is a int, not a text"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_a_line(change, words, tmp_path):
    path = write(tmp_path, "rows.jsonl", [ROWS[1], {**ROWS[0], **change}])
    with pytest.raises(UserError) as error:
        opened(path, whole=True)
    assert words in str(error.value)
    assert f"{path}:2" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_wrong_with_squads_files_is_a_line(tmp_path):
    whole = squad(ROWS)
    whole["data"][0]["paragraphs"][2]["qas"][0]["answers"][0]["answer_start"] = 3
    (tmp_path / "a.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"a.json: question 3 \(q2\): the answer '301' does not begin at character 3"):
        opened(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"title": "x"}]}))
    with pytest.raises(UserError, match="a.json: a part of its `data` has no list 'paragraphs'"):
        opened(tmp_path / "a.json")
    with pytest.raises(UserError, match="a stride of 60 tokens where a window has room for"):
        opened(write(tmp_path, "rows.jsonl"), stride=60)
    with pytest.raises(UserError, match="name the field with the context that answers a question: --data.pair-field"):
        opened(write(tmp_path, "rows.jsonl"), pair_field=None)


CODE = """
def f(self, a, b="é", *, c=(1,
                            2)):
    return lambda d=3: d
"""


def test_defaults_are_those_that_ast_tells():
    rows = list(defaults(ast.parse(CODE), CODE))
    told = {row["question"]: [each["text"] for each in row["answers"]] for row in rows}
    two_lines = "(1,\n" + " " * 28 + "2)"
    assert told == {
        "What is the default of `b`?": ['"é"'],
        "What is the default of `c`?": [two_lines],
        "What is the default of `a`?": [],
    }
    for row in rows:
        for answer in row["answers"]:
            assert row["context"][answer["answer_start"] :].startswith(answer["text"])
