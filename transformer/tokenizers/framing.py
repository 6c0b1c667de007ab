"""A text, or a pair of texts, as the rows of tokens that a model reads: framed by specials, cut to length, in windows.

The frame is the tokenizer's own template: `[CLS] a [SEP] b [SEP]`, `<s> a </s></s> b </s>`, `a </s>`. What a row has no
room for is left out or, where windows are asked for, goes to further rows, each framed as the first.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np

from transformer.errors import UserError
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.tokenizer import Spans, Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

SPECIAL = -1
"""Number, of a text and of a word, that a special of the frame has."""


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a row may be, and which tokens of longer texts it keeps: the first ones of each text."""

    most: int
    """Tokens of a row, specials too."""
    cut: Literal["only_first", "only_second", "longest_first"] = "longest_first"
    """Which text of a pair loses tokens: the first, the second, or the longer until both are equally long and then both
    in turn. A text alone is the first."""
    stride: int = 0
    """Tokens that a window shares with the one before it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """Tokens of a text or a pair as a model reads them, T of them."""

    ids: np.ndarray
    """int32[T]."""
    token_types: np.ndarray
    """int32[T]: 1 where the tokenizer's template counts a token to the second text, else 0."""
    texts: np.ndarray
    """int32[T]: the text that a token is of, 0 or 1; or `SPECIAL`."""
    starts: np.ndarray
    """int64[T]: first character of its text that a token stands for; 0 for a special."""
    ends: np.ndarray
    """int64[T]: the character after the last one; 0 for a special."""
    words: np.ndarray
    """int64[T]: number of the word of its text, as the tokenizer splits it before it looks for pieces; or `SPECIAL`."""

    def __len__(self) -> int:
        return len(self.ids)

    def kept(self, which: np.ndarray) -> "Row":
        """Returns the row of some of its tokens, bool[T] or their places."""
        return Row(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))


def framed(
    tokenizer: Tokenizer, texts: Sequence[Text], length: Length | None = None, *, windows: bool = False
) -> list[list[Row]]:
    """Returns the rows of each text: one, or with `windows` as many as it takes to hold all its tokens.

    Rows of a Hugging Face tokenizer are those of Transformers' fast tokenizers, which take text that spells a special
    for the special, unless the folder says otherwise. Other tokenizers never do.

    Args:
      tokenizer: any tokenizer.
      texts: texts and pairs.
      length: how long rows may be; None: of any length.
      windows: whether what a row has no room for goes to further rows; not of pairs that are cut `longest_first`.

    Raises:
      UserError: the text that is not to be cut leaves no room for the other, or a stride leaves none for new tokens.
    """
    rows = _by_library(tokenizer, texts) if isinstance(tokenizer, HuggingFaceTokenizer) else _by_frame(tokenizer, texts)
    if length is None:
        return [[row] for row in rows]
    return [_cut(row, length, isinstance(text, tuple), windows) for row, text in zip(rows, texts, strict=True)]


def _by_library(tokenizer: HuggingFaceTokenizer, texts: Sequence[Text]) -> list[Row]:
    """Returns whole rows by the template of a tokenizer.json."""
    return [_row(encoding) for encoding in tokenizer.framing.encode_batch(list(texts))]


def _row(encoding: Any) -> Row:
    places = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    texts = np.array([SPECIAL if text is None else text for text in encoding.sequence_ids], np.int32)
    words = np.array([SPECIAL if word is None else word for word in encoding.word_ids], np.int64)
    ids, token_types = np.asarray(encoding.ids, np.int32), np.asarray(encoding.type_ids, np.int32)
    return Row(ids, token_types, texts, places[:, 0], places[:, 1], words)


def _by_frame(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Row]:
    """Returns whole rows of a tokenizer that has no template for pairs."""
    frame = _Frame.of(tokenizer)
    pairs = [(text,) if isinstance(text, str) else text for text in texts]
    spans = iter(tokenizer.encode_spans([text for pair in pairs for text in pair]))
    return [frame.around([next(spans) for _ in pair]) for pair in pairs]


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Specials around texts."""

    begin: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Returns <cls> a <sep> b <sep>, as models trained here on pairs read them, where a tokenizer has these two.

        Else what its template has around one text stands around both, and its end between them too.
        """
        specials = Vocabulary.of(tokenizer)
        named = [None if token is None else tokenizer.name_of(token) for token in (specials.cls_id, specials.sep_id)]
        if named == ["<cls>", "<sep>"]:
            return cls((specials.cls,), (specials.sep,), (specials.sep,))
        begin, end = tokenizer.template()
        return cls(tuple(begin), tuple(end) or (tokenizer.eos_id,), tuple(end))

    def around(self, texts: Sequence[Spans]) -> Row:
        """Returns one text, or a pair, with the specials around."""
        parts = [_specials(self.begin, 0), _of_text(texts[0], 0)]
        if len(texts) == 2:
            parts += [_specials(self.between, 0), _of_text(texts[1], 1)]
        parts.append(_specials(self.end, len(texts) - 1))
        names = [field.name for field in dataclasses.fields(Row)]
        return Row(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _specials(ids: Sequence[int], token_type: int) -> Row:
    nothing = np.zeros(len(ids), np.int64)
    special = np.full(len(ids), SPECIAL, np.int32)
    kind = np.full(len(ids), token_type, np.int32)
    return Row(np.asarray(ids, np.int32), kind, special, nothing, nothing, special.astype(np.int64))


def _of_text(spans: Spans, number: int) -> Row:
    kind = np.full(len(spans.ids), number, np.int32)
    return Row(np.asarray(spans.ids, np.int32), kind, kind, spans.starts, spans.ends, spans.words)


def _cut(row: Row, length: Length, pair: bool, windows: bool) -> list[Row]:
    """Returns the rows of one text or pair from the row that holds all of it."""
    if len(row) <= length.most:
        return [row]
    places = [np.flatnonzero(row.texts == number) for number in range(1 + pair)]
    sizes = [len(each) for each in places]
    room = length.most - (len(row) - sum(sizes))
    if pair and length.cut == "longest_first":
        if windows:
            raise ValueError("windows of a pair: cut only_first or only_second")
        kept = _shared(length.most, room, *sizes)
        dropped = np.concatenate([each[size:] for each, size in zip(places, kept, strict=True)])
        return [row.kept(np.delete(np.arange(len(row)), dropped))]
    chosen = int(length.cut == "only_second")
    if chosen >= len(places):
        raise UserError(f"a text of {sizes[0]} tokens stands alone and may not be cut to {length.most}: shorten it")
    size = room - sum(sizes) + sizes[chosen]
    if size < 1 and not pair:
        raise UserError(f"rows of {length.most} tokens have no room between the specials around a text: allow more")
    if size < 1:
        raise UserError(
            f"texts of {sizes[0]} and {sizes[1]} tokens for rows of {length.most}: the {_NAMES[1 - chosen]}, which is "
            "not cut, leaves no room for the other: shorten it"
        )
    if windows and length.stride >= size:
        raise UserError(f"a stride of {length.stride} tokens where a window has room for {size}: give a smaller one")
    rows = []
    for start in range(0, max(sizes[chosen] - length.stride, 1), size - length.stride) if windows else (0,):
        dropped = np.delete(places[chosen], slice(start, start + size))
        rows.append(row.kept(np.delete(np.arange(len(row)), dropped)))
    return rows


_NAMES = ("first", "second")


def _shared(most: int, room: int, first: int, second: int) -> tuple[int, int]:
    """Returns the tokens that each text of a pair keeps of a room: the longer loses first, then both."""
    if room < 0:
        raise UserError(f"rows of {most} tokens have no room for the specials around a pair of texts: allow more")
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    return (long, short) if first > second else (short, long)


def spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Returns the text of ids with specials spelled out, where `Tokenizer.decode` leaves them out."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.framing.decode(list(ids), skip_special_tokens=False)
    pieces = tokenizer.pieces()
    groups = itertools.groupby(ids, key=lambda token: pieces[token] is None)
    texts = (
        " ".join(tokenizer.name_of(token) or "" for token in group) if special else tokenizer.decode([*group])
        for special, group in groups
    )
    return "".join(texts)
