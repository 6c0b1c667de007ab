"""The sample that a tokenizer is trained on."""

import json

import pytest

from tests.data.corpus import documents
from transformer.data.text import readable, sampling
from transformer.data.text.config import TextConfig
from transformer.data.text.pieces import cut_document
from transformer.data.text.sampling import sample
from transformer.data.text.sources import open_path

from .corpus import make_text


def lines(count):
    return [f"line {i:06} of the text, which is like all others\n" for i in range(count)]


def text_file(root):
    (root / "a.txt").write_text("".join(lines(8_000)))
    return root / "a.txt"


def jsonl(root):
    (root / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines(8_000)))
    return root / "a.jsonl"


def folder(root):
    (root / "in").mkdir()
    for i, line in enumerate(lines(8_000)[::20]):
        (root / "in" / f"{i:04}.txt").write_text(line * 20)
    return root / "in"


@pytest.fixture(params=[text_file, jsonl, folder])
def source(request, tmp_path, monkeypatch):
    """About a megabyte."""
    monkeypatch.setattr(readable, "PART_BYTES", 30_000)
    config = TextConfig(validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))
    return open_path(str(request.param(tmp_path)), config)


def test_a_small_corpus_is_its_own_sample(source):
    expected = [piece.text for text in documents(source, "train") for piece in cut_document(text)]
    assert [piece.text for piece in sample(source, "train", 2_000_000)] == expected
    half = [piece.text for piece in sample(source, "train", source.size("train") // 2)]
    assert 0 < len(half) <= len(expected) / 2 + 1


def test_a_large_corpus_is_read_in_places(source, monkeypatch):
    read, part_pieces = [], source.part_pieces

    def counting(part, split):
        for piece in part_pieces(part, split):
            read.append(len(piece.text))
            yield piece

    monkeypatch.setattr(source, "part_pieces", counting)
    found = [piece.text for piece in sample(source, "train", 24_000)]
    assert 16_000 < sum(map(len, found)) < 36_000
    assert sum(read) < 120_000
    assert found == [piece.text for piece in sample(source, "train", 24_000)]
    training = set("".join(documents(source, "train")).splitlines())
    numbers = [int(line.split()[1]) for text in found for line in text.splitlines()]
    assert {line for text in found for line in text.splitlines()} <= training
    quarters = [sum(i * 1800 <= number < (i + 1) * 1800 for number in numbers) for i in range(4)]
    assert min(quarters) > len(numbers) / 20


def test_a_text_without_lines_is_sampled(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("é" * 500_000)
    source = open_path(str(tmp_path / "a.txt"), TextConfig(cache_dir=str(tmp_path / "cache")))
    assert sum(len(piece.text) for piece in sample(source, "train", 10_000)) > 0
    monkeypatch.setattr(sampling, "_READ", 1)
    (tmp_path / "b.txt").write_text(make_text(100))
    source = open_path(str(tmp_path / "b.txt"), TextConfig(cache_dir=str(tmp_path / "cache")))
    assert "".join(piece.text for piece in sample(source, "train", 10_000_000)) == "".join(documents(source, "train"))
