"""What a tokenizer is. The kinds are in files of their own; `tokenizer_kinds.py` chooses among them.

Tokenizers that this system makes start with the same reserved ids: see `RESERVED`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath

from transformer.errors import UserError

SENTINELS = 100
"""Span-corruption sentinels, as many as T5 has: enough for 2,000 tokens at its rate (15 % corrupted, spans of 3)."""

RESERVED = ("<pad>", "<s>", "</s>", "<unk>", "<mask>", "<sep>", "<cls>", *(f"<extra_id_{i}>" for i in range(SENTINELS)))
"""The pieces at ids 0, 1, 2, ...: control symbols, which no text encodes to, even text that spells them."""

KIND_FILE = "kind.json"
CHAT_TEMPLATE = "chat_template.jinja"
"""File of a tokenizer's folder, here as in the Hugging Face format: how a conversation becomes text."""
_SETTINGS = "settings.json"


class Spans(NamedTuple):
    """Tokens with the characters of the text that they stand for."""

    ids: np.ndarray
    """int32[tokens]."""
    starts: np.ndarray
    """int64[tokens]."""
    ends: np.ndarray
    """int64[tokens]: not included. The bytes of a character may share it, or all but the last of them be empty."""
    words: np.ndarray
    """int64[tokens]: numbers of the words that the text was split into before the model saw them."""

    def moved(self, characters: int) -> "Spans":
        """Returns the tokens in a text with so many characters before this one."""
        return self._replace(starts=self.starts + characters, ends=self.ends + characters)

    def boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places that divide text and tokens alike, and the first token after each: int64[places]."""
        if len(self.ids) < 2:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        before = np.maximum(np.maximum.accumulate(self.ends), np.maximum.accumulate(self.starts) + 1)[:-1]
        after = np.minimum.accumulate(self.starts[::-1])[::-1][1:]
        tokens = 1 + np.flatnonzero(before <= after)
        return self.starts[tokens], tokens

    def around(self, token: int, run: int) -> "Spans":
        """`run` tokens before `token`, and as many from it on; fewer at an end of the text."""
        return Spans(*(values[max(0, token - run) : token + run] for values in self))

    def equals(self, other: "Spans", count: int) -> bool:
        """Whether both have `count` tokens, the same at the same places."""
        return len(self.ids) == len(other.ids) == count and all(map(np.array_equal, self[:3], other[:3]))

    def ends_word(self, token: int) -> bool:
        """Whether `token` is the first of a word."""
        return bool(self.words[token - 1] != self.words[token])


class Tokenizer(Protocol):
    """Text to ids and back. `decode(encode(x)) == x` for the kinds that this system trains, and for bytes."""

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    chat_template: str | None
    """Jinja source of its chat template (`transformer.tokenizers.chat`), which decides no ids of a plain text; None: it
    has none."""

    @property
    def sums_scores(self) -> bool:
        """Whether ids are a path with the best sum of scores: of equal paths, rounding picks one by all the text."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the ids."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without specials."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, int32[tokens], without specials; uses all cores."""
        ...

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        """Returns the ids of `encode_batch`, with the characters that each stands for."""
        ...

    def cut(self, text: str, start: int, stop: int) -> int | None:
        """Returns the last place in [start, stop) where a cut of `text` leaves its ids alone; None if none is known."""
        ...

    def settles(self, left: int, right: int) -> bool:
        """Whether text farther away cannot change that one token ends, and the other begins, where they meet.

        Asked of two tokens that are neighbours in the encoding of each of two texts that go on differently.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; specials, and ids beyond the vocabulary, are left out."""
        ...

    def pieces(self) -> list[str | None]:
        """Returns the text of each id, with the space before a word that it begins; None for a special or an unused id.

        The bytes of a character that an id holds only a part of are U+FFFD.
        """
        ...

    def special_id(self, name: str) -> int:
        """Returns the id of a reserved piece such as `<mask>`; UserError if this tokenizer has none of that name."""
        ...

    def name_of(self, token: int) -> str | None:
        """Returns how an id, a special's too, is spelled in the tokenizer's files; None for an unused one."""
        ...

    def template(self) -> tuple[list[int], list[int]]:
        """Returns the specials before and after a text, as the tokenizer's own files frame one; each may be empty."""
        ...

    def encode_framed(self, text: str) -> list[int]:
        """Returns the ids of a text that a person gives an imported model: framed, with the specials that it spells."""
        ...

    def encode_spelled(self, text: str) -> Spans:
        """Returns the ids of a text with the specials that it spells, without a frame: of a rendered conversation."""
        ...

    @property
    def special_names(self) -> dict[str, str]:
        """How the specials that have a role are spelled, by Transformers' names of roles: bos_token, eos_token, ..."""
        ...

    def save(self, folder: epath.PathLike) -> None:
        """Writes what `load_tokenizer` reads."""
        ...


class Dividing:
    """Where every way to cut a text into pieces of a vocabulary has to cut it."""

    def __init__(self, pieces: Sequence[str]):
        self._pairs = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
        known = set(pieces)
        self.around_unknown = all(character in known for piece in pieces for character in piece)
        """Whether a character that is no piece is in no piece either."""

    def between(self, left: str, right: str) -> bool:
        """Whether no piece lies across the boundary of these two."""
        return left[-1:] + right[:1] not in self._pairs

    def last(self, text: str, start: int, stop: int) -> int | None:
        """Returns the last place in [start, stop) that no piece lies across."""
        places = range(stop - 1, max(start, 1) - 1, -1)
        return next((place for place in places if text[place - 1 : place + 1] not in self._pairs), None)


def hash_bytes(kind: str, data: bytes) -> str:
    return hashlib.blake2b(kind.encode() + b"\0" + data, digest_size=20).hexdigest()


def write_kind(folder: epath.PathLike, kind: str, chat_template: str | None) -> epath.Path:
    """Makes `folder` and notes the kind of tokenizer in it, and its chat template if any; returns the folder."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KIND_FILE).write_text(json.dumps({"kind": kind}) + "\n")
    if chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(chat_template)
    return folder


def write_settings(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Writes beside a tokenizer what its own files do not say, if anything."""
    if settings:
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """Returns what `write_settings` wrote; raises UserError if it is damaged."""
    path = folder / _SETTINGS
    if not path.exists():
        return {}
    try:
        return json.loads(read_tokenizer_file(path))
    except ValueError:
        raise UserError(f"{path} is damaged. Restore it, or import the model again.") from None


def read_tokenizer_file(path: epath.PathLike) -> bytes:
    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"Tokenizer file {path}: {error.strerror}. Check --data.tokenizer.") from None
