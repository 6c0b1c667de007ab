"""Choices: their forms give the same rows, fewer are filled up, and bad input is a line."""

import json

import numpy as np
import pytest

from transformer.data.examples.choices import ChoicesReading
from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.next_lines import next_lines
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

ROWS = [
    {"context": f"it rains {i}", "question": "so I", "choices": ["get wet", "sing", f"see {i}"], "label": i % 3}
    for i in range(12)
]


def opened(folder, rows=ROWS, length=40, choices=4, **fields):
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    named = {"text_field": "context", "pair_field": "question", **fields}
    whole = named.pop("whole", True)
    config = ExamplesConfig(path=str(path), **named)
    return open_dataset(config, ChoicesReading(length, choices), vocab_size=400, tokenizer=ByteTokenizer(), whole=whole)


def contents(found):
    records = found.validation
    return [{name: values.tolist() for name, values in records[i].items()} for i in range(len(records))]


def test_a_row_a_choice_behind_the_text_and_the_question(tmp_path):
    found = opened(tmp_path)
    record = found.validation[1]
    tokenizer = ByteTokenizer()
    shown = [
        tokenizer.decode(row[there > 0].tolist())
        for row, there in zip(record["tokens"], record["segment_ids"], strict=True)
    ]
    assert shown == ["it rains 1so I get wet", "it rains 1so I sing", "it rains 1so I see 1", ""]
    assert record["label"] == 1
    assert found.validation.lengths[1] == record["segment_ids"].sum(axis=1).max()
    np.testing.assert_array_equal(record["token_types"][0].nonzero()[0][0], len("it rains 1") + 2)


def test_swags_fields_and_numbers_in_text_are_known(tmp_path):
    want = contents(opened(tmp_path))
    swag = [
        {"sent1": row["context"], "sent2": row["question"], "label": str(row["label"])}
        | {f"ending{n}": each for n, each in enumerate(row["choices"])}
        for row in ROWS
    ]
    assert contents(opened(tmp_path, swag)) == want


def test_a_question_alone_stands_before_its_choices(tmp_path):
    rows = [{name: row[name] for name in ("question", "choices", "label")} for row in ROWS]
    record = opened(tmp_path, rows).validation[0]
    assert ByteTokenizer().decode(record["tokens"][0].tolist()) == "so Iget wet"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 3}, "label is 3, and there are 3 choices: give the right one's number, from 0"),
        ({"label": -1}, "label is -1, and there are 3 choices"),
        ({"label": "B"}, "label is 'B', and there are 3 choices"),
        ({"label": None}, "no 'label'"),
        ({"choices": ["one"]}, "no list of two texts or more in 'choices'"),
        ({"choices": ["one", 2]}, "no list of two texts or more in 'choices'"),
        ({"choices": None}, "nor in ending0, ending1, ...: name another field with --data.choices-field"),
        ({"choices": ["one", ""]}, "choice 1 is empty"),
        ({"choices": list("abcde")}, "5 choices: give --objective.choices 5"),
        ({"context": None, "question": None}, "no 'context'; it has: choices, label. Name another with"),
        ({"context": " "}, "context is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_a_line(change, words, tmp_path):
    with pytest.raises(UserError) as error:
        opened(tmp_path, [ROWS[0], {**ROWS[1], **change}])
    assert words in str(error.value)
    assert "a.jsonl:2" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_line_that_comes_next_is_the_right_choice():
    text = "\n".join(f"    line_number_{i} = {i}" for i in range(60))
    rows = list(next_lines(text))
    assert rows == list(next_lines(text))
    assert len({row["label"] for row in rows}) > 1
    for row in rows:
        shown, right = row["context"].splitlines(), row["choices"][row["label"]]
        number = int(shown[-1].rpartition(" ")[2])
        assert right == f"line_number_{number + 1} = {number + 1}"
        assert len({*row["choices"], *shown}) == 4 + len(shown)
