"""What an objective knows of a tokenizer: plain ids, and tables over all ids. It never sees text."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer

# BERT's names, then ours and T5's, then those of RoBERTa and BART, whose <s> and </s> serve for both ends.
_MASK = ("[MASK]", "<mask>")
_CLS = ("[CLS]", "<cls>", "<s>")
_SEP = ("[SEP]", "<sep>", "</s>")
_SENTINEL = "<extra_id_{}>"
# How a text is corrupted, as UL2's released models are told.
PARADIGMS = ("[NLU]", "[S2S]", "[NLG]")


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of a tokenizer's specials, and what each of its V pieces is."""

    pad: int
    bos: int
    """Begins a document in a token store."""
    eos: int
    """Ends a document in a token store, and a decoder's output."""
    sentinels: tuple[int, ...]
    """<extra_id_0>, <extra_id_1>, ...: as many as there are without a gap."""
    is_special: np.ndarray
    """bool[V]: ids that stand for no text: specials, and numbers that no piece has."""
    begins_word: np.ndarray
    """bool[V]: pieces that begin a word; a sign before a word belongs to it. A special does too."""
    ends_sentence: np.ndarray
    """bool[V]: pieces that end in a full stop, an exclamation or question mark, or hold the end of a line."""
    mask_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    paradigms: tuple[int, ...] = ()
    """[NLU], [S2S] and [NLG]; empty where one is missing."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """Returns the vocabulary of a tokenizer."""
        pieces = tokenizer.pieces()
        is_special = np.array([piece is None for piece in pieces])
        sentinels: list[int] = []
        while (token := _special(tokenizer, [_SENTINEL.format(len(sentinels))])) is not None:
            sentinels.append(token)
        paradigms = [token for name in PARADIGMS if (token := _special(tokenizer, [name])) is not None]
        return cls(
            pad=tokenizer.pad_id,
            bos=tokenizer.bos_id,
            eos=tokenizer.eos_id,
            sentinels=tuple(sentinels),
            is_special=is_special,
            begins_word=np.array([piece is None or _begins_word(piece) for piece in pieces]),
            ends_sentence=np.array([piece is not None and _ends_sentence(piece) for piece in pieces]),
            mask_id=_special(tokenizer, _MASK),
            cls_id=_special(tokenizer, _CLS),
            sep_id=_special(tokenizer, _SEP),
            paradigms=tuple(paradigms) if len(paradigms) == len(PARADIGMS) else (),
        )

    @property
    def size(self) -> int:
        """V."""
        return len(self.is_special)

    @property
    def mask(self) -> int:
        """The id of [MASK] or <mask>; UserError where there is none, as for all that follow."""
        return _needed(self.mask_id, _MASK)

    @property
    def cls(self) -> int:
        """The id of [CLS], <cls> or <s>, which begins a pair of sentences."""
        return _needed(self.cls_id, _CLS)

    @property
    def sep(self) -> int:
        """The id of [SEP], <sep> or </s>, which ends each sentence of a pair."""
        return _needed(self.sep_id, _SEP)

    def random_ids(self, wanted: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Returns int32[B, P]: pieces of text, evenly drawn, where `wanted`, bool[B, P], is true; row i by generator i.

        A special is drawn again, until there is none.
        """
        size, ids, pending = self.size, np.zeros(wanted.shape, np.int32), wanted
        while pending.any():
            counts = pending.sum(axis=1).tolist()
            drawn, end = np.empty(sum(counts), np.int32), 0
            for count, rng in zip(counts, rngs, strict=True):
                begin, end = end, end + count
                if count > 3:
                    drawn[begin:end] = rng.integers(size, size=count, dtype=np.int32)
                    continue
                for place in range(begin, end):  # the same numbers, in less time than NumPy takes to make an array
                    drawn[place] = rng.integers(size, dtype=np.int32)
            ids[pending] = drawn
            pending = pending & self.is_special[ids]
        return ids


def _special(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    for name in names:
        try:
            return tokenizer.special_id(name)
        except UserError:
            continue
    return None


def _needed(token: int | None, names: Sequence[str]) -> int:
    if token is None:
        raise UserError(
            f"The tokenizer has none of the specials {', '.join(names)}, which this objective needs: take another "
            "--data.tokenizer; those trained here (unigram, bpe) and bytes have them."
        )
    return token


def _begins_word(piece: str) -> bool:
    first = piece[:1]
    return not (first.isalnum() or first in ("_", "\ufffd"))


def _ends_sentence(piece: str) -> bool:
    return piece.rstrip().endswith((".", "!", "?")) or "\n" in piece
