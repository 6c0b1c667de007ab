"""A Hugging Face tokenizer.json, read by the `tokenizers` library."""

import functools
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from transformer.data.tokenizer import Dividing, Spans, hash_bytes, write_kind
from transformer.errors import UserError

# A tokenizer.json does not say which special is which; these are the names that published ones use.
_END = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]", "<|im_end|>", "<|end▁of▁sentence|>")
_BEGIN = ("<s>", "<|startoftext|>", "<|begin_of_text|>", "<bos>", "[CLS]", "<|begin▁of▁sentence|>")
_PAD = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")

# GPT-2's alphabet of bytes: printable ones stand for themselves, the others for U+0100 and on, in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHER = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHER)}


class HuggingFaceTokenizer:
    """Wraps the bytes of a `tokenizer.json`; `name` is for messages. Text that spells a special encodes as text."""

    def __init__(self, data: bytes, name: str):
        import tokenizers

        try:
            self._tokenizer = tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises a bare Exception
            raise UserError(f"{name} is not a tokenizer.json ({error}). Check --data.tokenizer.") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._data, self._name = data, name
        # Ids may have gaps, so the count of pieces is no bound.
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        end = self._first(_END)
        if end is None:
            raise UserError(f"{name} has no end-of-sequence token; one of these is needed: {', '.join(_END)}.")
        begin, pad = self._first(_BEGIN), self._first(_PAD)
        self.eos_id: int = end
        self.bos_id: int = end if begin is None else begin  # GPT-2 has one special that serves for both
        self.pad_id: int = end if pad is None else pad
        self.fingerprint = hash_bytes("huggingface", data)

    def _first(self, names: Sequence[str]) -> int | None:
        return next((i for i in map(self._tokenizer.token_to_id, names) if i is not None), None)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(row.ids, np.int32) for row in rows]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        found = []
        for row in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            places = np.asarray(row.offsets, np.int64).reshape(-1, 2)
            words = np.array([-1 if word is None else word for word in row.word_ids], np.int64)
            found.append(Spans(np.asarray(row.ids, np.int32), places[:, 0], places[:, 1], words))
        return found

    @property
    def sums_scores(self) -> bool:
        return self._model[0] == "Unigram"

    def cut(self, text: str, start: int, stop: int) -> int | None:
        del text, start, stop
        return None

    def settles(self, left: int, right: int) -> bool:
        kind, unknown = self._model
        if unknown in (left, right):
            return False  # two of them may become one
        if kind == "BPE":
            return True
        names = [self._tokenizer.id_to_token(i) or "" for i in (left, right)]
        return kind == "Unigram" and self._dividing.between(*names)

    @functools.cached_property
    def _model(self) -> tuple[str, int | None]:
        """The model's type, and the id that stands for what it does not know."""
        model = json.loads(self._data)["model"]
        if "unk_id" in model:
            return type(self._tokenizer.model).__name__, model["unk_id"]
        return type(self._tokenizer.model).__name__, self._tokenizer.token_to_id(model.get("unk_token") or "")

    @functools.cached_property
    def _dividing(self) -> Dividing:
        return Dividing(list(self._tokenizer.get_vocab(with_added_tokens=True)))

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([i for i in map(int, ids) if 0 <= i < self.vocab_size], skip_special_tokens=True)

    def pieces(self) -> list[str | None]:
        import tokenizers

        tokenizer = self._tokenizer
        specials = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        names = {i: name for name, i in tokenizer.get_vocab(with_added_tokens=True).items() if i not in specials}
        if isinstance(tokenizer.model, tokenizers.models.WordPiece):
            prefix = tokenizer.model.continuing_subword_prefix
            text = {i: name[len(prefix) :] if name.startswith(prefix) else f" {name}" for i, name in names.items()}
        elif b'"ByteLevel"' in self._data:
            text = {i: _from_byte_level(name) for i, name in names.items()}
        else:
            text = {i: name.replace("\u2581", " ") for i, name in names.items()}
        return [text.get(i) for i in range(self.vocab_size)]

    def special_id(self, name: str) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise UserError(f"{self._name} has no special {name!r}.")
        return found

    def template(self) -> tuple[list[int], list[int]]:
        """The specials that the file's own template puts before a text and after it; none where it has no template."""
        row = self._tokenizer.encode("a")
        is_text = [not special for special in row.special_tokens_mask]
        if not any(is_text):
            return [], []
        return row.ids[: is_text.index(True)], row.ids[len(is_text) - is_text[::-1].index(True) :]

    def name_of(self, token: int) -> str | None:
        """How an id, a special's too, is spelled in the tokenizer.json; None for an unused one."""
        return self._tokenizer.id_to_token(token)

    def save(self, folder: epath.PathLike) -> None:
        (write_kind(folder, "huggingface") / "tokenizer.json").write_bytes(self._data)


def _from_byte_level(piece: str) -> str:
    """The text of a piece whose characters each stand for a byte, as in GPT-2: a space is \u0120."""
    return bytes(_BYTES[c] for c in piece if c in _BYTES).decode("utf-8", "replace")
