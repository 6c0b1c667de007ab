"""What objectives learn of a tokenizer: specials by the names of each family, and where words begin."""

import itertools
import json

import numpy as np
import pytest

from transformer.errors import UserError
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.tokenizer import RESERVED, SENTINELS
from transformer.tokenizers.vocabulary import Vocabulary

from .test_tokenizer import kinds, tokenizer


@kinds
def test_our_own_specials(kind):
    vocabulary = Vocabulary.of(tokenizer(kind))
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos) == (0, 1, 2)
    assert (vocabulary.mask, vocabulary.sep, vocabulary.cls) == (4, 5, 6)
    assert vocabulary.sentinels == tuple(RESERVED.index(f"<extra_id_{i}>") for i in range(SENTINELS))
    assert vocabulary.size == tokenizer(kind).vocab_size
    assert vocabulary.is_special[: len(RESERVED)].all()
    assert not vocabulary.is_special[len(RESERVED) :].any()


@kinds
def test_words_begin_after_space_and_at_signs(kind):
    """The pieces of a text, cut where the table says that a word begins, are its words."""
    tok = tokenizer(kind)
    vocabulary = Vocabulary.of(tok)
    text = "bace dime\n    fogu_la = (menix, 42)é\n"
    ids = np.array(tok.encode(text))
    starts = np.flatnonzero(vocabulary.begins_word[ids])
    assert tok.decode(ids[starts[0] :]) in (text, text[4:])
    bounds = [*starts.tolist(), len(ids)]
    words = [tok.decode(ids[a:b]) for a, b in itertools.pairwise(bounds)]
    assert "".join(words) == tok.decode(ids[starts[0] :])
    for word in words:
        assert word.lstrip(" \n(=,)").replace("_", "").isalnum() or not word.strip(" \n(=,)"), word
    assert any(word.endswith("fogu_la") for word in words)
    assert any(word.endswith("dime") and word.startswith(" ") for word in words)
    assert vocabulary.ends_sentence[tok.encode("\n")].any()


def build(kind):
    """Tokenizers as BERT, RoBERTa and T5 have them, of a few pieces."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if kind == "bert":
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", ".", "##s"]
        built = tokenizers.Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
        built.pre_tokenizer, built.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        built.add_special_tokens(names[:5])
    elif kind == "roberta":
        names = ["<s>", "<pad>", "</s>", "<unk>", "play", "Ġplay", "ing", "Ċ", ".", "(", "Ã", "©"]
        built = tokenizers.Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, []))
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = decoders.ByteLevel()
        built.add_special_tokens([*names[:4], "<mask>"])
    else:
        names = ["<pad>", "</s>", "<unk>", "▁play", "ing", ".", "▁"]
        built = tokenizers.Tokenizer(models.Unigram([(n, -1.0) for n in names], unk_id=2))
        built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        # T5's own: extra_id_0 is the last of all.
        built.add_special_tokens([*names[:3], *(f"<extra_id_{i}>" for i in reversed(range(100)))])
    return HuggingFaceTokenizer(built.to_str().encode(), kind)


def test_berts_specials_and_words():
    vocabulary = Vocabulary.of(build("bert"))
    assert (vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (0, 2, 3, 4)
    assert vocabulary.is_special.tolist() == [True] * 5 + [False] * 4
    assert vocabulary.begins_word[5:].tolist() == [True, False, True, False]
    assert vocabulary.ends_sentence[5:].tolist() == [False, False, True, False]
    assert vocabulary.sentinels == ()


def test_robertas_specials_and_words():
    vocabulary = Vocabulary.of(build("roberta"))
    assert (vocabulary.cls, vocabulary.sep, vocabulary.mask, vocabulary.pad) == (0, 2, 12, 1)
    assert vocabulary.is_special.tolist() == [True] * 4 + [False] * 8 + [True]
    assert vocabulary.begins_word[4:12].tolist() == [False, True, False, True, True, True, False, False]
    assert vocabulary.ends_sentence[4:12].tolist() == [False, False, False, True, True, False, False, False]


def test_t5s_sentinels_go_down():
    vocabulary = Vocabulary.of(build("t5"))
    assert vocabulary.sentinels == tuple(range(106, 6, -1))
    assert vocabulary.begins_word[3:7].tolist() == [True, False, True, True]
    with pytest.raises(UserError, match=r"none of the specials \[MASK\], <mask>, which this objective needs"):
        _ = vocabulary.mask
    assert json.loads(build("t5")._data)["added_tokens"][-1]["content"] == "<extra_id_0>"


def test_random_pieces_are_of_text():
    vocabulary = Vocabulary.of(ByteTokenizer())
    wanted = np.arange(20_000) % 4 < np.array([[2], [4]])
    ids = vocabulary.random_ids(wanted, [np.random.default_rng(seed) for seed in (0, 1)])
    assert ids.dtype == np.int32
    assert (ids[~wanted] == 0).all()
    times = np.bincount(ids[wanted], minlength=vocabulary.size)
    assert times[: len(RESERVED)].sum() == 0
    assert (times[len(RESERVED) :] > 30).all()
