"""Tagged words: columns and JSON give the same examples, tags stand at first tokens, and bad input is a line."""

import ast
import gzip
import json

import pytest
import transformers

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.definitions import definitions
from transformer.data.examples.tagged import TaggedReading
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer

SENTENCES = [([f"Ann{i}", "saw", f"New{i}", "York", "."], ["B-PER", "O", "B-LOC", "I-LOC", "O"]) for i in range(12)]


def columns(sentences=SENTENCES, mark="\t", between="\n"):
    blocks = ["".join(f"{word}{mark}x{mark}{tag}\n" for word, tag in zip(*each, strict=True)) for each in sentences]
    return between.join(blocks)


def opened(path, length=64, *, entities=True, tokenizer=None, **fields):
    whole = fields.pop("whole", False)
    fields = {"text_field": "tokens", "label_field": "tags", "validation_fraction": 0.3, **fields}
    config = ExamplesConfig(path=str(path), **fields)
    tokenizer = tokenizer or ByteTokenizer()
    return open_dataset(config, TaggedReading(length, entities), vocab_size=400, tokenizer=tokenizer, whole=whole)


def contents(found):
    records = found.validation
    return [{name: values.tolist() for name, values in records[i].items()} for i in range(len(records))]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "want.jsonl"
    path.write_text("\n".join(json.dumps({"tokens": words, "tags": tags}) for words, tags in SENTENCES))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", columns()),
        ("a.conll", columns().rstrip("\n")),  # no newline, no blank line at the end
        ("a.txt", "-DOCSTART- -X- O\n\n" + columns(mark=" ") + "\n\n"),
        ("a.tsv", columns(between="\n-DOCSTART-\tx\tO\n\n").replace("\n", "\r\n")),
        ("a.bio.gz", columns()),
        ("a.conllu", "# text\n" + "\n".join(
            "".join(f"{n}\t{w}\tlemma\t{t}\n" for n, (w, t) in enumerate(zip(*each, strict=True), 1)) + "5.1\t_\t_\t_\n"
            for each in SENTENCES
        )),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_examples(name, text, jsonl, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    want, found = opened(jsonl), opened(path)
    assert found.labels == want.labels == ("B-LOC", "B-PER", "I-LOC", "O")
    assert contents(found) == contents(want)
    assert len(found.train[0]) + len(found.validation) == len(SENTENCES)


def test_columns_are_chosen_by_number(tmp_path):
    (tmp_path / "a.conll").write_text("\n".join("O\tword\tB-X\n" for _ in range(1)) + "\nO\tother\tO\n")
    found = opened(tmp_path / "a.conll", word_column=2, tag_column=1, whole=True)
    assert found.labels == ("O",)
    assert "word" in found.show(found.validation[0])[0]


def test_numbered_words_may_have_comments_above(tmp_path):
    """GermEval's files: a number, a word, its tag, and the tag of a name inside of it; a word may be `#`."""
    (tmp_path / "a.tsv").write_text(
        "#\ta paper, 2005\t[2005]\n1\tBree\tB-PER\tO\n2\t#\tO\tO\n\n#\tb\t[1]\n1\tLibanon\tB-LOC\tO\n"
    )
    found = opened(tmp_path / "a.tsv", word_column=2, tag_column=3, whole=True)
    assert found.labels == ("B-LOC", "B-PER", "O")
    assert [found.show(found.validation[number])[0] for number in (0, 1)] == ["Bree #", "Libanon"]


def test_numbers_have_the_names_that_are_given(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"tokens": ["a", f"b{i}"], "ner_tags": [0, 2]}) for i in range(9)))
    found = opened(path, label_field="ner_tags", tag_names=("O", "B-X", "I-X"))
    assert found.labels == ("I-X", "O")
    with pytest.raises(UserError, match="a.jsonl:1: tag 0 is a number: name the tags in their order, --data.tag-n"):
        opened(path, label_field="ner_tags")
    with pytest.raises(UserError, match=r"a.jsonl:1: tag 2, and --data.tag-names names 1, from 0"):
        opened(path, label_field="ner_tags", tag_names=("O",))
    assert opened(path, label_field="ner_tags", entities=False).labels == ("0", "2")


def word_pieces(folder):
    """A WordPiece tokenizer as BERT has it, here and in Transformers."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "new", "york", "!", "##s", "é"]
    built = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    built.save_pretrained(folder)
    return HuggingFaceTokenizer((folder / "tokenizer.json").read_bytes(), "tokenizer.json"), built


def test_tags_stand_at_the_first_tokens_as_transformers_finds_them(tmp_path):
    """Their examples read word ids of words that are given apart."""
    ours, theirs = word_pieces(tmp_path)
    words = ["unaffable", "New", "Yorks", "unknown", "\u200b", "é!", "!"]
    path = tmp_path / "a.jsonl"
    tags = ["B-A", "B-B", "I-B", "B-C", "B-D", "B-E", "B-F"]
    path.write_text("\n".join(json.dumps({"tokens": words, "tags": tags}) for _ in range(2)))
    found = opened(path, tokenizer=ours, whole=True)
    encoded = theirs(words, is_split_into_words=True)
    want, before = [], None
    for word in encoded.word_ids():
        want.append(None if word is None or word == before else tags[word])
        before = word
    record = found.validation[0]
    have = [found.labels[tag] if there else None for tag, there in zip(record["tags"], record["tagged"], strict=True)]
    assert record["tokens"][: len(want)].tolist() == encoded.input_ids
    assert have[: len(want)] == want
    assert record["tagged"].sum() == sum(tag is not None for tag in want)


def test_what_the_row_has_no_room_for_is_left_out_and_said(jsonl):
    found = opened(jsonl, length=12)
    records = found.validation
    assert (records.places[0] < 0).tolist() == [False, False, False, True, True]
    assert records[0]["tagged"].sum() == 3
    assert len(records.tags[0]) == 5
    assert "fill all 12 tokens of --train.seq-len, and may be cut" in found.about.validation[0]


def test_every_first_token_begins_its_word_whatever_the_tokenizer():
    """Bytes: a word begins at its first one, and a space is no word's."""
    from transformer.data.examples.tagged import first_tokens
    from transformer.tokenizers.framing import framed

    words = ["été", "x", "日本"]
    [[row]] = framed(ByteTokenizer(), [" ".join(words)])
    ids = row.ids[first_tokens(row, words)]
    first = [ByteTokenizer().encode(word)[0] for word in words]
    assert ids.tolist() == first


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.conll", "word O\nword\n", "a.conll:2: 1 columns, and line 1 of its sentence has 2"),
        ("a.conll", "word\n\n", "a.conll:1: one column: a line has a word and its tag"),
        ("a.conll", "\tO\n", "a.conll:1: column 1 is empty: choose another with --data.word-column"),
        ("a.conll", "word NOUN\n", "a.conll:1: 'NOUN' is no tag of a name (O, B-NAME, I-NAME"),
        ("a.conll", "\n\n-DOCSTART- O\n", "holds no examples"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', "a.jsonl:1: 2 words, and tags has 1: give a tag a word"),
        ("a.jsonl", '{"tokens": [], "tags": []}', "a.jsonl:1: tokens has no words"),
        ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}', "a.jsonl:1: word 2 of tokens is empty"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O", "O"]}', "a.jsonl:1: tokens is no list of words"),
        ("a.jsonl", '{"words": ["a"], "tags": ["O"]}', "no 'tokens'; it has: words, tags. Name another with"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [null]}', "a.jsonl:1: tags has None: a tag is a name or a number"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_line(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        opened(tmp_path / name, whole=True)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_column_that_is_not_there(tmp_path):
    (tmp_path / "a.conll").write_text("word O\n")
    with pytest.raises(UserError, match=r"a.conll:1: 2 columns, and --data.tag-column 3 is none of them"):
        opened(tmp_path / "a.conll", whole=True, tag_column=3)
    with pytest.raises(UserError, match=r"--data.columns names columns of .csv files"):
        opened(tmp_path / "a.conll", whole=True, columns=("tokens", "tags"))


CODE = """
class Thing(base.Other, metaclass=abc.ABCMeta):
    "é"; x = lambda y, z=(1, 2): y

    async def run(self, é, *rest, sure=True):
        def inner(): pass
"""


def test_definitions_are_tagged_as_ast_tells_them():
    rows = list(definitions(ast.parse(CODE), CODE))
    told = [each for row in rows for each in zip(row["tokens"], row["tags"], strict=True) if each[1] != "O"]
    assert told == [
        ("Thing", "B-CLASS"), ("base", "B-BASE"), (".", "I-BASE"), ("Other", "I-BASE"), ("y", "B-ARGUMENT"),
        ("z", "B-ARGUMENT"), *zip("(1,2)", ["B-DEFAULT", *["I-DEFAULT"] * 4], strict=True), ("run", "B-FUNCTION"),
        ("self", "B-ARGUMENT"), ("é", "B-ARGUMENT"), ("rest", "B-ARGUMENT"), ("sure", "B-ARGUMENT"),
        ("True", "B-DEFAULT"), ("inner", "B-FUNCTION"),
    ]  # fmt: skip
    assert [row["tokens"][0] for row in rows] == ["class", "async"]
