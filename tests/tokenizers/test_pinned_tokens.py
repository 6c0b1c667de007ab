"""The tokens of a small corpus of each kind, by their hash: a run that goes on must find the text it began with."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from tests.data.corpus import build_store, make_text
from tests.data.test_python_stdlib import library  # noqa: F401 - a fixture
from tests.data.test_windows import make_store
from transformer.data.pairs.mixture import open_pairs
from transformer.data.pairs.rows import PairReading, PairRows
from transformer.data.text.config import TextConfig
from transformer.data.text.mixture import open_sources
from transformer.tokenizers.raw_bytes import ByteTokenizer


def digest(*arrays):
    content = hashlib.blake2b(digest_size=6)
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def tokens_of(sources, cache):
    stores = [build_store(source, split, ByteTokenizer(), cache) for source in sources for split in SPLITS]
    return [digest(store.tokens[:], store.offsets[:]) for store in stores]


SPLITS = ("train", "validation")
LINES = [make_text(1 + i % 5, seed=i) for i in range(150)]
JSONL = "".join(
    json.dumps({"text": text}) + ("\n\n" if i % 9 == 0 else "\n")
    for i, text in enumerate([*LINES, "", "é\0", "\ud800"])
)
PAIRS = [(text.splitlines()[0], text.splitlines()[-1].upper() if i % 11 else " ") for i, text in enumerate(LINES)]


def plain(root):
    (root / "a.txt").write_text(make_text(3000) + "no newline at the end é")
    return {"path": str(root / "a.txt")}


def one_line(root):
    (root / "a.txt").write_text("é" * 3000)
    return {"path": str(root / "a.txt")}


def jsonl(root):
    (root / "a.jsonl").write_text(JSONL)
    return {"path": str(root / "a.jsonl")}


def folder(root):
    (root / "in" / "sub").mkdir(parents=True)
    for i, text in enumerate(LINES):
        (root / "in" / "sub" / f"{i}.txt").write_text(text)
    (root / "in" / "b.jsonl").write_text(JSONL)
    (root / "in" / "z.NDJSON").write_text(JSONL.removesuffix("\n"))
    (root / "in" / ".hidden").write_text("x")
    (root / "in" / "empty.txt").touch()
    return {"path": str(root / "in")}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (plain, ["e66e85201ba6", "97b0e1865bda"]),
        (one_line, ["d5c9f96854d3", "996a2f60079b"]),
        (jsonl, ["4b5a044ab3d0", "98c2e183f69e"]),
        (folder, ["0e082b1bec63", "7f20157644e3"]),
    ],
)
def test_texts(kind, expected, tmp_path):
    config = TextConfig(**kind(tmp_path), validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))
    assert tokens_of([source for source, _ in open_sources(config)], tmp_path / "cache") == expected


def parallel(root):
    (root / "in").mkdir()
    (root / "in" / "train.en.gz").write_bytes(gzip.compress("".join(f"{a}\n" for a, _ in PAIRS).encode()))
    (root / "in" / "train.de").write_text("".join(f"{b}\r\n" for _, b in PAIRS))
    return {"path": str(root / "in"), "fields": ("en", "de")}


def held_out(root):
    config = parallel(root)
    for field in ("en", "de"):
        (root / "in" / f"val.{field}").write_text("".join(f"{field} {i}\n" for i in range(30)))
    return config


def tsv(root):
    (root / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return {"path": str(root / "a.tsv")}


def fields(root):
    (root / "a.jsonl").write_text("".join(json.dumps({"q": a, "a": b}) + "\n" for a, b in PAIRS))
    return {"path": str(root / "a.jsonl"), "fields": ("q", "a")}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (parallel, ["e9f2e3189092", "d14912467fdd", "776279af72e0", "f5222180d5b0"]),
        (held_out, ["0cdb012c71d8", "7447a8b966b9", "de7607371af5", "f43b62900df6"]),
        (tsv, ["4814310494c9", "fa90d5c76ee0", "1099d5a77762", "1b03c987d688"]),
        (fields, ["4814310494c9", "fa90d5c76ee0", "1099d5a77762", "1b03c987d688"]),
    ],
)
def test_pairs(kind, expected, tmp_path):
    config = TextConfig(**kind(tmp_path), validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))
    [(pairs, _)] = open_pairs(config)
    assert tokens_of(pairs.sides, tmp_path / "cache") == expected


def test_tfds(library, tmp_path):  # noqa: F811
    config = TextConfig(tfds="python_stdlib", validation_fraction=0.2, cache_dir=str(tmp_path / "cache"))
    assert tokens_of([source for source, _ in open_sources(config)], tmp_path / "cache") == [
        "a8d4d8ddaa58",
        "ba6c0b5c531e",
    ]


def test_rows_of_pairs():
    """More pairs than are shuffled among themselves, and more rows than wait for a pair."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 30, (70_000, 2))
    stores = [make_store(lengths[:, side]) for side in (0, 1)]
    rows = PairRows(*stores, PairReading(128, target_length=96))
    found = [rows[index] for index in range(0, len(rows), 3)]
    assert (len(rows), rows.left_out, digest(*(value for row in found for value in row.values()))) == (
        11_834,
        0,
        "a7d9f8c36ca0",
    )
    short = PairRows(*stores, PairReading(24, target_length=26, begin=True))
    found = [short[index] for index in range(0, len(short), 11)]
    assert (len(short), short.left_out, digest(*(value for row in found for value in row.values()))) == (
        36_678,
        20_669,
        "b1a0c21bd2a4",
    )
