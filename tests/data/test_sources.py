import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.corpus import documents, join_documents
from transformer.data import tfds_datasets
from transformer.data.text.config import TextConfig
from transformer.data.text.mixture import open_sources
from transformer.data.text.pieces import PIECE_CHARS, cut_document
from transformer.data.text.sources import open_path
from transformer.errors import UserError

from .corpus import make_text


def read(path, **config):
    source = open_path(str(path), TextConfig(**config))
    return list(documents(source, "train")), list(documents(source, "validation"))


def refused(path, *words, **config):
    with pytest.raises(UserError) as error:
        read(path, **config)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50), st.integers(1, 4000))
def test_cutting_a_document_loses_nothing(text, times):
    pieces = list(cut_document(text * times))
    assert list(join_documents(pieces)) == ([text * times] if text else [])
    assert all(0 < len(piece.text) <= PIECE_CHARS for piece in pieces)


@pytest.mark.parametrize("text", [make_text(200), "é\r\nñ\n" * 50_000, "no newline at all, ünïcödé", "a\nb"])
def test_a_text_file_is_split_at_a_line_and_loses_nothing(tmp_path, text):
    path = tmp_path / "plays.txt"
    path.write_bytes(text.encode())
    train, validation = read(path, validation_fraction=0.1)
    assert len(train) == len(validation) == 1
    assert train[0] + validation[0] == text
    if text.count("\n") > 10:
        assert train[0].endswith("\n")
        assert 0.08 < len(validation[0]) / len(text) < 0.12


def test_a_folder_is_split_by_document(tmp_path):
    texts = {f"sub/{i}.txt": f"file {i}\n" for i in range(200)}
    (tmp_path / "sub").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".hidden").write_bytes(b"\0")
    write_jsonl(tmp_path / "more.jsonl", [{"text": f"line {i}"} for i in range(200)])
    train, validation = read(tmp_path, validation_fraction=0.1)
    assert sorted(train + validation) == sorted([*texts.values(), *(f"line {i}" for i in range(200))])
    assert 20 <= len(validation) <= 65

    (tmp_path / "sub/new.txt").write_text("new")
    train_with_new, _ = read(tmp_path, validation_fraction=0.1)
    assert set(train) <= set(train_with_new) | {"new"}


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_neither_side_of_a_small_corpus_is_empty(tmp_path, count, fraction):
    path = write_jsonl(tmp_path / "few.jsonl", [{"text": str(i)} for i in range(count)])
    train, validation = read(path, validation_fraction=fraction)
    assert train
    assert validation
    assert len(train) + len(validation) == count


def test_the_fingerprint_follows_the_content(tmp_path):
    def fingerprint(name, text, **config):
        (tmp_path / name).write_text(text)
        return open_path(str(tmp_path / name), TextConfig(**config)).fingerprint

    first = fingerprint("a.txt", make_text(50))
    assert fingerprint("b.txt", make_text(50)) == first
    assert fingerprint("a.txt", make_text(50).replace("sa", "zz")) != first
    assert fingerprint("a.txt", make_text(50), validation_fraction=0.5) != first


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "corpus.txt"
    refused(path, path, "no such file")
    path.write_bytes(b"")
    refused(path, path, "empty")
    path.write_bytes(b"line\n" * 400_000 + b"\0\n" + b"line\n" * 400_000)
    refused(path, path, "binary", 2_000_000)
    path.write_bytes(b"caf\xc3\xa9 line\n" * 100_000 + b"caf\xe9 line\n" + b"line\n" * 100_000)
    refused(path, path, "not UTF-8", 100_000 * 11 + 3, "0xe9")
    path.write_bytes(b"line\nline\xc3")
    refused(path, path, "not UTF-8")
    path.write_bytes(b"x")
    refused(path, path, "too small")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "folder", "no text files")
    (tmp_path / "folder" / "empty.txt").touch()
    refused(tmp_path / "folder", "empty")


def test_bad_jsonl_lines_are_named(tmp_path):
    path = tmp_path / "c.jsonl"
    good = [{"text": "a"}] * 3
    path.write_text("".join(json.dumps(record) + "\n" for record in good) + "{oops\n")
    refused(path, f"{path}:4", "not JSON")
    refused(
        write_jsonl(path, [*good, {"body": "x", "title": "y"}]),
        f"{path}:4",
        "'text'",
        "body, title",
        "--data.text-field",
    )
    refused(write_jsonl(path, [*good, [1]]), f"{path}:4", "list")
    refused(write_jsonl(path, [*good, {"text": 3}]), f"{path}:4", "int")
    refused(write_jsonl(path, good[:1]), "two are needed")
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    refused(path, path, "not UTF-8", 24)


def test_bad_mixtures_are_named(tmp_path):
    (tmp_path / "a.txt").write_text(make_text(20))
    for item in ("a.txt", "a.txt=much", "=1", "a.txt=0", "a.txt=-1", "a.txt=inf", "a.txt=nan"):
        with pytest.raises(UserError, match=r"--data\.mixture"):
            open_sources(TextConfig(mixture=(item,)))
    with pytest.raises(UserError, match="No corpus named"):
        open_sources(TextConfig())
    with pytest.raises(UserError, match="validation-fraction"):
        open_sources(TextConfig(path="x", validation_fraction=1.0))
    [(source, weight)] = open_sources(TextConfig(mixture=(f"{tmp_path}/a.txt=2.5",), path="ignored"))
    assert (source.name, weight) == (str(tmp_path / "a.txt"), 2.5)


@pytest.mark.parametrize("name", ["wikipedia/20230601.en", "c4/en", "c4/multilingual", "wmt14_translate/de-en"])
def test_the_published_presets_corpora_are_known_to_tfds(name, tmp_path):
    assert tfds_datasets.builder_of(name, tmp_path).info.full_name.startswith(name.split("/")[0])
