"""What is in a file is read the same whatever the format holds around it: marks, line ends, headers, arrays."""

import csv
import gzip
import io
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.pairs.header import find_header
from transformer.data.text.pieces import digest_text
from transformer.data.text.sources import open_path

from .test_readers import joined, read, read_pairs, refused, table

MARK = b"\xef\xbb\xbf"
TEXTS = [f"text {i} é" for i in range(40)]
PAIRS = [(f"source {i}", f"target {i} é") for i in range(40)]
FIELDS = ("q", "a")


def as_csv(rows) -> bytes:
    held = io.StringIO()
    csv.writer(held).writerows(rows)
    return held.getvalue().encode()


TEXT_FILES = {
    "a.txt": "".join(f"{text}\n" for text in TEXTS).encode(),
    "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode(),
    "a.json": json.dumps([{"id": i, "text": text} for i, text in enumerate(TEXTS)]).encode(),
    "strings.json": json.dumps(TEXTS, indent=1).encode(),
    "lines.json": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode(),
    "a.csv": as_csv([("id", "text"), *enumerate(TEXTS)]),
    "a.tsv": "".join(f"{a}\t{b}\n" for a, b in [("id", "text"), *enumerate(TEXTS)]).encode(),
}
PAIR_FILES = {
    "a.tsv": "".join(f"{a}\t{b}\n" for a, b in PAIRS).encode(),
    "named.tsv": "".join(f"{i}\t{b}\t{a}\n" for i, (a, b) in [("id", FIELDS), *enumerate(PAIRS)]).encode(),
    "a.jsonl": "".join(json.dumps({"q": a, "a": b}) + "\n" for a, b in PAIRS).encode(),
    "a.json": json.dumps([{"a": b, "q": a} for a, b in PAIRS]).encode(),
    "a.csv": as_csv([("a", "n", "q"), *((b, 1, a) for a, b in PAIRS)]),
}
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
packed = pytest.mark.parametrize("suffix", PACK)


@packed
@pytest.mark.parametrize("name", TEXT_FILES)
def test_texts_are_read_whatever_the_format_and_a_mark_is_no_text(tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    for mark in (b"", MARK):
        path.write_bytes(PACK[suffix](mark + TEXT_FILES[name]))
        documents = joined(read(path))
        texts = "".join(documents).splitlines() if name == "a.txt" else documents
        assert sorted(texts) == sorted(TEXTS)


@packed
@pytest.mark.parametrize("name", PAIR_FILES)
def test_pairs_are_read_whatever_the_format_and_a_mark_is_no_text(tmp_path, name, suffix):
    for mark in (b"", MARK):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(PACK[suffix](mark + PAIR_FILES[name]))
        assert sorted(joined(read_pairs(path, FIELDS))) == sorted(PAIRS)


@packed
def test_a_mark_is_no_text_of_parallel_files(tmp_path, suffix):
    for side, name in enumerate(("en", "de")):
        content = MARK + "".join(f"{pair[side]}\r\n" for pair in PAIRS).encode()
        (tmp_path / f"train.{name}{suffix}").write_bytes(PACK[suffix](content))
    assert sorted(joined(read_pairs(tmp_path, ("en", "de")))) == sorted(PAIRS)


def test_a_mark_gives_another_fingerprint_than_when_it_was_text(tmp_path):
    plain, marked = tmp_path / "a.txt", tmp_path / "b.txt"
    plain.write_bytes(TEXT_FILES["a.txt"])
    marked.write_bytes(MARK + TEXT_FILES["a.txt"])
    assert digest_text(marked) not in (digest_text(plain), open_path(str(plain), _config(tmp_path)).fingerprint)


def _config(tmp_path):
    from transformer.data.text.config import TextConfig

    return TextConfig(cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("name", [*TEXT_FILES, "plays"])
def test_other_encodings_are_named(tmp_path, name, encoding):
    text = TEXT_FILES.get(name, TEXT_FILES["a.txt"]).decode().replace("\\u00e9", "é")
    path = tmp_path / name
    path.write_bytes(b"\xfe\xff" * (encoding == "utf-16-be") + text.encode(encoding))
    refused(lambda: read(path), name, *(["iconv"] if name[-4:] != "json" else []))


BAD_VALUES = {
    "digits": "9" * 5000,
    "brackets": "[" * 100_000 + "]" * 100_000,
    "open brackets": "[" * 100_000,
    "open string": '"' + "\\ud800",
    "octal": "01",
    "open object": "{",
    "no word": "nul",
}


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_bad_line_of_jsonl_is_named_with_its_place(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a"}}\n{{"text": "b"}}\n{{"n": {BAD_VALUES[kind]}, "text": "c"}}\n')
    refused(lambda: read(path), f"{path}:3: ", "JSON")
    path.write_text(f'{{"text": "a", "n": "b"}}\n{{"n": {BAD_VALUES[kind]}, "text": "c"}}\n')
    refused(lambda: read_pairs(path, ("text", "n")), f"{path}:2: ", "JSON")


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_bad_item_of_an_array_is_named_with_its_place(tmp_path, kind):
    path = tmp_path / "a.json"
    path.write_text(f'[{{"text": "a"}}, {{"text": "b"}}, {{"n": {BAD_VALUES[kind]}, "text": "c"}}]')
    refused(lambda: read(path), f"{path}: not JSON that can be read, after item 2 (")


def test_nested_items_are_read(tmp_path):
    items = [{"n": [[{"a": [i]}]], "text": f"text {i}"} for i in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(items))
    assert sorted(joined(read(tmp_path / "a.json"))) == [f"text {i}" for i in range(5)]
    (tmp_path / "a.json").write_text('["a", "b", {"text": "c"}]')
    assert sorted(joined(read(tmp_path / "a.json"))) == ["a", "b", "c"]


def test_what_is_no_record_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": TEXTS}))
    refused(lambda: read(path), path, "holds 1 document")
    path.write_text(2 * (json.dumps({"data": TEXTS}) + "\n"))
    refused(lambda: read(path), f"{path}:", "no field 'text'; its fields are: data")
    path.write_text(json.dumps({"data": TEXTS}, indent=1))
    refused(lambda: read(path), f"{path}:1", "a .json file too, or one array")
    path.write_text('[{"text": "a"}, {"body": "b"}]')
    refused(lambda: read(path), f"{path}: item 2", "'text'", "body")
    refused(lambda: read_pairs(path, ("text", "body")), f"{path}: item 1", "'body'", "--data.fields")
    path.write_text("[1, 2]")
    refused(lambda: read(path), f"{path}: item 1", "int")
    path.write_text("[]")
    refused(lambda: read(path), path, "holds 0 document")
    for content, words in {
        "id,body\n1,a\n2,b\n": ["no column 'text'", "id, body", ".txt"],
        "text,text\n1,a\n2,b\n": ["more than one column 'text'"],
        "text,n\na,1\nb\n": [":3: 1 cells, and the header has 2"],
        "text,n\na,1,2\nb,1\n": [":2: 3 cells"],
        'text,n\na,1\n"b,2\nc,3\n': ["not comma-separated"],
    }.items():
        (tmp_path / "a.csv").write_text(content)
        refused(lambda: read(tmp_path / "a.csv"), tmp_path / "a.csv", *words)


def test_cells_hold_lines_and_long_documents(tmp_path):
    texts = ["a\nb\r\nc", 'say "x", y', "word " * 100_000, " "]
    (tmp_path / "a.csv").write_bytes(as_csv([("text",), *((text,) for text in texts)]))
    assert sorted(joined(read(tmp_path / "a.csv"))) == sorted(texts)


def test_line_ends(tmp_path):
    """A line ends with a line feed; what else a program might take for an end is text."""
    odd = [f"a\u2028b {i}\x0b\x0c\x85 \u2029" for i in range(30)]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n\r\n" for text in odd)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    assert sorted(joined(read(tmp_path / "a.jsonl"))) == sorted(odd)
    (tmp_path / "a.tsv").write_bytes("".join(f"{text}\tx\r\n\r\n" for text in odd).encode())
    assert sorted(joined(read_pairs(tmp_path / "a.tsv", None))) == sorted((text, "x") for text in odd)
    for name in ("a.jsonl", "a.tsv"):
        content = (tmp_path / name).read_bytes().replace(b"\n", b"")
        (tmp_path / name).write_bytes(content)
        refused(lambda name=name: read_pairs(tmp_path / name, FIELDS), name, "carriage returns alone")


def test_null_cells_are_no_documents_and_no_pairs(tmp_path):
    table(tmp_path / "a.parquet", {"q": ["a", None, "b"], "a": ["x", "y", "z"]})
    assert sorted(joined(read_pairs(tmp_path / "a.parquet", FIELDS))) == [("a", "x"), ("b", "z")]


PAIR, WORDS = "A man sleeps.\tEin Mann schläft.", "of\tvon"


@pytest.mark.parametrize(
    ("line", "following", "columns"),
    [
        ("source\ttarget", WORDS, (0, 1)),
        ("ID\tTGT\tSRC", PAIR, (2, 1)),
        ("en\tde", PAIR, (0, 1)),
        ("en\tzh", "Hello\t" + "\u597d" * 30, (0, 1)),
        ("en-US\tzh_Hans\tscore", WORDS, (0, 1)),
        ("eng_Latn\tdeu_Latn", WORDS, (0, 1)),
        ("English\tGerman", WORDS, (0, 1)),
        ("to\tzu", WORDS, None),
        ("it\tes", "", None),
        ("q\ta", PAIR, None),
        ("en\ten", PAIR, None),
        ("hello\thallo", PAIR, None),
        ("no\tnein", PAIR, None),
        ("en", PAIR, None),
        ("", PAIR, None),
    ],
)
def test_headers(line, following, columns):
    assert find_header(line, following, None, None) == columns
    assert find_header(line, following, None, False) is None
    assert find_header(line, following, None, True) == (columns or (0, 1))


@given(st.lists(st.text(st.characters(exclude_characters="\t\r\n"), min_size=13), min_size=2, max_size=5))
def test_sentences_are_no_header(cells):
    assert find_header("\t".join(cells), PAIR, None, None) is None


def test_a_list_of_words_loses_none(tmp_path):
    words = [("to", "zu"), ("of", "von"), ("it", "es"), *((f"a{i}", f"b{i}") for i in range(20))]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in words))
    assert sorted(joined(read_pairs(tmp_path / "a.tsv", None))) == sorted(words)


def test_a_header_is_no_pair_and_said(tmp_path):
    from transformer.data.pairs.mixture import open_pairs
    from transformer.data.text.config import TextConfig

    path = tmp_path / "a.tsv"
    path.write_text("en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS) + "lonely\t \n")

    def opened(**flags):
        [(pairs, _)] = open_pairs(TextConfig(path=str(path), cache_dir=str(tmp_path / "cache"), **flags))
        return [*pairs.pairs("train"), *pairs.pairs("validation")], pairs.notes, pairs.fingerprint

    found, notes, fingerprint = opened()
    assert sorted(found) == sorted(PAIRS)
    assert notes == [
        f"{path}: its first line names the columns en and de, and is no pair (--data.header False: it is)",
        f"{path}: 1 pair with an empty side left out",
    ]
    found, notes, other = opened(header=False)
    assert sorted(found) == sorted([*PAIRS, ("en", "de")])
    assert other != fingerprint
    assert len(notes) == 1
    turned, *_ = opened(fields=("de", "en"))
    assert sorted(turned) == sorted((b, a) for a, b in PAIRS)
    refused(lambda: opened(fields=("fr", "es"), header=True), "no such columns; it has: en, de")


def test_paths_that_name_nothing(tmp_path):
    refused(lambda: open_path("", _config(tmp_path)), "--data.path is empty")
    refused(lambda: open_path(f"{tmp_path}/*.txt", _config(tmp_path)), "no such file or folder", "not expanded")
    refused(lambda: open_path(f"{tmp_path}/{'x' * 300}", _config(tmp_path)), "no such file or folder")
    refused(lambda: open_path("/dev/null", _config(tmp_path)), "/dev/null is empty")
    refused(lambda: open_path("~nobody-here/a.txt", _config(tmp_path)), "no such file or folder")
