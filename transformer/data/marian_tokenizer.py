"""Marian's tokenizer: two SentencePiece models, of the source and of the target language, over one vocabulary."""

import functools
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from transformer.data.sentencepiece_tokenizer import Boundaries, spans_of
from transformer.data.tokenizer import Spans, hash_bytes, read_tokenizer_file, write_kind
from transformer.errors import UserError

_FILES = ("source.spm", "target.spm", "vocab.json")
_SPECIALS = ("</s>", "<unk>", "<pad>")


class MarianTokenizer:
    """Encodes the source language and decodes the target language, as a translation model needs.

    Not lossless: SentencePiece normalises. Punctuation is taken as it is, where Transformers' tokenizer first passes it
    through sacremoses, if that is installed.
    """

    def __init__(self, files: dict[str, bytes], name: str):
        import sentencepiece

        self._files, self._name = files, name
        try:
            self._source, self._target = (
                sentencepiece.SentencePieceProcessor(model_proto=files[file]) for file in _FILES[:2]
            )
            self._ids: dict[str, int] = json.loads(files["vocab.json"])
            self.eos_id, self._unknown, self.pad_id = (int(self._ids[piece]) for piece in _SPECIALS)
        except (RuntimeError, ValueError, TypeError, KeyError):
            raise UserError(
                f"{name}: {', '.join(_FILES)} are not a Marian tokenizer. Check --data.tokenizer."
            ) from None
        self.bos_id = self.eos_id
        self.vocab_size: int = 1 + max(self._ids.values())
        self._pieces: dict[int, str] = {i: piece for piece, i in self._ids.items()}
        self.fingerprint = hash_bytes("marian", b"".join(files[file] for file in _FILES))

    @classmethod
    def read(cls, folder: epath.PathLike) -> Self:
        """The tokenizer whose three files lie in a folder."""
        return cls({file: read_tokenizer_file(epath.Path(folder) / file) for file in _FILES}, str(folder))

    def encode(self, text: str) -> list[int]:
        return self._numbers(self._source.encode(text, out_type=str))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows: Any = self._source.encode(list(texts), out_type=str)
        return [np.asarray(self._numbers(row), np.int32) for row in rows]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        rows: Any = self._source.encode(list(texts), return_type="offset_mapping")
        return [spans_of(self._numbers(row["pieces"]), row["offsets"]) for row in rows]

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
        return Boundaries(self._source, self._files[_FILES[0]])

    def _numbers(self, pieces: Sequence[str]) -> list[int]:
        return [self._ids.get(piece, self._unknown) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        named = [self._pieces[i] for i in map(int, ids) if i in self._pieces]
        return self._target.decode_pieces([piece for piece in named if piece not in _SPECIALS])

    def pieces(self) -> list[str | None]:
        text = {i: piece.replace("\u2581", " ") for i, piece in self._pieces.items() if piece not in _SPECIALS}
        return [text.get(i) for i in range(self.vocab_size)]

    def special_id(self, name: str) -> int:
        if name not in self._ids:
            raise UserError(f"{self._name} has no special {name!r}.")
        return self._ids[name]

    def save(self, folder: epath.PathLike) -> None:
        place = write_kind(folder, "marian")
        for file, content in self._files.items():
            (place / file).write_bytes(content)
