"""Pairs of texts: where they come from, and what is said of files that hold none."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.data.corpus import documents
from transformer.data.pairs.mixture import open_pairs
from transformer.data.pairs.rows import PairReading
from transformer.data.pairs.tfds import TfdsPairs
from transformer.data.prepare import prepare
from transformer.data.text.config import TextConfig
from transformer.errors import UserError

from .corpus import make_text
from .test_python_stdlib import library  # noqa: F401 - a fixture

PAIRS = [(f"source {i}", f"target {i} é") for i in range(200)]
READING = PairReading(64, target_length=64)


def write(path, lines):
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "parallel"
    root.mkdir()
    write(root / "train.en.gz", [source for source, _ in PAIRS])
    write(root / "train.de", [target for _, target in PAIRS])
    return root


def open_one(path, fields=("en", "de"), **config):
    [(pairs, _)] = open_pairs(TextConfig(path=str(path), fields=fields, **config))
    return pairs


def refused(path, *words, fields=("en", "de")):
    def read():
        return [list(open_one(path, fields).pairs(split)) for split in ("train", "validation")]

    with pytest.raises(UserError) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_parallel_files_are_split_by_line(folder):
    pairs = open_one(folder, validation_fraction=0.2)
    train, validation = list(pairs.pairs("train")), list(pairs.pairs("validation"))
    assert sorted(train + validation) == sorted(PAIRS)
    assert 20 < len(validation) < 60


@pytest.mark.parametrize("name", ["val", "valid", "dev", "validation"])
def test_parallel_files_with_a_validation_part(folder, name):
    write(folder / f"{name}.en", ["one", "", "two", "three"])
    write(folder / f"{name}.de.gz", ["eins", "", "zwei", " "])
    pairs = open_one(folder)
    assert list(pairs.pairs("train")) == PAIRS
    assert list(pairs.pairs("validation")) == [("one", "eins"), ("two", "zwei")]
    assert list(open_one(folder, ("de", "en")).pairs("validation")) == [("eins", "one"), ("zwei", "two")]
    assert pairs.fingerprint != open_one(folder, ("de", "en")).fingerprint


def test_the_sides_belong_to_each_other(folder):
    pairs = open_one(folder)
    sources, targets = (list(documents(side, "train")) for side in pairs.sides)
    assert list(zip(sources, targets, strict=True)) == list(pairs.pairs("train"))
    assert pairs.sides[0].fingerprint != pairs.sides[1].fingerprint


def test_the_fingerprint_follows_the_content(folder):
    first = open_one(folder).fingerprint
    assert open_one(folder).fingerprint == first
    write(folder / "train.de", [target.upper() for _, target in PAIRS])
    assert open_one(folder).fingerprint != first


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tsv_and_jsonl_have_a_pair_a_line(tmp_path, suffix):
    write(tmp_path / f"a.tsv{suffix}", [f"{a}\t{b}\tmore" for a, b in PAIRS])
    write(tmp_path / f"a.jsonl{suffix}", [json.dumps({"q": a, "a": b}) for a, b in PAIRS])
    for name, fields in (("a.tsv", None), ("a.jsonl", ("q", "a"))):
        pairs = open_one(tmp_path / f"{name}{suffix}", fields)
        train, validation = list(pairs.pairs("train")), list(pairs.pairs("validation"))
        assert sorted(train + validation) == sorted(PAIRS)
        assert 1 <= len(validation) < 30


def test_sides_may_be_fields_of_an_object(tmp_path):
    """As the translations are that others share: JSON lines, an array, Parquet."""
    rows = [{"id": i, "translation": {"en": a, "de": b}} for i, (a, b) in enumerate(PAIRS)]
    write(tmp_path / "a.json", [json.dumps(row) for row in rows])
    (tmp_path / "array.json").write_text(json.dumps(rows))
    empty = {"id": 0, "translation": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, empty]), tmp_path / "a.parquet")
    for name in ("a.json", "array.json", "a.parquet"):
        pairs = open_one(tmp_path / name, ("translation.en", "translation.de"))
        assert sorted(pair for split in ("train", "validation") for pair in pairs.pairs(split)) == sorted(PAIRS), name
        refused(
            tmp_path / name,
            "translation.de, translation.en" if "json" in name else "translation.en",
            fields=("en", "de"),
        )
        refused(tmp_path / name, "'translation.fr'", fields=("translation.en", "translation.fr"))


def test_bad_parallel_files_are_named(folder, tmp_path):
    refused(folder, "name source and target with --data.fields", fields=None)
    refused(folder, "--data.fields", fields=("en", "en"))
    refused(folder, "train.fr", "train.es", fields=("fr", "es"))
    refused(folder, "train.en.gz has no counterpart", "train.fr", fields=("en", "fr"))
    refused(tmp_path / "nowhere", "no such file")
    write(folder / "val.en", ["one"])
    refused(folder, "val.en has no counterpart", "val.de")
    write(folder / "val.de", ["eins", "zwei"])
    refused(folder, "as many lines", "val.en 1", "val.de 2")
    write(folder / "val.de", [])
    refused(folder, "val.de is empty")
    (folder / "train.de").write_bytes(b"\xff\n" * 200)
    refused(folder, "train.de is not UTF-8")
    (folder / "train.en.gz").write_bytes(b"no gzip")
    refused(folder, "train.en.gz is not a whole gzip file")
    write(folder / "train.de", ["x"] * 200)
    (folder / "train.en.gz").write_bytes(gzip.compress(b"x\n" * 200)[:-9])
    refused(folder, "train.en.gz is not a whole gzip file")


def test_bad_lines_are_named(tmp_path):
    write(tmp_path / "a.tsv", ["a\tb", "one column"])
    refused(tmp_path / "a.tsv", "a.tsv:2: one column")
    write(tmp_path / "a.tsv", ["a\tb"])
    refused(tmp_path / "a.tsv", "two are needed")
    write(tmp_path / "a.tsv", [])
    refused(tmp_path / "a.tsv", "a.tsv is empty")
    write(tmp_path / "a.jsonl", ['{"q": "x"}'])
    refused(tmp_path / "a.jsonl", "a.jsonl:1: no field 'a'; its fields are: q", "--data.fields", fields=("q", "a"))
    write(tmp_path / "a.txt", ["a"])
    refused(tmp_path / "a.txt", "holds no pairs")


def test_pairs_become_rows_with_one_tokenizer(tmp_path):
    root = tmp_path / "parallel"
    root.mkdir()
    for side, seed in (("xx", 1), ("yy", 2)):
        write(root / f"train.{side}", make_text(400, seed).splitlines())
        write(root / f"val.{side}", make_text(40, seed + 2).splitlines())
    config = TextConfig(path=str(root), fields=("xx", "yy"), cache_dir=str(tmp_path / "cache"))
    corpora = prepare(config, vocab_size=512, reading=READING)
    assert corpora.tokenizer.vocab_size == 512
    [train] = corpora.train
    assert train.left_out == 0
    lines = set()
    for index in range(len(train)):
        row = train[index]
        for segment in range(1, row["segment_ids"].max() + 1):
            lines.add(
                tuple(
                    corpora.tokenizer.decode(row[f"{side}tokens"][row[f"{side}segment_ids"] == segment].tolist())
                    for side in ("", "target_")
                )
            )
    expected = zip(make_text(400, 1).splitlines(), make_text(400, 2).splitlines(), strict=True)
    assert lines == set(expected)
    again = prepare(config, vocab_size=512, reading=READING)
    assert again.fingerprint == corpora.fingerprint
    np.testing.assert_array_equal(again.validation[0]["tokens"], corpora.validation[0]["tokens"])


FUNCTIONS = '''
import os

class A:
    @property
    def one(self):
        """Return one.

        More of it.
        """
        return 1

    async def two(self): "Say two."; return 2

def three(x: int,
          y: str = "a") -> None:
    "Do three things."
    # a comment
    def inner():
        """Inside."""
        return "\\d"
    return inner

def four():
    """Only a docstring."""

def five():
    return 5
'''


def test_the_embedded_pairs_are_functions_and_what_they_say(library, tmp_path):  # noqa: F811
    from transformer.data.text.python_docstrings.python_docstrings_dataset_builder import summaries

    expected = [
        ("def one(self):\n    return 1", "Return one."),
        (
            'def three(x: int,\n          y: str = "a") -> None:\n    # a comment\n    def inner():\n'
            '        """Inside."""\n        return "\\d"\n    return inner',
            "Do three things.",
        ),
        ('def inner():\n    return "\\d"', "Inside."),
    ]
    assert list(summaries(FUNCTIONS)) == expected
    assert list(summaries("def broken(:\n")) == []
    root, files = library
    for name in files:
        (root / name).write_text(FUNCTIONS.replace("Return one", name.replace("/", "_").removesuffix(".py")))
    config = TextConfig(fields=("code", "summary"), cache_dir=str(tmp_path / "cache"))
    pairs = TfdsPairs("python_docstrings", config)
    train, validation = list(pairs.pairs("train")), list(pairs.pairs("validation"))
    assert len(train) + len(validation) == 3 * len(files)
    assert 0 < len(validation) < len(train)
    assert expected[1] in train
    with pytest.raises(UserError, match=r"no text feature 'docs'; it has: code, .* Name one with --data.fields"):
        TfdsPairs("python_docstrings", TextConfig(fields=("code", "docs"), cache_dir=str(tmp_path / "cache")))
