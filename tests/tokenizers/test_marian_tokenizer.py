"""Marian's two SentencePiece models over one vocabulary, against Transformers' own tokenizer."""

import json

import pytest
import sentencepiece
import transformers

from transformer.errors import UserError
from transformer.tokenizers.kinds import load_tokenizer
from transformer.tokenizers.marian import MarianTokenizer

ENGLISH = ["the cat sat on the mat", "a dog ran after the cat", "the mat was red and the dog was brown"] * 20
GERMAN = ["die Katze sass auf der Matte", "ein Hund lief der Katze nach", "die Matte war rot, der Hund braun"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as OPUS-MT models have it: the vocabulary joins the pieces of both languages."""
    path = tmp_path_factory.mktemp("marian")
    pieces = {"</s>": 0, "<unk>": 1}
    for name, lines in (("source", ENGLISH), ("target", GERMAN)):
        (path / f"{name}.txt").write_text("\n".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input=str(path / f"{name}.txt"),
            model_prefix=str(path / name),
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (path / f"{name}.model").rename(path / f"{name}.spm")
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path / f"{name}.spm"))
        for i in range(processor.get_piece_size()):
            if not processor.is_control(i):
                pieces.setdefault(processor.id_to_piece(i), len(pieces))
    pieces["<pad>"] = len(pieces)
    (path / "vocab.json").write_text(json.dumps(pieces))
    return path


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_ids_are_transformers(folder):
    ours = MarianTokenizer.read(folder)
    theirs = transformers.MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json")
    )
    for text in (*ENGLISH[:3], "an unseen zebra", ""):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)
    german = theirs(text_target=GERMAN[0], add_special_tokens=False)["input_ids"]
    assert ours.decode([*german, ours.eos_id, ours.pad_id]) == GERMAN[0]


def test_there_and_back_through_a_run_folder(folder, tmp_path):
    ours = MarianTokenizer.read(folder)
    ours.save(tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    assert again.encode(ENGLISH[0]) == ours.encode(ENGLISH[0])
    assert again.fingerprint == ours.fingerprint
    assert len(again.pieces()) == again.vocab_size


def test_a_folder_that_is_no_marian_tokenizer_is_refused(folder, tmp_path):
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match="vocab.json: No such file"):
        MarianTokenizer.read(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="are not a Marian tokenizer"):
        MarianTokenizer.read(tmp_path)
