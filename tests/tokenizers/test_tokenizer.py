import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.corpus import make_text
from transformer.data.text.config import TextConfig
from transformer.data.text.mixture import open_sources
from transformer.data.text.sampling import training_text
from transformer.errors import UserError
from transformer.tokenizers.kinds import check_vocabulary, load_tokenizer, make_tokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.sentencepiece import SentencePieceTokenizer
from transformer.tokenizers.sentencepiece_training import train
from transformer.tokenizers.tokenizer import RESERVED

# Text that spells specials and byte pieces, or that SentencePiece uses for itself.
AWKWARD = [
    "\t",
    "\r\n",
    "\0",
    "▁",
    " ▁ ",
    "a▁▁b",
    "  x  \n\n",
    "<s></s><pad>",
    "<mask>",
    "<0x41>",
    "⁇",
    "▅",
    "\ufffd",
    "\ufeff",
    "e\u0301",
    "😀",
]


@functools.cache
def tokenizer(kind):
    if kind == "bytes":
        return ByteTokenizer()
    return SentencePieceTokenizer(train(kind, 600, [make_text(400)]), kind)


kinds = pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])


@kinds
def test_decoding_gives_back_any_text(kind):
    tok = tokenizer(kind)

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.lists(st.sampled_from([*AWKWARD, " ", "self", "return", "\n    "])).map("".join))
    @example("".join(AWKWARD))
    def holds(text):
        ids = tok.encode(text)
        assert tok.decode(ids) == text
        assert all(len(RESERVED) <= i < tok.vocab_size for i in ids)
        assert tok.decode([tok.bos_id, *ids, tok.eos_id, tok.pad_id, tok.vocab_size + 7]) == text
        np.testing.assert_array_equal(tok.encode_batch(["x", text])[1], ids)

    holds()


@kinds
def test_reserved_pieces_have_their_ids(kind):
    tok = tokenizer(kind)
    assert (tok.pad_id, tok.bos_id, tok.eos_id) == (0, 1, 2)
    assert [tok.special_id(name) for name in RESERVED] == list(range(len(RESERVED)))
    with pytest.raises(UserError, match="<nope>"):
        tok.special_id("<nope>")


@kinds
def test_saving_keeps_everything(kind, tmp_path):
    tok = tokenizer(kind)
    tok.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.fingerprint == tok.fingerprint
    assert loaded.encode("self = 4\n") == tok.encode("self = 4\n")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_training_is_deterministic_and_compresses(kind):
    text = make_text(400)
    assert train(kind, 512, [text]) == train(kind, 512, [text])
    assert len(text) / len(tokenizer(kind).encode(text)) > 2.5


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a.txt").write_text(make_text(400))
    return TextConfig(path=str(tmp_path / "a.txt"), cache_dir=str(tmp_path / "cache"))


def make(config, vocab_size, **changes):
    import dataclasses

    config = dataclasses.replace(config, **changes)
    text = training_text(open_sources(config))
    return make_tokenizer(config.tokenizer, vocab_size, text, Path(config.cache_dir))


def test_a_trained_tokenizer_is_not_trained_again(corpus, monkeypatch):
    first = make(corpus, 512)
    monkeypatch.setattr("transformer.tokenizers.sentencepiece_training.train", lambda *_: pytest.fail("trained again"))
    assert make(corpus, 512).fingerprint == first.fingerprint


def test_vocabularies_that_do_not_fit_are_explained(corpus, capfd):
    with pytest.raises(UserError, match=r"set --model.vocab-size to at most \d+, or use --data.tokenizer bytes"):
        make(corpus, 60_000)
    with pytest.raises(UserError, match=r"too small .* set --model.vocab-size to at least \d+"):
        make(corpus, 280)
    with pytest.raises(UserError, match="at least 363"):
        make(corpus, 200, tokenizer="bytes")
    check_vocabulary(ByteTokenizer(), 1000)
    assert capfd.readouterr() == ("", "")


def test_huggingface_tokenizers_are_read(corpus, tmp_path):
    import tokenizers

    built = tokenizers.Tokenizer(tokenizers.models.BPE())
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    built.train_from_iterator([make_text(100)], trainer)
    path = tmp_path / "tokenizer.json"
    built.save(str(path))
    tok = make(corpus, 512, tokenizer=str(path))
    text = "    self = 4\n<|endoftext|>é"
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert tok.eos_id not in ids
    assert tok.bos_id == tok.eos_id == tok.special_id("<|endoftext|>")
    assert tok.decode([tok.bos_id, *ids, tok.eos_id]) == text
    np.testing.assert_array_equal(tok.encode_batch([text])[0], ids)
    tok.save(tmp_path / "kept")
    assert load_tokenizer(tmp_path / "kept").fingerprint == tok.fingerprint
    with pytest.raises(UserError, match="at least"):
        make(corpus, 300, tokenizer=str(path))


def test_bad_tokenizer_files_are_named(corpus, tmp_path):
    for name in ("a.json", "a.model"):
        path = tmp_path / name
        with pytest.raises(UserError, match="No such file"):
            make(corpus, 512, tokenizer=str(path))
        path.write_bytes(b"not a tokenizer")
        with pytest.raises(UserError, match=name):
            make(corpus, 512, tokenizer=str(path))
    with pytest.raises(UserError, match="unigrm"):
        make(corpus, 512, tokenizer="unigrm")
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "kind.json").write_text(json.dumps({"kind": "new"}))
    with pytest.raises(UserError, match="unknown kind"):
        load_tokenizer(tmp_path)
    (tmp_path / "kind.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_tokenizer(tmp_path)
