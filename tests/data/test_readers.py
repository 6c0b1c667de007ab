"""Compressed files and Parquet: the same documents as the plain files that other programs made them from."""

import gzip
import json
import shutil
import subprocess

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from tests.data.corpus import documents
from transformer.data.pairs.mixture import open_pairs
from transformer.data.text import readable
from transformer.data.text.config import TextConfig
from transformer.data.text.readers import open_text, text_size
from transformer.data.text.sources import open_path
from transformer.errors import UserError

from .corpus import make_text

TEXTS = [f"text {i} \r\n\u00e9{'x' * (i % 7)}\0" for i in range(300)]
JSONL = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(TEXTS)).encode()
PLAIN = (make_text(3000) + "no newline at the end é").encode()


def zstd(data: bytes) -> bytes:
    """Two frames with checksums, as the command line makes them, an empty one between, and one of unknown size."""
    half, compressor = len(data) // 2, zstandard.ZstdCompressor(write_checksum=True)
    streamed = compressor.compressobj()
    last = streamed.compress(data[half:]) + streamed.flush()
    return compressor.compress(data[:half]) + compressor.compress(b"") + last


def members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


COMPRESS = {".gz": members, ".zst": zstd}
suffixes = pytest.mark.parametrize("suffix", COMPRESS)


def table(path, columns, **settings):
    parquet.write_table(pyarrow.table(columns), path, **settings)
    return path


def read(path, **config):
    config = {"validation_fraction": 0.1, "cache_dir": str(path.parent / "cache"), **config}
    source = open_path(str(path), TextConfig(**config))
    assert source.fingerprint  # as a build asks first
    return [list(documents(source, split)) for split in ("train", "validation")]


def read_pairs(path, fields, **config):
    config = {"validation_fraction": 0.1, "cache_dir": str(path.parent / "cache"), **config}
    [(pairs, _)] = open_pairs(TextConfig(path=str(path), fields=fields, **config))
    return [list(pairs.pairs(split)) for split in ("train", "validation")]


def joined(splits):
    return [text for split in splits for text in split]


def refused(reader, *words):
    with pytest.raises(UserError) as error:
        reader()
    assert "\n" not in str(error.value)
    for word in words:
        assert str(word) in str(error.value)


@suffixes
@pytest.mark.parametrize(("name", "content"), [("a.txt", PLAIN), ("a.jsonl", JSONL), ("plays", PLAIN)])
def test_a_compressed_file_is_read_and_split_as_the_plain_one(tmp_path, suffix, name, content):
    plain, packed = tmp_path / name, tmp_path / f"{name}{suffix}"
    plain.write_bytes(content)
    packed.write_bytes(COMPRESS[suffix](content))
    assert text_size(packed) == len(content)
    (tmp_path / "b").mkdir()
    assert read(packed) == read(plain)
    assert sum(map(len, read(packed))) == (300 if name == "a.jsonl" else 2)


@suffixes
def test_text_is_read_from_anywhere(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](PLAIN))
    for start in (0, 1, 1000, len(PLAIN) // 2, len(PLAIN) - 1, len(PLAIN), len(PLAIN) + 5):
        with open_text(path, start) as file:
            assert file.read() == PLAIN[start:]


@pytest.mark.skipif(shutil.which("gzip") is None, reason="needs gzip")
def test_the_command_lines_own_files_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(PLAIN)
    expected = read(tmp_path / "a.txt")
    subprocess.run(["gzip", "-9", str(tmp_path / "a.txt")], check=True)
    assert read(tmp_path / "a.txt.gz") == expected


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_parquet_rows_are_documents_as_jsonl_lines_are(tmp_path, rows, monkeypatch):
    """Whatever the row groups, and whether the file is one part or several."""
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    expected = read(tmp_path / "a.jsonl")
    table(tmp_path / "a.parquet", {"n": range(300), "text": TEXTS}, row_group_size=rows)
    assert read(tmp_path / "a.parquet") == expected
    monkeypatch.setattr(readable, "PART_BYTES", 2000)
    source = open_path(str(tmp_path / "a.parquet"), TextConfig(cache_dir=str(tmp_path / "cut")))
    assert (len(source.parts("train")) > 3) == (rows < 1000)
    assert read(tmp_path / "a.parquet", cache_dir=str(tmp_path / "cut")) == expected


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary("int32", "string")])
def test_every_type_of_strings_is_read_and_null_is_no_document(tmp_path, kind):
    values = pyarrow.array([*TEXTS, None, ""], pyarrow.string()).cast(kind)
    path = table(tmp_path / "a.parquet", {"text": values})
    assert sorted(joined(read(path))) == sorted(TEXTS)


def test_a_folder_holds_all_kinds(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.txt").write_text("one")
    (root / "b.txt.gz").write_bytes(gzip.compress(b"two"))
    (root / "c.txt.zst").write_bytes(zstandard.compress(b"three"))
    (root / "d.jsonl").write_text('{"text": "four"}\n')
    (root / "e.jsonl.gz").write_bytes(gzip.compress(b'{"text": "five"}\n\n'))
    (root / "f.NDJSON.ZST").write_bytes(zstandard.compress(b'{"text": "six"}\n{"text": "seven"}'))
    (root / "g.txt.gz").write_bytes(gzip.compress(b""))
    table(root / "h.parquet", {"text": ["eight", None, "nine"]})
    table(root / "i.parquet", {"text": pyarrow.array([], "string")})
    found = joined(read(root))
    assert sorted(found) == ["eight", "five", "four", "nine", "one", "seven", "six", "three", "two"]


@suffixes
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_damaged_compressed_files_are_named(tmp_path, suffix, name):
    path = tmp_path / f"{name}{suffix}"
    content = COMPRESS[suffix](PLAIN if name == "a.txt" else JSONL)
    for damaged in (content[:-9], content[: len(content) // 3], b"no such thing" * 9, content + b"more of it"):
        path.write_bytes(damaged)
        refused(lambda: read(path), path, "is not a whole", "Copy it again")
    flipped = bytearray(content)
    flipped[len(content) // 4] ^= 0xFF
    path.write_bytes(flipped)
    refused(lambda: read(path), path)
    path.write_bytes(b"")
    refused(lambda: read(path), path, "empty")
    path.write_bytes(COMPRESS[suffix](b""))
    refused(lambda: read(path), path, "is empty" if name == "a.txt" else "holds 0 document(s)")
    bad = b'{"text": "a"}\n' * 1000 + b'{"text": "\xff"}\n' + b'{"text": "a"}\n' * 1000
    path.write_bytes(COMPRESS[suffix](bad))
    refused(lambda: read(path), path, "not UTF-8", "0xff", bad.index(b"\xff") if name == "a.txt" else 10)


def test_bad_tables_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    table(path, {"body": TEXTS, "n": range(300)})
    refused(lambda: read(path), path, "no column 'text'", "body, n", "--data.text-field")
    refused(lambda: read(path, text_field="n"), path, "'n' is of int64", "--data.text-field")
    table(path, {"text": ["alone"]})
    refused(lambda: read(path), path, "two are needed")
    table(path, {"text": pyarrow.array([], "string")})
    refused(lambda: read(path), path, "holds 0 document(s)")
    whole = table(path, {"text": TEXTS}, compression="none", use_dictionary=False).read_bytes()
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"PAR1" + b"x" * 50 + b"PAR1"):
        path.write_bytes(damaged)
        refused(lambda: read(path), path, "is not a whole Parquet file")
    path.write_bytes(whole.replace("\u00e9".encode(), b"\xff\xff"))
    refused(lambda: read(path), path, "row 1 is not UTF-8")


PAIRS = [(f"source {i}", f"target {i} é") for i in range(200)]


def test_pairs_are_read_of_all_kinds(tmp_path):
    lines = [f"{a}\t{b}\n" for a, b in PAIRS]
    (tmp_path / "a.tsv").write_text("".join(lines))
    expected = read_pairs(tmp_path / "a.tsv", None)
    assert sorted(joined(expected)) == sorted(PAIRS)
    (tmp_path / "a.tsv.zst").write_bytes(zstd("".join(lines).encode()))
    assert read_pairs(tmp_path / "a.tsv.zst", None) == expected
    records = "".join(json.dumps({"q": a, "a": b}) + "\n" for a, b in PAIRS)
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(records.encode()))
    assert read_pairs(tmp_path / "a.jsonl.zst", ("q", "a")) == expected
    path = table(tmp_path / "a.parquet", {"a": [b for _, b in PAIRS], "q": [a for a, _ in PAIRS]}, row_group_size=30)
    assert read_pairs(path, ("q", "a")) == expected
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.en.zst").write_bytes(zstd("".join(f"{a}\n" for a, _ in PAIRS).encode()))
    (tmp_path / "in" / "train.de.gz").write_bytes(members("".join(f"{b}\n" for _, b in PAIRS).encode()))
    assert read_pairs(tmp_path / "in", ("en", "de")) == expected


def test_bad_pairs_are_named(tmp_path):
    path = table(tmp_path / "a.parquet", {"q": ["a", None, " ", "b"], "a": ["x", "y", "z", None], "n": range(4)})
    assert joined(read_pairs(path, ("q", "a"))) == [("a", "x")]
    refused(lambda: read_pairs(path, None), "--data.fields")
    refused(lambda: read_pairs(path, ("q", "b")), path, "no column 'b'", "q, a, n", "--data.fields")
    refused(lambda: read_pairs(path, ("q", "n")), path, "'n' is of int64", "--data.fields")
    (tmp_path / "a.tsv.zst").write_bytes(zstd(b"a\tb\n" * 500)[:-4])
    refused(lambda: read_pairs(tmp_path / "a.tsv.zst", None), "a.tsv.zst is not a whole Zstandard file")
