"""The tokenizer files of folders, new and old, against Transformers' own tokenizers on the same files."""

import json

import pytest
import transformers

from transformer.interop import tokenizers
from transformer.tokenizers.kinds import load_tokenizer

TEXT = "The cat sat; the CAT ran to the naïve dog."


def _loaded(folder, tmp_path):
    files, [said] = tokenizers.read(folder)
    assert said.startswith("from"), said
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return load_tokenizer(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hf").mkdir()
    return tmp_path / "hf"


@pytest.mark.parametrize("lowercase", [True, False])
def test_berts_vocabulary(folder, tmp_path, lowercase):
    names = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat ran to dog The CAT na ##ive ##ïve ; . ##s"
    (folder / "vocab.txt").write_text(names.replace(" ", "\n") + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    ours = _loaded(folder, tmp_path)
    theirs = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=lowercase)
    assert ours.encode(TEXT) == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert (ours.special_id("[MASK]"), ours.eos_id, ours.pad_id) == (4, 3, 0)


def test_robertas_vocabulary(folder, tmp_path):
    from tokenizers import pre_tokenizers

    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        "th",
        "Ġth",
        "the",
        "<mask>",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nĠ th\nth e\n")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    ours = _loaded(folder, tmp_path)
    theirs = transformers.RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    assert ours.encode(TEXT) == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert ours.decode(ours.encode(TEXT)) == TEXT
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.special_id("<mask>")) == (0, 2, 1, len(pieces) - 1)


def test_a_folder_without_a_tokenizer_says_so(folder):
    files, said = tokenizers.read(folder)
    assert not files
    assert said[0].startswith("left out: ")
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json: not JSON" in tokenizers.read(folder)[1][0]


def test_a_tokenizer_trained_here_goes_out_with_its_special_ids(folder, tmp_path):
    from etils import epath

    from transformer.tokenizers.raw_bytes import ByteTokenizer

    ByteTokenizer().save(tmp_path / "tokenizer")
    files, ids = tokenizers.export(epath.Path(tmp_path / "tokenizer"))
    assert ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    assert not files  # bytes need none
    assert tokenizers.export(epath.Path(tmp_path / "none")) == ({}, {})
