"""Raw UTF-8 bytes as tokens, after the reserved pieces."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.tokenizers.spelled import reserved_names, spelled_spans
from transformer.tokenizers.tokenizer import RESERVED, Spans, hash_bytes, write_kind

_FIRST = len(RESERVED)


class ByteTokenizer:
    """Byte b is id `len(RESERVED) + b`."""

    vocab_size = _FIRST + 256
    pad_id, bos_id, eos_id = 0, 1, 2
    chat_template: str | None = None
    sums_scores = False
    fingerprint = hash_bytes("bytes", repr(RESERVED).encode())

    def encode(self, text: str) -> list[int]:
        return [_FIRST + byte for byte in text.encode("utf-8")]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + np.int32(_FIRST) for text in texts]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        spans = []
        for text, ids in zip(texts, self.encode_batch(texts), strict=True):
            starts = np.repeat(np.arange(len(text)), [len(character.encode()) for character in text])
            spans.append(Spans(ids, starts, starts + 1, np.zeros_like(starts)))
        return spans

    def cut(self, text: str, start: int, stop: int) -> int | None:
        del text, start
        return stop - 1

    def settles(self, left: int, right: int) -> bool:
        del left, right
        return True

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - _FIRST for i in map(int, ids) if _FIRST <= i < self.vocab_size).decode("utf-8", "replace")

    def pieces(self) -> list[str | None]:
        return [*([None] * _FIRST), *(bytes([byte]).decode("utf-8", "replace") for byte in range(256))]

    def special_id(self, name: str) -> int:
        if name not in RESERVED:
            raise UserError(f"The bytes tokenizer has no special {name!r}; it has {', '.join(RESERVED[:8])} and so on.")
        return RESERVED.index(name)

    def name_of(self, token: int) -> str | None:
        if not 0 <= token < self.vocab_size:
            return None
        return RESERVED[token] if token < _FIRST else f"<0x{token - _FIRST:02X}>"

    def template(self) -> tuple[list[int], list[int]]:
        return [self.bos_id], []

    def encode_framed(self, text: str) -> list[int]:
        return [self.bos_id, *self.encode(text)]

    def encode_spelled(self, text: str) -> Spans:
        return spelled_spans(self, {name: i for i, name in enumerate(RESERVED)}, text)

    @property
    def special_names(self) -> dict[str, str]:
        return reserved_names(self)

    def save(self, folder: epath.PathLike) -> None:
        write_kind(folder, "bytes", self.chat_template)
