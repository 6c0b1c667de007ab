"""A SentencePiece model as a tokenizer that loses nothing."""

import functools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.tokenizers.sentencepiece_model import read_spec
from transformer.tokenizers.spelled import reserved_names, spelled_spans
from transformer.tokenizers.tokenizer import Dividing, Spans, hash_bytes, read_tokenizer_file, write_kind

# SentencePiece writes a space as this character, so the character itself would come back as a space: it is encoded as
# its bytes.
_SPACE = "\u2581"


class SentencePieceTokenizer:
    """Wraps the bytes of a `.model` file; `name` is for messages.

    Lossless (`decode(encode(x)) == x` for every text) if the model was trained here: identity normalisation, no dummy
    prefix, byte fallback. A model from elsewhere may normalise: its ids are the library's.
    """

    chat_template: str | None = None

    def __init__(self, model: bytes, name: str):
        import sentencepiece

        try:
            self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError, TypeError):
            raise UserError(f"{name} is not a SentencePiece model. Check --data.tokenizer.") from None
        self._model = model
        self._name = name
        self.vocab_size: int = processor.get_piece_size()
        if processor.eos_id() < 0:
            raise UserError(f"{name} has no end-of-sequence piece, which training on documents needs.")
        self.eos_id: int = processor.eos_id()
        self.bos_id: int = processor.bos_id() if processor.bos_id() >= 0 else self.eos_id
        self.pad_id: int = processor.pad_id() if processor.pad_id() >= 0 else self.eos_id
        self.fingerprint = hash_bytes("sentencepiece", model)
        pieces = range(self.vocab_size)
        self._specials = {i for i in pieces if processor.is_control(i) or processor.is_unknown(i)}
        spelled = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        # A text that is cut at the character is encoded as one only if the model puts no space before a text.
        keeps_spaces = processor.decode(processor.encode("  a  a ")) == "  a  a "
        self._space_ids = spelled if keeps_spaces and all(processor.is_byte(i) for i in spelled) else None

    @classmethod
    def read(cls, path: epath.PathLike) -> Self:
        """Returns the tokenizer in a SentencePiece .model file."""
        return cls(read_tokenizer_file(path), str(path))

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows = self._processor.encode(list(texts))
        if self._space_ids is not None:
            for i, text in enumerate(texts):
                if _SPACE in text:
                    rows[i] = self._encode_around_spaces(text, self._space_ids)
        return [np.asarray(row, np.int32) for row in rows]

    def _encode_around_spaces(self, text: str, space_ids: list[int]) -> list[int]:
        first, *others = self._processor.encode(text.split(_SPACE))
        return first + [i for part in others for i in space_ids + part]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        spans = []
        parts = [text.split(_SPACE) if self._space_ids is not None else [text] for text in texts]
        rows = iter(self._processor.encode([part for row in parts for part in row], return_type="offset_mapping"))
        for row in parts:
            ids: list[int] = []
            offsets: list[tuple[int, int]] = []
            start = 0
            for number, part in enumerate(row):
                if number:
                    ids += self._space_ids or []
                    offsets += [(start, start), (start, start), (start, start + 1)]
                    start += 1
                encoded = next(rows)
                ids += encoded["ids"]
                offsets += [(start + a, start + b) for a, b in encoded["offsets"]] if start else encoded["offsets"]
                start += len(part)
            spans.append(spans_of(ids, offsets))
        return spans

    @property
    def sums_scores(self) -> bool:
        return self._boundaries.sums_scores

    def cut(self, text: str, start: int, stop: int) -> int | None:
        # A text that is not changed, and has no space put before it, is cut wherever its pieces have to be.
        return self._boundaries.dividing.last(text, start, stop) if self._boundaries.keeps_text else None

    def settles(self, left: int, right: int) -> bool:
        return self._boundaries.settle(left, right)

    @functools.cached_property
    def _boundaries(self) -> "Boundaries":
        return Boundaries(self._processor, self._model)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(
            [i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in self._specials]
        )

    def pieces(self) -> list[str | None]:
        return [None if i in self._specials else self._text(i) for i in range(self.vocab_size)]

    def _text(self, i: int) -> str:
        piece = self._processor.id_to_piece(i)
        if self._processor.is_byte(i):  # <0x0A>
            return bytes([int(piece[1:-1], 16)]).decode("utf-8", "replace")
        return piece.replace(_SPACE, " ")

    def special_id(self, name: str) -> int:
        token = self._processor.piece_to_id(name)
        if token not in self._specials or self._processor.id_to_piece(token) != name:
            raise UserError(f"{self._name} has no special {name!r}.")
        return token

    def name_of(self, token: int) -> str | None:
        return self._processor.id_to_piece(token) if 0 <= token < self.vocab_size else None

    def template(self) -> tuple[list[int], list[int]]:
        """Begins a text where the model has a begin, as LLaMA's has; else ends it, as T5's does."""
        return ([self._processor.bos_id()], []) if self._processor.bos_id() >= 0 else ([], [self.eos_id])

    def encode_framed(self, text: str) -> list[int]:
        begin, end = self.template()
        return [*begin, *self.encode(text), *end]

    def encode_spelled(self, text: str) -> Spans:
        return spelled_spans(self, {self._processor.id_to_piece(i): i for i in self._specials}, text)

    @property
    def special_names(self) -> dict[str, str]:
        return reserved_names(self)

    def save(self, folder: epath.PathLike) -> None:
        (write_kind(folder, "sentencepiece", self.chat_template) / "tokenizer.model").write_bytes(self._model)


def spans_of(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Spans:
    """Tokens of a text that was not split into words."""
    places = np.asarray(offsets, np.int64).reshape(-1, 2)
    return Spans(np.asarray(ids, np.int32), places[:, 0], places[:, 1], np.zeros(len(ids), np.int64))


class Boundaries:
    """Where the tokens of a SentencePiece model end whatever follows."""

    def __init__(self, processor: Any, model: bytes):
        self._processor, spec = processor, read_spec(model)
        self._is_bpe, self.sums_scores = spec.is_bpe, spec.is_unigram
        plain = (i for i in range(processor.get_piece_size()) if not processor.is_control(i))
        texts = [processor.id_to_piece(i) for i in plain if not processor.is_unknown(i) and not processor.is_byte(i)]
        self.dividing = Dividing([text.replace(_SPACE, " ") for text in texts])
        self.keeps_text = bool(spec.byte_fallback and self.dividing.around_unknown and not spec.changes_text)

    def settle(self, left: int, right: int) -> bool:
        """`Tokenizer.settles`."""
        processor = self._processor
        unknown = [processor.is_unknown(i) for i in (left, right)]
        if all(unknown):
            return False  # they may become one
        if self._is_bpe:
            return True
        if any(unknown) or processor.is_byte(left) or processor.is_byte(right):
            return self.dividing.around_unknown
        texts = [processor.id_to_piece(i).replace(_SPACE, " ") for i in (left, right)]
        return self.dividing.between(*texts)
