"""A Hugging Face tokenizer.json, read by the `tokenizers` library."""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.tokenizers.tokenizer import (
    Dividing,
    Spans,
    hash_bytes,
    read_settings,
    read_tokenizer_file,
    write_kind,
    write_settings,
)

# A tokenizer.json does not say which special is which; these are the names that published ones use.
_END = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]", "<|im_end|>", "<|end▁of▁sentence|>")
_BEGIN = ("<s>", "<|startoftext|>", "<|begin_of_text|>", "<bos>", "[CLS]", "<|begin▁of▁sentence|>")
# Names of ends that were refused once: a begin is looked for among the later names only with a later end, so that a
# tokenizer of an older checkpoint keeps its ids.
_LATER_END = ("<\uff5cend\u2581of\u2581sentence\uff5c>", "<|eot_id|>", "<EOS>", "[EOS]")
_LATER_BEGIN = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<BOS>", "[BOS]")
_PAD = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")

# GPT-2's alphabet of bytes: printable ones stand for themselves, the others for U+0100 and on, in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHER = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHER)}

_FILE = "tokenizer.json"
# The names by which objectives ask for the special of a role, and those that may have it otherwise.
_ASKED = {"mask_token": ("[MASK]", "<mask>"), "cls_token": ("[CLS]", "<cls>"), "sep_token": ("[SEP]", "<sep>")}
_OTHERWISE = {"mask_token": (), "cls_token": ("<s>",), "sep_token": ("</s>",)}


class HuggingFaceTokenizer:
    """Wraps the bytes of a `tokenizer.json`. Text that spells a special encodes as text, but for `encode_framed`.

    Args:
      data: the file's content.
      name: of the file, for messages.
      settings: what a tokenizer.json does not say, as `tokenizer_config.json` has it: the specials by role (eos_token,
        bos_token, pad_token, mask_token, cls_token, sep_token), and split_special_tokens. Where a role is missing, its
        special is looked for by the names that published ones have.
    """

    chat_template: str | None = None

    def __init__(self, data: bytes, name: str, settings: Mapping[str, Any] | None = None):
        self._tokenizer = tokenizer = _parsed(data, name)
        tokenizer.encode_special_tokens = True
        self._data, self._name, self._settings = data, name, dict(settings or {})
        # Ids may have gaps, so the count of pieces is no bound.
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self._declared = {role: i for role, token in self._settings.items() if (i := self._id(token)) is not None}
        guessed = self._guessed()
        specials = {"eos_token": self._declared.get("sep_token"), "bos_token": self._declared.get("cls_token")}
        specials = {**guessed, **{role: i for role, i in specials.items() if i is not None}, **self._declared}
        if "eos_token" not in specials:
            names = ", ".join((*_END, *_LATER_END))
            raise UserError(
                f"{name} has no end-of-sequence token; one of these is needed, or an eos_token in the "
                f"tokenizer_config.json of an imported folder: {names}."
            )
        self.bos_id, self.eos_id, self.pad_id = _begin_end_pad(specials)
        ids = json.dumps(self._declared, sort_keys=True).encode() if self._decides(guessed) else b""
        self.fingerprint = hash_bytes("huggingface", data + ids)

    @classmethod
    def read(cls, folder: epath.PathLike) -> Self:
        """Returns the tokenizer that `save` wrote; raises UserError if it is damaged."""
        place = epath.Path(folder)
        return cls(read_tokenizer_file(place / _FILE), str(place / _FILE), read_settings(place))

    def _guessed(self) -> dict[str, int]:
        """Returns the specials of a tokenizer.json that nobody declares, by the names that published ones have."""
        end, begin = self._first(_END), self._first(_BEGIN)
        if end is None:
            end = self._first(_LATER_END)
            begin = self._first(_LATER_BEGIN) if begin is None else begin
        specials = {"eos_token": end, "bos_token": begin, "pad_token": self._first(_PAD)}
        return {role: i for role, i in specials.items() if i is not None}

    def _decides(self, guessed: dict[str, int]) -> bool:
        """Whether any special has another id than the tokenizer.json alone would give it."""
        if "eos_token" not in guessed or _begin_end_pad(guessed) != (self.bos_id, self.eos_id, self.pad_id):
            return True
        named = {role: self._first((*names, *_OTHERWISE[role])) for role, names in _ASKED.items()}
        return any(self._declared.get(role, i) != i for role, i in named.items())

    def _id(self, name: Any) -> int | None:
        return self._tokenizer.token_to_id(name) if isinstance(name, str) else None

    def _first(self, names: Sequence[str]) -> int | None:
        return next((i for i in map(self._tokenizer.token_to_id, names) if i is not None), None)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(row.ids, np.int32) for row in rows]

    def encode_spans(self, texts: Sequence[str]) -> list[Spans]:
        spans = []
        for row in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            spans.append(_spans(row))
        return spans

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
        declared = (self._declared.get(role) for role, names in _ASKED.items() if name in names)
        token = next(declared, None)
        token = self._tokenizer.token_to_id(name) if token is None else token
        if token is None:
            raise UserError(f"{self._name} has no special {name!r}.")
        return token

    def template(self) -> tuple[list[int], list[int]]:
        for probe in itertools.chain("a0.", self._tokenizer.get_vocab(with_added_tokens=False)):
            row = self._tokenizer.encode(probe)
            is_text = [not special for special in row.special_tokens_mask]
            if any(is_text):
                return row.ids[: is_text.index(True)], row.ids[len(is_text) - is_text[::-1].index(True) :]
        return [], []

    def encode_framed(self, text: str) -> list[int]:
        return self.framing.encode(text).ids

    def encode_spelled(self, text: str) -> Spans:
        return _spans(self.framing.encode(text, add_special_tokens=False))

    @functools.cached_property
    def framing(self) -> Any:
        """The library's tokenizer that frames what a person gives an imported model: text and pairs of texts.

        Text that spells a special is the special, unless the folder says `split_special_tokens`.
        """
        return self._tokenizer if self._settings.get("split_special_tokens") else _parsed(self._data, self._name)

    def takes_space(self, special: int) -> bool:
        """Returns whether a special that a text spells stands for the space before it too."""
        token = self._tokenizer.get_added_tokens_decoder().get(special)
        return token is None or token.lstrip

    @property
    def special_names(self) -> dict[str, str]:
        guessed = {role: self._tokenizer.id_to_token(i) for role, i in self._guessed().items()}
        declared = {role: name for role, name in self._settings.items() if isinstance(name, str)}
        return declared or guessed

    def name_of(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)

    def save(self, folder: epath.PathLike) -> None:
        place = write_kind(folder, "huggingface", self.chat_template)
        (place / _FILE).write_bytes(self._data)
        write_settings(place, self._settings)


def _begin_end_pad(specials: Mapping[str, int]) -> tuple[int, int, int]:
    end = specials["eos_token"]
    return (
        specials.get("bos_token", end),
        end,
        specials.get("pad_token", end),
    )  # GPT-2 has one for all


def _parsed(data: bytes, name: str) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"{name} is not a tokenizer.json ({error}). Check --data.tokenizer.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _spans(row: Any) -> Spans:
    """Returns the tokens of an `Encoding` of the library, with their places."""
    places = np.asarray(row.offsets, np.int64).reshape(-1, 2)
    words = np.array([-1 if word is None else word for word in row.word_ids], np.int64)
    return Spans(np.asarray(row.ids, np.int32), places[:, 0], places[:, 1], words)


def _from_byte_level(piece: str) -> str:
    """Returns the text of a piece whose characters each stand for a byte, as in GPT-2: a space is \u0120."""
    return bytes(_BYTES[c] for c in piece if c in _BYTES).decode("utf-8", "replace")
