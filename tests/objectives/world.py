"""A small vocabulary and a corpus of random pieces, so that objectives can be tested without text or tokenizer."""

import numpy as np

from transformer.data.prepare import cut
from transformer.data.text.store import FORMAT_VERSION, StoreMeta, TokenStore
from transformer.objectives.objective import Objective, Setting
from transformer.tokenizers.vocabulary import Vocabulary

PAD, BOS, EOS, MASK, SEP, CLS = 0, 1, 2, 4, 5, 6
SENTINELS = tuple(range(7, 39))  # fewer than our tokenizers have
FIRST, SIZE = 39, 2000  # of the pieces of text
WORDS = (SIZE + FIRST) // 2  # pieces below begin a word


def vocabulary(size: int = SIZE) -> Vocabulary:
    ids = np.arange(size)
    return Vocabulary(
        pad=PAD,
        bos=BOS,
        eos=EOS,
        sentinels=SENTINELS,
        is_special=ids < FIRST,
        begins_word=ids < WORDS,
        ends_sentence=ids >= size - 100,
        mask_id=MASK,
        cls_id=CLS,
        sep_id=SEP,
    )


VOCABULARY = vocabulary()


def setting(seq_len: int, decoder_start_id: int = 0) -> Setting:
    return Setting(VOCABULARY, seq_len, decoder_start_id)


def make_store(lengths: list[int], seed: int = 0, word_share: float = 0.6) -> TokenStore:
    """Documents of so many tokens of text; `word_share` of them begin a word."""
    rng = np.random.default_rng(seed)
    tokens = []
    for length in lengths:
        begins = rng.random(length) < word_share
        text = np.where(begins, rng.integers(FIRST, WORDS, length), rng.integers(WORDS, SIZE, length))
        tokens += [[BOS], text, [EOS]]
    offsets = np.concatenate(([0], np.cumsum(np.array(lengths) + 2))).astype(np.int64)
    total = int(offsets[-1])
    meta = StoreMeta(FORMAT_VERSION, "test", "c", "train", "t", "uint16", len(lengths), total, total, None, None, None)
    return TokenStore(np.concatenate(tokens).astype(np.uint16), offsets, meta)


def records(objective: Objective, seq_len: int, store: TokenStore, *, drop_remainder: bool = True):
    return cut(store, reading=objective.reading(seq_len), drop_remainder=drop_remainder)


def examples(objective: Objective, seq_len: int, store: TokenStore, count: int, seed: int = 0, **kwargs):
    """`count` examples, of as many epochs as it takes."""
    cut, found = records(objective, seq_len, store, **kwargs), []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        record = cut.draw(number % len(cut), rng)
        found.append(objective.example(record, rng, setting(seq_len)))
    return found


STORE = make_store(np.random.default_rng(3).integers(20, 900, 300).tolist())
LONG = make_store([400_000])


def original(example):
    """The row of a masked language model before anything was hidden."""
    tokens = example["inputs"]["tokens"].copy()
    used = example["weights"] > 0
    tokens[example["inputs"]["masked_positions"][used]] = example["targets"][used]
    return tokens


def chosen(example):
    """The places of the row that are to be predicted."""
    return example["inputs"]["masked_positions"][example["weights"] > 0]
