"""Rows of texts and pairs against Transformers' fast tokenizers: ids, token types, offsets, words, windows."""

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.corpus import make_text
from tests.interop import tokenizer_folders as folders
from transformer.errors import UserError
from transformer.tokenizers.framing import SPECIAL, Length, framed
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.sentencepiece import SentencePieceTokenizer
from transformer.tokenizers.sentencepiece_training import train

FOLDERS = {
    "bert": folders.bert(),
    "roberta": {**folders.config("roberta"), **folders.byte_pairs(folders.ROBERTA)},
    "gpt2": {**folders.config("gpt2"), **folders.byte_pairs(folders.GPT2)},
    "albert": {**folders.config("albert"), "spiece.model": folders.albert_model()},
    "t5": {**folders.config("t5"), "spiece.model": folders.t5_model()},
}
SHORT, LONG = "the cat", "a dog ran; naïve 日本 Zürich,  the cat sat é to 19 covid! The CAT ran to a dog"
SPELLED = "the [SEP] cat <mask> </s> sat"
TEXTS = [SHORT, LONG, SPELLED, "", " "]
PAIRS = [*itertools.product(TEXTS, TEXTS), (LONG + LONG, LONG), (LONG, LONG + LONG)]

each_folder = pytest.mark.parametrize("name", FOLDERS)


@functools.cache
def both(name):
    """Our tokenizer of a folder, and Transformers'."""
    with tempfile.TemporaryDirectory() as place:
        folder = folders.write(Path(place), FOLDERS[name])
        return folders.ours(folder)[0], folders.theirs(folder)


def rows_of_theirs(theirs, text, **options):
    texts = [[text]] if isinstance(text, str) else [[each] for each in text]
    rows = theirs(*texts, **options).encodings
    return [(row.ids, row.type_ids, row.sequence_ids, row.offsets, row.word_ids) for row in rows]


def rows_of_ours(ours, text, length=None, windows=False):
    [rows] = framed(ours, [text], length, windows=windows)
    return [
        (
            row.ids.tolist(),
            row.token_types.tolist(),
            [None if each == SPECIAL else each for each in row.texts.tolist()],
            list(zip(row.starts.tolist(), row.ends.tolist(), strict=True)),
            [None if each == SPECIAL else each for each in row.words.tolist()],
        )
        for row in rows
    ]


@each_folder
@pytest.mark.parametrize("text", [*TEXTS, *PAIRS], ids=repr)
def test_whole_rows(name, text):
    ours, theirs = both(name)
    assert rows_of_ours(ours, text) == rows_of_theirs(theirs, text)


@each_folder
@pytest.mark.parametrize("text", PAIRS, ids=repr)
def test_a_pair_is_cut_from_the_longer_text(name, text):
    ours, theirs = both(name)
    whole, specials = len(rows_of_ours(ours, text)[0][0]), len(rows_of_ours(ours, ("", ""))[0][0])
    for most in sorted({*range(specials, min(whole, 12)), max(whole - 1, specials), whole, whole + 1} - {0}):
        cut = rows_of_theirs(theirs, text, truncation="longest_first", max_length=most)
        assert rows_of_ours(ours, text, Length(most)) == cut, most


@each_folder
@pytest.mark.parametrize("cut", ["only_first", "only_second"])
@pytest.mark.parametrize("stride", [0, 1, 4])
def test_windows_of_a_pair(name, cut, stride):
    """Windows of one text, the other whole in each; without `windows`, the first of them."""
    ours, theirs = both(name)
    text = (LONG, SHORT) if cut == "only_first" else (SHORT, LONG)
    whole, short = (len(rows_of_ours(ours, each)[0][0]) for each in (text, SHORT))
    for most in (short + 8, whole - 3, whole - 1, whole):
        options = {"truncation": cut, "max_length": most, "stride": stride}
        length = Length(most, cut, stride)
        windows = rows_of_theirs(theirs, text, return_overflowing_tokens=True, **options)
        made = rows_of_ours(ours, text, length, windows=True)
        if name == "t5":  # the library gives later windows other types than the first; T5 reads none
            made, windows = ([(row[0], *row[2:]) for row in rows] for rows in (made, windows))
        assert made == windows
        assert len(windows) > (most < whole)
        assert rows_of_ours(ours, text, length) == rows_of_theirs(theirs, text, **options)


@each_folder
@pytest.mark.parametrize("stride", [0, 1, 4])
def test_windows_of_one_text(name, stride):
    ours, theirs = both(name)
    for text, most in itertools.product((LONG, SHORT, ""), (8, 9, 20)):
        options = {"truncation": True, "max_length": most, "stride": stride, "return_overflowing_tokens": True}
        expected = rows_of_theirs(theirs, text, **options)
        assert rows_of_ours(ours, text, Length(most, stride=stride), windows=True) == expected


@pytest.mark.parametrize("kind", ["unigram", "bytes"])
def test_tokenizers_of_our_own(kind):
    """<cls> a <sep> b <sep>; windows hold every token of the text that is cut, in order, and all of the other."""
    tokenizer = ByteTokenizer() if kind == "bytes" else SentencePieceTokenizer(train(kind, 600, [make_text(400)]), kind)
    cls, sep = tokenizer.special_id("<cls>"), tokenizer.special_id("<sep>")
    [[row]] = framed(tokenizer, [(SHORT, LONG)])
    first, second = tokenizer.encode(SHORT), tokenizer.encode(LONG)
    assert row.ids.tolist() == [cls, *first, sep, *second, sep]
    assert row.token_types.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert row.texts.tolist() == [SPECIAL, *([0] * len(first)), SPECIAL, *([1] * len(second)), SPECIAL]
    places = zip(row.starts[row.texts == 1].tolist(), row.ends[row.texts == 1].tolist(), strict=True)
    assert "".join(LONG[start:end] for start, end in sorted(set(places))) == LONG
    [[alone]] = framed(tokenizer, [SHORT])
    assert alone.ids.tolist() == [cls, *first, sep]
    [windows] = framed(tokenizer, [(SHORT, LONG)], Length(len(first) + 13, "only_second", 3), windows=True)
    assert {len(window) for window in windows[:-1]} == {len(first) + 13}
    for window in windows:
        assert window.ids[window.texts == 0].tolist() == first
    joined = [*windows[0].ids[windows[0].texts == 1], *(i for w in windows[1:] for i in w.ids[w.texts == 1][3:])]
    assert joined == second


def test_text_that_spells_a_special():
    """It is text to a tokenizer of our own, and to one whose folder says that specials are split."""
    tokenizer = ByteTokenizer()
    [[row]] = framed(tokenizer, ["<sep>"])
    assert row.ids.tolist().count(tokenizer.special_id("<sep>")) == 1
    with tempfile.TemporaryDirectory() as place:
        folder = folders.write(Path(place), folders.bert(split_special_tokens=True))
        ours = folders.ours(folder)[0]
        [[row]] = framed(ours, [SPELLED])
        assert row.ids.tolist().count(ours.special_id("[SEP]")) == 1


@pytest.mark.parametrize(
    ("text", "length", "says"),
    [
        (SHORT, Length(2), "rows of 2 tokens have no room"),
        ((SHORT, SHORT), Length(2), "rows of 2 tokens have no room"),
        (SHORT, Length(3, "only_second"), "stands alone and may not be cut to 3"),
        ((LONG, SHORT), Length(12, "only_second"), "the first, which is not cut, leaves no room"),
        ((SHORT, LONG), Length(12, "only_first"), "the second, which is not cut, leaves no room"),
        ((SHORT, LONG), Length(9, "only_second", 4), "a stride of 4 tokens where a window has room for 4"),
        (LONG, Length(9, "only_first", 7), "a stride of 7 tokens where a window has room for 7"),
    ],
)
def test_what_cannot_be_cut(text, length, says):
    with pytest.raises(UserError, match=says):
        framed(both("bert")[0], [text], length, windows=length.cut != "longest_first")


def test_many_texts_are_rows_in_order():
    ours, _ = both("bert")
    texts = [SHORT, (LONG, SHORT), "", LONG]
    rows = framed(ours, texts, Length(10))
    alone = [framed(ours, [text], Length(10))[0] for text in texts]
    assert all(np.array_equal(a.ids, b.ids) for [a], [b] in zip(rows, alone, strict=True))
