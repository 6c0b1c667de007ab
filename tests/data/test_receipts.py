"""A corpus is recognised by its files' names, sizes and times, and read again only where these differ."""

import dataclasses
import gzip
import json
import os
import tracemalloc

import pytest

from transformer.data import receipts
from transformer.data.pairs.rows import PairReading
from transformer.data.prepare import open_corpora, prepare
from transformer.data.text import build
from transformer.data.text.config import TextConfig
from transformer.data.text.records import TextReading
from transformer.data.text.sources import extremes, open_path
from transformer.data.text.verify import verify
from transformer.errors import UserError

from .corpus import make_text
from .test_python_stdlib import library  # noqa: F401 - a fixture

WINDOWS, PAIRS = TextReading("windows", 33, overlap=1), PairReading(200, target_length=200)
LONG_AGO = 10**18


def verified(config, reading) -> list[str]:
    return verify([corpus.sides for corpus in open_corpora(config, reading)], config.cache_dir, map, print)


def settle(*paths):
    """Makes files look as if they had not been written just now."""
    for path in paths:
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def spoil(path):
    """Replaces a file's content by something that cannot be read as text, and keeps its size and time."""
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


def text_file(root):
    (root / "a.txt").write_text(make_text(300))
    return TextConfig(path=str(root / "a.txt")), WINDOWS


def jsonl_file(root):
    (root / "a.jsonl").write_text("".join(json.dumps({"text": make_text(4, i)}) + "\n" for i in range(60)))
    return TextConfig(path=str(root / "a.jsonl")), WINDOWS


def folder(root):
    jsonl_file(root)
    for i in range(40):
        (root / f"{i}.txt").write_text(make_text(4, i))
    return TextConfig(path=str(root)), WINDOWS


def parallel(root):
    (root / "train.en").write_text(make_text(200))
    (root / "train.de.gz").write_bytes(gzip.compress(make_text(200, 1).encode()))
    return TextConfig(path=str(root), fields=("en", "de")), PAIRS


def tsv(root):
    lines = zip(make_text(200).splitlines(), make_text(200, 1).splitlines(), strict=True)
    (root / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines))
    return TextConfig(path=str(root / "a.tsv")), PAIRS


@pytest.fixture(params=[text_file, jsonl_file, folder, parallel, tsv])
def corpus(request, tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    config, reading = request.param(root)
    settle(*root.iterdir())
    config = dataclasses.replace(config, tokenizer="bytes", cache_dir=str(tmp_path / "cache"), validation_fraction=0.2)
    return config, reading, sorted(root.iterdir())


def prepared(corpus):
    config, reading, _ = corpus
    return prepare(config, vocab_size=363, reading=reading)


@pytest.fixture
def no_building(monkeypatch):
    def forbid(name):
        monkeypatch.setattr(build, name, lambda *_: pytest.fail(f"{name} was called"))

    return forbid


def test_a_finished_store_is_found_without_reading_or_writing(corpus, no_building):
    first = prepared(corpus)
    for file in corpus[2]:
        spoil(file)
    no_building("make_shard")
    no_building("exclusive")
    again = prepared(corpus)
    assert (again.fingerprint, again.about.identity) == (first.fingerprint, first.about.identity)
    for one, other in zip(first.train, again.train, strict=True):
        assert all((one[0][name] == other[0][name]).all() for name in one[0])


def test_a_touched_file_is_read_again_once_and_nothing_is_built(corpus, no_building):
    first = prepared(corpus)
    for file in corpus[2]:
        os.utime(file, ns=(LONG_AGO + 1, LONG_AGO + 1))
    no_building("make_shard")
    assert prepared(corpus).fingerprint == first.fingerprint
    for file in corpus[2]:
        spoil(file)  # the record was refreshed: this is not looked at
    assert prepared(corpus).fingerprint == first.fingerprint


def test_another_content_is_another_store(corpus):
    first = prepared(corpus)
    file = corpus[2][0]
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    raw = raw.replace(b"a", b"o")
    file.write_bytes(gzip.compress(raw) if file.suffix == ".gz" else raw)
    os.utime(file, ns=(LONG_AGO + 1, LONG_AGO + 1))
    again = prepared(corpus)
    after, before = (found.about.identity["sources"] for found in (again, first))
    assert all(after[name] != fingerprint for name, fingerprint in before.items())


def test_a_file_that_was_written_just_now_is_not_trusted(tmp_path):
    config, _ = text_file(tmp_path)
    path = tmp_path / "a.txt"
    before = open_path(str(path), config).fingerprint
    time = path.stat().st_mtime_ns
    path.write_text(make_text(300).replace("a", "o"))
    os.utime(path, ns=(time, time))  # as a coarse clock would have it
    assert open_path(str(path), config).fingerprint != before


def test_files_that_do_not_differ_are_not_read_for_those_that_do(tmp_path, monkeypatch):
    config, _ = folder(tmp_path)
    settle(*tmp_path.iterdir())
    before = open_path(str(tmp_path), config).fingerprint
    (tmp_path / "7.txt").write_text("another")
    (tmp_path / "new.txt").write_text("new")
    read = []
    whole = receipts.hash_file
    monkeypatch.setattr(receipts, "hash_file", lambda path: read.append(path.name) or whole(path))
    assert open_path(str(tmp_path), config).fingerprint != before
    assert sorted(read) == ["7.txt", "new.txt"]


def test_verifying_reads_everything_and_names_what_differs(corpus):
    config, reading, files = corpus
    with pytest.raises(UserError, match="was not prepared"):
        verified(config, reading)
    first = prepared(corpus)
    assert verified(config, reading) == []
    file = files[-1]
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"a", b"o", 1))
    os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    [line] = verified(config, reading)
    assert str(file) in line
    assert prepared(corpus).fingerprint != first.fingerprint  # from then on nobody takes it for what it was


def test_verifying_finds_a_damaged_shard(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    config, reading = text_file(root)
    corpora = prepare(config, vocab_size=512, reading=reading)
    shard = corpora.train[0].store.folder / "00000.shard"
    raw = bytearray(shard.read_bytes())
    raw[7] ^= 1
    shard.write_bytes(raw)
    [line] = verified(config, reading)
    assert f"{shard} is damaged: delete {shard.parent}" in line


def test_a_receipt_that_cannot_be_written_is_done_without(corpus, monkeypatch):
    first = prepared(corpus)
    for file in corpus[2]:
        os.utime(file, ns=(LONG_AGO + 1, LONG_AGO + 1))

    def refuse(*_, **__):
        raise UserError("Cannot write to")

    monkeypatch.setattr(receipts, "exclusive", refuse)
    monkeypatch.setattr(receipts, "write_file", refuse)
    assert prepared(corpus).fingerprint == first.fingerprint


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "units": {"": 3}}', '{"version": 1, "units": 3}'])
def test_a_damaged_receipt_is_written_anew(tmp_path, content):
    config, _ = text_file(tmp_path)
    before = open_path(str(tmp_path / "a.txt"), config).fingerprint
    source = open_path(str(tmp_path / "a.txt"), config)
    assert source._receipt.exists()
    source._receipt.write_text(content)
    assert source.fingerprint == before
    assert json.loads(source._receipt.read_text())["units"][""]["facts"]["digests"]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    config, _ = text_file(tmp_path)
    whole = receipts.hash_file

    def slow(path):
        digest = whole(path)
        path.write_text("other")
        return digest

    monkeypatch.setattr(receipts, "hash_file", slow)
    with pytest.raises(UserError, match=r"a.txt changed while it was read"):
        _ = open_path(str(tmp_path / "a.txt"), config).fingerprint


def test_the_split_of_many_documents_is_found_in_no_memory():
    tracemalloc.start()
    found = extremes(map(str, range(100_000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert 0 <= found[0] < 1e-4 < 1 - 1e-4 < found[1] < 1
    assert peak < 50_000


def test_tfds_is_found_without_reading(library, tmp_path, no_building):  # noqa: F811
    config = TextConfig(
        tfds="python_stdlib", tokenizer="bytes", cache_dir=str(tmp_path / "cache"), validation_fraction=0.2
    )
    first = prepare(config, vocab_size=512, reading=WINDOWS)
    records = list((tmp_path / "cache" / "tfds").rglob("*array_record*"))
    assert records
    settle(*records)
    no_building("make_shard")
    assert prepare(config, vocab_size=512, reading=WINDOWS).fingerprint == first.fingerprint
    for path in records:
        spoil(path)
    no_building("exclusive")
    assert prepare(config, vocab_size=512, reading=WINDOWS).fingerprint == first.fingerprint
