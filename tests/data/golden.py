"""Corpora of made-up tokens, and the digest of the batches that objectives make of them."""

import functools
import hashlib
from collections.abc import Callable

import numpy as np

from transformer.data.pairs.rows import PairReading
from transformer.data.pipeline import eval_batches, train_batches
from transformer.data.prepare import cut
from transformer.data.text.store import FORMAT_VERSION, StoreMeta, TokenStore
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.denoising import Denoising
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.objective import ExampleMaker, Setting
from transformer.objectives.prefix_lm import PrefixLM
from transformer.objectives.seq2seq import Seq2Seq
from transformer.objectives.span_corruption import SpanCorruption
from transformer.objectives.ul2 import UL2
from transformer.tokenizers.vocabulary import Vocabulary

PIECES, SENTINELS, SEQ_LEN = 400, 30, 48
BOS, EOS, MASK, CLS, SEP = 1, 2, 3, 4, 5

OBJECTIVES = {
    "causal": CausalLM(),
    "prefix": PrefixLM(),
    "masked": MaskedLM(),
    "masked-few": MaskedLM(rate=0.01, static_copies=2),
    "masked-words": MaskedLM(choose="words"),
    "masked-spans": MaskedLM(choose="spans", boundary=True),
    "masked-nsp": MaskedLM(sentence="nsp"),
    "masked-sop": MaskedLM(sentence="sop", choose="ngrams"),
    "spans": SpanCorruption(),
    "ul2": UL2(),
    "denoising": Denoising(rotate=True, delete=0.1),
    "pairs": Seq2Seq(),
}


def make_vocabulary() -> Vocabulary:
    rng = np.random.default_rng(7)
    is_special = np.arange(PIECES) < 6 + SENTINELS
    return Vocabulary(
        pad=0,
        bos=BOS,
        eos=EOS,
        sentinels=tuple(range(6, 6 + SENTINELS)),
        is_special=is_special,
        begins_word=is_special | (rng.random(PIECES) < 0.6),
        ends_sentence=~is_special & (rng.random(PIECES) < 0.1),
        mask_id=MASK,
        cls_id=CLS,
        sep_id=SEP,
    )


def make_text_store(seed: int, documents: int = 60, longest: int = 150) -> TokenStore:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(6 + SENTINELS, PIECES, size=rng.integers(longest)) for _ in range(documents)]
    tokens = np.concatenate([np.concatenate(([BOS], text, [EOS])) for text in texts]).astype(np.uint16)
    offsets = np.concatenate(([0], np.cumsum([len(text) + 2 for text in texts]))).astype(np.int64)
    total = len(tokens)
    meta = StoreMeta(FORMAT_VERSION, "test", "c", "train", "t", "uint16", documents, total, total, None, None, None)
    return TokenStore(tokens, offsets, meta)


def make_records(objective, seed: int, *, drop_remainder: bool = True):
    reading = objective.reading(SEQ_LEN)
    if isinstance(reading, PairReading):
        stores = [make_text_store(seed + side, longest=20) for side in (0, 1)]
    else:
        stores = [make_text_store(seed)]
    return cut(*stores, reading=reading, drop_remainder=drop_remainder)


def digest(batches) -> str:
    """Returns a hash of names, types, shapes and bytes."""
    found = hashlib.blake2b(digest_size=8)

    def add(value, name=""):
        if isinstance(value, dict):
            for key in sorted(value):
                add(value[key], f"{name}/{key}")
        else:
            found.update(f"{name} {value.dtype} {value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())

    for batch in batches:
        add(batch)
    return found.hexdigest()


def rows(batch, row):
    """One row of a batch."""
    return {name: rows(value, row) if isinstance(value, dict) else value[row] for name, value in batch.items()}


def training(objective, weights=(1.0,), maker=ExampleMaker, **options):
    """The training batches of an objective, from as many corpora as there are weights."""
    corpora = [make_records(objective, seed=10 * number) for number in range(len(weights))]
    options = {"batch_size": 16, "seed": 3} | options
    example = maker(objective, Setting(make_vocabulary(), SEQ_LEN, decoder_start_id=0))
    return train_batches(corpora, weights, example=example, copies=objective.copies, **options)


def digests(name: str, maker: Callable = ExampleMaker) -> list[str]:
    """The batches of training on one corpus, on two, with a sample left out, and of evaluation."""
    objective = OBJECTIVES[name]
    example = maker(objective, Setting(make_vocabulary(), SEQ_LEN, decoder_start_id=0))
    one = training(objective, maker=maker)
    two = training(objective, (3.0, 1.0), maker=maker)
    skipping = training(objective, (1.0, 1.0), maker=maker, skip=(17, 18, 40), rows=range(8, 16))
    records = make_records(objective, seed=5, drop_remainder=False)
    evaluation = eval_batches(records, example=example, batch_size=8)
    return [
        digest(one[step] for step in (0, 1, 50, 10**9)),
        digest(two[step] for step in (0, 7, 10**9)),
        digest(skipping[step] for step in range(4)),
        digest(evaluation[step] for step in range(len(evaluation))),
    ]


def one_at_a_time(objective, setting):
    """A maker of single examples alone."""
    return functools.partial(objective.example, setting=setting)


if __name__ == "__main__":
    print({name: digests(name) for name in OBJECTIVES})
