"""Long documents, encoded in windows, against the library's encoding of the whole text."""

import functools
import io
import itertools
import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.data.corpus import build_store, documents
from tests.exhaustive import few
from transformer.data.text.config import TextConfig
from transformer.data.text.long_text import Encoded, Windowing, encode_documents
from transformer.data.text.pieces import Piece, cut_document
from transformer.data.text.sources import open_path
from transformer.errors import UserError
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.marian import MarianTokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.sentencepiece import SentencePieceTokenizer
from transformer.tokenizers.sentencepiece_training import train
from transformer.tokenizers.tokenizer import Tokenizer

from .corpus import make_text

SMALL = Windowing(window=96, overlap=48, whole=96, most=100_000, run=2)
TEXT = make_text(300)
# What normalisers, pre-tokenizers and byte fallback see, or that they change.
FRAGMENTS = [
    *(" ", "  ", " " * 9, "\n", "\n    ", "\r\n", "\t", "\u00a0", "\u2581", "."),
    *("ba", "cedi", " fogu", " = 4", "Ba", "x" * 70, "12345", "\ufb01", "e\u0301", "\u0301\u0323", "é", "日本", "😀"),
    *("\ufeff", "\u1e9b\u0323", "<tool>", "don't", "\u3000", "ｶﾞ", "\u0130"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=120).map("".join)


AWKWARD = "".join(FRAGMENTS * 5) + TEXT[:2000] + "".join(FRAGMENTS * 3)


def foreign(kind: str, **settings) -> SentencePieceTokenizer:
    """A SentencePiece model with the library's own settings."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type=kind,
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=3,
        **settings,
    )
    return SentencePieceTokenizer(model.getvalue(), kind)


def hugging_face(model, trainer, *, normalizer=None, pre_tokenizer=None, added=()) -> HuggingFaceTokenizer:
    built = tokenizers.Tokenizer(model)
    if normalizer is not None:
        built.normalizer = normalizer
    if pre_tokenizer is not None:
        built.pre_tokenizer = pre_tokenizer
    built.train_from_iterator(TEXT.splitlines(), trainer)
    built.add_tokens(list(added))
    return HuggingFaceTokenizer(built.to_str().encode(), "made here")


def bpe(**settings) -> HuggingFaceTokenizer:
    specials = ["<unk>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, show_progress=False, initial_alphabet=alphabet, max_token_length=12
    )
    return hugging_face(models.BPE(unk_token="<unk>", fuse_unk=True), trainer, **settings)


def unigram(**settings) -> HuggingFaceTokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    return hugging_face(models.Unigram(), trainer, **settings)


def word_piece() -> HuggingFaceTokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    return hugging_face(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    )


def marian() -> MarianTokenizer:
    spm = foreign("unigram")
    pieces = {"</s>": 0, "<unk>": 1}
    for i in range(spm.vocab_size):
        if (name := spm._processor.id_to_piece(i)) not in ("<s>", "<unk>"):
            pieces.setdefault(name, len(pieces))
    files = {"source.spm": spm._model, "target.spm": spm._model}
    return MarianTokenizer(files | {"vocab.json": json.dumps(pieces | {"<pad>": len(pieces)}).encode()}, "made here")


GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PIECES = [piece.text for piece in cut_document(TEXT)]
KINDS = {
    "bytes": ByteTokenizer,
    "unigram trained here": lambda: SentencePieceTokenizer(train("unigram", 600, PIECES), ""),
    "bpe trained here": lambda: SentencePieceTokenizer(train("bpe", 600, PIECES), ""),
    "spm unigram": lambda: foreign("unigram"),
    "spm bpe": lambda: foreign("bpe"),
    "spm unigram, bytes": lambda: foreign("unigram", byte_fallback=True, normalization_rule_name="nmt_nfkc_cf"),
    "spm bpe, bytes, as Llama's": lambda: foreign(
        "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    ),
    "spm bpe, space after": lambda: foreign("bpe", treat_whitespace_as_suffix=True),
    "spm bpe across spaces": lambda: foreign("bpe", split_by_whitespace=False, user_defined_symbols=["<tool>", "cedi"]),
    "spm char": lambda: foreign("char"),
    "spm word": lambda: foreign("word"),
    "marian": marian,
    "hf bpe, GPT-2's": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True), added=["<tool>"]),
    "hf bpe, GPT-4's": lambda: bpe(
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(GPT4), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
    "hf bpe, Metaspace first": lambda: bpe(
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), added=["<tool>"]
    ),
    "hf bpe, Metaspace": lambda: bpe(pre_tokenizer=pre_tokenizers.Metaspace()),
    "hf bpe, as Llama's": lambda: bpe(
        normalizer=normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    ),
    "hf bpe of all": lambda: bpe(normalizer=normalizers.NFKC()),
    "hf bpe, stripped": lambda: bpe(
        normalizer=normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]
        ),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    ),
    "hf unigram": lambda: unigram(normalizer=normalizers.NFKC(), pre_tokenizer=pre_tokenizers.Metaspace()),
    "hf unigram of all": lambda: unigram(pre_tokenizer=pre_tokenizers.Metaspace(split=False, prepend_scheme="first")),
    "hf wordpiece": word_piece,
}


@functools.cache
def made(kind: str) -> Tokenizer:
    return KINDS[kind]()


def encoded(pieces, tokenizer, windowing=SMALL, batch_parts=3) -> list[Encoded]:
    batches = encode_documents(pieces, tokenizer, "corpus", windowing=windowing, batch_parts=batch_parts)
    return list(itertools.chain.from_iterable(batches))


def in_blocks(text: str, size: int) -> list[Piece]:
    starts = range(0, len(text), size)
    return [Piece(text[i : i + size], ends_document=i + size >= len(text)) for i in starts]


def joined(parts: list[Encoded]) -> list[tuple[list[int], str]]:
    """The ids and the text of each document."""
    documents, ids, text = [], [], b""
    for part in parts:
        ids += part.ids.tolist()
        text += part.text
        if part.ends_document:
            documents.append((ids, text.decode()))
            ids, text = [], b""
    assert not ids
    assert not text
    return documents


FEW = (
    "unigram trained here", "spm unigram, bytes", "spm bpe, bytes, as Llama's", "marian", "hf bpe, GPT-2's",
    "hf bpe, Metaspace first", "hf unigram", "hf wordpiece",
)  # fmt: skip


@pytest.mark.parametrize("kind", few(KINDS, *FEW))
def test_ids_are_those_of_the_whole_text(kind):
    tokenizer = made(kind)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(TEXTS, max_size=3), st.integers(1, 300), st.integers(1, 9))
    @example([TEXT[:4000]], 77, 100)
    @example([" ".join(["the lazy dog"] * 60), "x" * 500], 1000, 2)
    def holds(texts, size, batch_parts):
        pieces = [piece for text in texts for piece in in_blocks(text, size)]
        parts = encoded(pieces, tokenizer, batch_parts=batch_parts)
        assert joined(parts) == [(tokenizer.encode(text), text) for text in texts if text]

    holds()
    assert len(encoded([Piece(TEXT[:4000], ends_document=True)], tokenizer)) > 40


@pytest.mark.parametrize("kind", ["bytes", "unigram trained here", "bpe trained here"])
def test_windows_are_joined_where_no_cut_is_known(kind, monkeypatch):
    tokenizer = made(kind)
    expected = joined(encoded(in_blocks(AWKWARD, 100), tokenizer))
    monkeypatch.setattr(type(tokenizer), "cut", lambda *_: None)
    assert joined(encoded(in_blocks(AWKWARD, 100), tokenizer)) == expected == [(tokenizer.encode(AWKWARD), AWKWARD)]


def two_phases(text: str) -> HuggingFaceTokenizer:
    """A unigram model that cuts "abab..." into "ab" or into "ba", by what is at either end, and changes at "z"."""
    scores = {"<unk>": -30.0, "</s>": -30.0, "ab": -1.0, "ba": -1.0, "a": -9.0, "b": -9.0, "z": -1.0, "za": -1.0}
    built = tokenizers.Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    return HuggingFaceTokenizer(built.to_str().encode(), text)


@pytest.mark.parametrize(
    "text", ["zab" + "ab" * 200, "za" + "ba" * 200 + "b", "ab" * 30 + "z" + "ab" * 300 + "z", "ab" * 400 + "a"]
)
def test_windows_that_agree_by_chance_are_not_joined(text):
    """What the windows have in common may still be another path than the whole text's, where pieces lie across it."""
    tokenizer = two_phases("made here")
    assert joined(encoded([Piece(text, ends_document=True)], tokenizer)) == [(tokenizer.encode(text), text)]


def test_a_document_that_cannot_be_cut_is_one_line():
    text = "ab" * 5000
    with pytest.raises(UserError, match=r"^corpus: a document of more than 96 characters has no place .*\.$"):
        encoded([Piece(text, ends_document=True)], two_phases("made here"), SMALL._replace(most=1000))


def test_a_long_document_is_held_in_parts():
    """What was read and not given out stays small, however long the document is."""
    read = given_out = most = 0

    def pieces():
        nonlocal read
        for start in range(0, len(TEXT), 100):
            read += len(TEXT[start : start + 100].encode())
            yield Piece(TEXT[start : start + 100], start + 100 >= len(TEXT))

    for batch in encode_documents(pieces(), made("hf bpe, Metaspace first"), "corpus", windowing=SMALL, batch_parts=2):
        most = max(most, read - given_out)
        given_out += sum(len(part.text) for part in batch)
    assert given_out == read > 9000
    assert most < 1000


@pytest.mark.parametrize("kind", ["spm unigram", "hf bpe, Metaspace first", "hf bpe, as Llama's", "bpe trained here"])
def test_a_store_has_the_ids_of_its_whole_documents(kind, tmp_path):
    """A text of 60,000 words had ten ids too many: a space before each of its pieces of 65,536 characters."""
    tokenizer, path = made(kind), tmp_path / "long.txt"
    path.write_text(" ".join(["fogu ba cedi"] * 60_000))
    source = open_path(str(path), TextConfig(validation_fraction=0.5, cache_dir=str(tmp_path / "cache")))
    store = build_store(source, "train", tokenizer, tmp_path / "cache")
    [text] = documents(source, "train")
    assert len(text) > 300_000
    assert store.tokens[1:-1].tolist() == tokenizer.encode(text)
