"""Texts with labels: every format gives the same examples, labels have their order, and bad input is a line."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.texts import TextsReading
from transformer.data.kinds import open_dataset, survey
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

ROWS = [
    {"text": f"{word} number {i}, \u00fc", "label": label}
    for i in range(20)
    for word, label in (("bad", "neg"), ("fine", "pos"))
]


def write(folder, name, rows=ROWS):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    lines = [json.dumps(row) for row in rows]
    if ".tsv" in name or ".csv" in name:
        quote = (lambda cell: cell) if ".tsv" in name else (lambda cell: '"' + cell.replace('"', '""') + '"')
        mark = "\t" if ".tsv" in name else ","
        lines = [mark.join(quote(str(cell)) for cell in row.values()) for row in rows]
        lines = [mark.join(rows[0]), *lines]
    text = "[" + ",".join(lines) + "]" if name.endswith(".json") else "\n".join(lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def opened(path, kind="one", length=40, **fields):
    whole = fields.pop("whole", False)
    config = ExamplesConfig(path=str(path), validation_fraction=0.3, **fields)
    return open_dataset(config, TextsReading(length, kind), vocab_size=400, tokenizer=ByteTokenizer(), whole=whole)


def contents(records):
    return sorted(
        (bytes(record["tokens"].astype(np.uint16)), record["label"].tolist())
        for record in (records[i] for i in range(len(records)))
    )


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.json", "a.parquet", "a.jsonl.gz", "a.tsv.gz"])
def test_every_format_gives_the_same_examples(name, tmp_path):
    want, found = opened(write(tmp_path, "a.jsonl")), opened(write(tmp_path, name))
    assert found.labels == want.labels == ("neg", "pos")
    assert contents(found.validation) == contents(want.validation)
    assert contents(found.train[0]) == contents(want.train[0])
    assert len(found.train[0]) + len(found.validation) == len(ROWS)


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    (tmp_path / "a.tsv").write_text("pos\tgood\nneg\tbad\npos\tfine\nneg\tawful\n")
    found = opened(tmp_path / "a.tsv", columns=("label", "text"))
    assert found.labels == ("neg", "pos")
    with pytest.raises(UserError, match="a.tsv:2: no 'text'; it has: pos, good. Name another with --data.text-field"):
        opened(tmp_path / "a.tsv")


def test_a_folder_has_a_file_a_split_and_a_test_file_is_for_evaluation(tmp_path):
    write(tmp_path, "train.jsonl", ROWS[:30])
    write(tmp_path, "dev.tsv", ROWS[30:34])
    write(tmp_path, "test.csv", ROWS[34:])
    found = opened(tmp_path)
    assert (len(found.train[0]), len(found.validation)) == (30, 4)
    found = opened(tmp_path, whole=True)
    assert (found.train, len(found.validation)) == ((), 6)


def test_equal_texts_are_in_one_split(tmp_path):
    found = opened(write(tmp_path, "a.jsonl", [*ROWS, *ROWS]))
    train, held = ({tokens for tokens, _ in contents(each)} for each in (found.train[0], found.validation))
    assert train.isdisjoint(held)


def test_pairs_are_framed_with_types_and_cut_as_asked(tmp_path):
    rows = [{"first": f"{i}" + "a" * 29, "second": f"{i}" * 30, "label": "x" if i % 2 else "y"} for i in range(10)]
    found = opened(write(tmp_path, "a.jsonl", rows), text_field="first", pair_field="second", cut="only_second")
    record = found.validation[0]
    tokenizer = ByteTokenizer()
    shown = tokenizer.decode(record["tokens"].tolist())
    assert shown[1:].startswith("a" * 29)
    assert record["segment_ids"].all()
    assert record["token_types"].tolist() == sorted(record["token_types"].tolist())
    assert 0 < record["token_types"].sum() < 10


@pytest.mark.parametrize(
    ("labels", "order"),
    [(["10", "9", "-1"], ("-1", "9", "10")), ([2, 0, 1], ("0", "1", "2")), ([True, False, True], ("false", "true"))],
)
def test_labels_are_in_order(labels, order, tmp_path):
    rows = [{"text": f"text {i} {j}", "label": label} for i in range(20) for j, label in enumerate(labels)]
    assert opened(write(tmp_path, "a.jsonl", rows)).labels == order
    config = ExamplesConfig(path=str(tmp_path / "a.jsonl"), validation_fraction=0.3)
    told = survey(config, TextsReading(8))
    assert told is not None
    assert (told.labels, 0 < told.examples < len(rows)) == (order, True)


def test_several_labels_a_text(tmp_path):
    rows = [{"text": f"text {i}", "label": ["a", "b"] if i % 2 else []} for i in range(20)]
    found = opened(write(tmp_path, "a.jsonl", rows), kind="several")
    assert {tuple(found.train[0][i]["label"].tolist()) for i in range(len(found.train[0]))} == {(1, 1), (0, 0)}
    cells = [{"text": f"text {i}", "label": "a | b" if i % 2 else "b"} for i in range(20)]
    found = opened(write(tmp_path, "a.tsv", cells), kind="several", label_separator="|")
    assert found.labels == ("a", "b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no examples"),
        ("text\tlabel\n", "holds no examples"),
        ("text\tlabel\nonly one cell\n", "a.tsv:2: 1 cells, and there are 2 columns, as its first line says"),
        ("text\ttext\nx\ty\n", "its columns are 'text', 'text': each needs a name of its own"),
        ("text\tclass\nx\ty\n", "a.tsv:2: no 'label'; it has: text, class. Name another with --data.label-field"),
        ("text\tlabel\n  \ty\n", "a.tsv:2: text is empty: leave the row out"),
        ("text\tlabel\nx\t \n", "a.tsv:2: label is ' ': a label is a name or a whole number"),
        ("text\tlabel\nx\ty\n", "leave none to train on or none to validate on"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_line(content, words, tmp_path):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError) as error:
        opened(tmp_path / "a.tsv")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "x"', "a.jsonl:2: not JSON"),
        ('["x", "y"]', 'a.jsonl:2: ["x", "y"] is not an object with fields'),
        ('{"text": 5, "label": "y"}', "a.jsonl:2: text is a int, not a text"),
        ('{"text": "x", "label": null}', "a.jsonl:2: no 'label'"),
        ('{"text": "x", "label": 0.5}', "a.jsonl:2: label is 0.5: a label is a name or a whole number"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_of_it(line, words, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "y"}\n' + line + "\n")
    with pytest.raises(UserError) as error:
        opened(tmp_path / "a.jsonl")
    assert words in str(error.value)


def test_a_quote_left_open_is_said_of_a_csv_file_and_none_of_a_tsv_file(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"open,y\n')
    with pytest.raises(UserError, match=r"a.csv:2: not comma-separated values \(unexpected end of data\)"):
        opened(tmp_path / "a.csv")
    (tmp_path / "a.tsv").write_text('text\tlabel\n"open\ty\n5" wide\tz\n7\tz\n8\ty\n9\ty\n')
    assert opened(tmp_path / "a.tsv").labels == ("y", "z")


def test_a_label_unseen_in_training_is_refused(tmp_path):
    write(tmp_path, "train.jsonl", ROWS[:10])
    write(tmp_path, "validation.jsonl", [{"text": "x", "label": "mixed"}])
    with pytest.raises(UserError, match=r":\d+: validation has the label 'mixed', which no training example has"):
        opened(tmp_path)


def test_a_number_is_read_from_cells_and_anything_else_is_refused(tmp_path):
    rows = [{"text": f"text {i}", "label": f"{i / 2}"} for i in range(10)]
    found = opened(write(tmp_path, "a.tsv", rows), kind="number")
    assert found.labels == ()
    assert {float(found.train[0][i]["label"]) for i in range(len(found.train[0]))} <= {i / 2 for i in range(10)}
    (tmp_path / "a.tsv").write_text("text\tlabel\nx\tmuch\ny\t1\n")
    with pytest.raises(UserError, match="a.tsv:2: label is 'much': it must be a number"):
        opened(tmp_path / "a.tsv", kind="number", whole=True)
