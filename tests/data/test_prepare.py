import json

import pytest

from transformer.data.prepare import prepare
from transformer.data.text.config import TextConfig
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.tokenizers.kinds import load_tokenizer

from .corpus import make_text

READING = TextReading("windows", 33, overlap=1)


def test_a_mixture_becomes_windows_and_figures(tmp_path):
    (tmp_path / "a.txt").write_text(make_text(400))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": make_text(9, i)}) + "\n" for i in range(50)))
    config = TextConfig(mixture=(f"{tmp_path}/a.txt=3", f"{tmp_path}/b.jsonl=1"), cache_dir=str(tmp_path / "cache"))
    corpora = prepare(config, vocab_size=512, reading=READING)
    assert corpora.weights == (3.0, 1.0)
    assert len(corpora.train) == len(corpora.validation.parts) == 2
    assert corpora.tokenizer.vocab_size == 512
    assert corpora.figures.text_bytes == sum(part.store.meta.text_bytes for part in corpora.validation.parts)
    assert 0 < corpora.figures.gzip9_bits_per_byte < 8
    assert 0 < corpora.figures.xz9_bits_per_byte < 8

    corpora.tokenizer.save(tmp_path / "run")
    resumed = prepare(config, vocab_size=512, reading=READING, tokenizer=load_tokenizer(tmp_path / "run"))
    assert resumed.fingerprint == corpora.fingerprint


def test_a_corpus_smaller_than_a_window_is_explained(tmp_path):
    (tmp_path / "a.txt").write_text("a few words\nand a few more\n")
    config = TextConfig(path=str(tmp_path / "a.txt"), tokenizer="bytes", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"fewer than one window of 256 \+ 1: set --train.seq-len to at most"):
        prepare(config, vocab_size=512, reading=TextReading("windows", 257, overlap=1))
