"""Marian's tokenizer: two SentencePiece models, of the source and of the target language, over one vocabulary."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.tokenizers.sentencepiece import Boundaries, spans_of
from transformer.tokenizers.tokenizer import (
    Spans,
    hash_bytes,
    read_settings,
    read_tokenizer_file,
    write_kind,
    write_settings,
)

FILES = ("source.spm", "target.spm", "vocab.json")
_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_CODE = re.compile(r">>.*?<<", re.DOTALL)


class MarianTokenizer:
    """Encodes the source language and decodes the target language, as a translation model needs.

    A text may begin with the code of the language to translate to, such as >>fr<<, which is one token.

    Not lossless: SentencePiece normalises. Punctuation is taken as it is, where Transformers' tokenizer first passes it
    through sacremoses, if that is installed.

    Args:
      files: the content of `FILES`.
      name: of the folder, for messages.
      settings: what the three files do not say: eos_token, unk_token and pad_token, where they have other names;
        `added`, the ids of tokens that are found in a text before its pieces; `specials`, which of those no text
        spells, but for `encode_framed`.
    """

    chat_template: str | None = None

    def __init__(self, files: dict[str, bytes], name: str, settings: Mapping[str, Any] | None = None):
        import sentencepiece

        self._files, self._name, self._settings = files, name, dict(settings or {})
        roles = [self._settings.get(role, name) for role, name in _ROLES.items()]
        added: dict[str, int] = self._settings.get("added", {})
        try:
            self._source, self._target = (
                sentencepiece.SentencePieceProcessor(model_proto=files[file]) for file in FILES[:2]
            )
            vocabulary: dict[str, int] = json.loads(files["vocab.json"])
            self._ids = {**vocabulary, **added}
            self.eos_id, self._unknown, self.pad_id = (int(self._ids[piece]) for piece in roles)
        except (RuntimeError, ValueError, TypeError, KeyError):
            raise UserError(f"{name}: {', '.join(FILES)} are not a Marian tokenizer. Check --data.tokenizer.") from None
        self.bos_id = self.eos_id
        self.vocab_size: int = 1 + max(self._ids.values())
        self._pieces: dict[int, str] = {i: piece for piece, i in self._ids.items()}
        self._specials = {*roles, *self._settings.get("specials", ())}
        self._words = _splitting(added.keys() - self._specials)
        self._everything = _splitting(added.keys() | self._specials)
        self._has_codes = any(_CODE.fullmatch(piece) for piece in vocabulary)
        decides = json.dumps(self._settings, sort_keys=True).encode() if self._settings else b""
        decides += b"codes" if self._has_codes else b""
        self.fingerprint = hash_bytes("marian", b"".join(files[file] for file in FILES) + decides)

    @classmethod
    def read(cls, folder: epath.PathLike, settings: Mapping[str, Any] | None = None) -> Self:
        """Returns the tokenizer whose three files lie in a folder, with the settings that `save` wrote or these."""
        place = epath.Path(folder)
        settings = read_settings(place) if settings is None else settings
        return cls({file: read_tokenizer_file(place / file) for file in FILES}, str(folder), settings)

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not all(map(self._is_plain, texts)):
            return [self._encode_parts(text, self._words, codes=self._has_codes).ids for text in texts]
        rows: Any = self._source.encode(list(texts), out_type=str)
        return [np.asarray(self._numbers(row), np.int32) for row in rows]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        if not all(map(self._is_plain, texts)):
            return [self._encode_parts(text, self._words, codes=self._has_codes) for text in texts]
        rows: Any = self._source.encode(list(texts), return_type="offset_mapping")
        return [spans_of(self._numbers(row["pieces"]), row["offsets"]) for row in rows]

    def template(self) -> tuple[list[int], list[int]]:
        return [], [self.eos_id]

    def encode_framed(self, text: str) -> list[int]:
        return [*self._encode_parts(text, self._everything, codes=True).ids.tolist(), self.eos_id]

    def encode_spelled(self, text: str) -> Spans:
        return self._encode_parts(text, self._everything, codes=True)

    @property
    def special_names(self) -> dict[str, str]:
        return {role: self._settings.get(role, name) for role, name in _ROLES.items()}

    def _is_plain(self, text: str) -> bool:
        """Whether a text is of SentencePiece's pieces alone."""
        return not (self._has_codes and text.startswith(">>")) and not (self._words and self._words.search(text))

    def _encode_parts(self, text: str, tokens: re.Pattern[str] | None, *, codes: bool) -> Spans:
        """Returns the spans of a text in which some tokens, and a code before any part, are found before pieces."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate([text] if tokens is None else tokens.split(text)):
            rest = part
            code = _CODE.match(part) if codes and number % 2 == 0 else None
            if whole := part if number % 2 else code and code.group():
                ids.append(self._ids.get(whole, self._unknown))
                offsets.append((start, start + len(whole)))
                rest = part[len(whole) :]
            if rest:
                row: Any = self._source.encode(rest, return_type="offset_mapping")
                shift = start + len(part) - len(rest)
                ids += self._numbers(row["pieces"])
                offsets += [(shift + a, shift + b) for a, b in row["offsets"]]
            start += len(part)
        return spans_of(ids, offsets)

    @property
    def sums_scores(self) -> bool:
        return self._boundaries.sums_scores

    def cut(self, text: str, start: int, stop: int) -> int | None:
        del text, start, stop
        return None

    def settles(self, left: int, right: int) -> bool:
        names = [self._pieces.get(i, "") for i in (left, right)]
        if self._unknown in (left, right):
            return False
        return self._boundaries.settle(*map(self._source.piece_to_id, names))

    @functools.cached_property
    def _boundaries(self) -> Boundaries:
        return Boundaries(self._source, self._files[FILES[0]])

    def _numbers(self, pieces: Sequence[str]) -> list[int]:
        return [self._ids.get(piece, self._unknown) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        named = [self._pieces[i] for i in map(int, ids) if i in self._pieces]
        return self._target.decode_pieces([piece for piece in named if piece not in self._specials])

    def pieces(self) -> list[str | None]:
        text = {i: piece.replace("\u2581", " ") for i, piece in self._pieces.items() if piece not in self._specials}
        return [text.get(i) for i in range(self.vocab_size)]

    def name_of(self, token: int) -> str | None:
        return self._pieces.get(token)

    def special_id(self, name: str) -> int:
        if name not in self._ids:
            raise UserError(f"{self._name} has no special {name!r}.")
        return self._ids[name]

    def save(self, folder: epath.PathLike) -> None:
        place = write_kind(folder, "marian", self.chat_template)
        write_settings(place, self._settings)
        for file, content in self._files.items():
            (place / file).write_bytes(content)


def _splitting(tokens: set[str]) -> re.Pattern[str] | None:
    """Returns a pattern that splits a text around tokens, the longest first where one begins another."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})") if tokens else None
