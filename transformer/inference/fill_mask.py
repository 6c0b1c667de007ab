"""Filling masks: the words that an encoder with a head of masked words puts in the place of [MASK].

Shape letters: B batch, T length, P masks, K guesses a mask.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rows import batches, padded, round_up
from transformer.tokenizers.huggingface import HuggingFaceTokenizer
from transformer.tokenizers.spelled import SpelledTokenizer
from transformer.tokenizers.vocabulary import Vocabulary

MASKS_MULTIPLE = 8
"""The number of masks in a row is padded to a multiple of this."""

_MASKS = ("[MASK]", "<mask>")
_MASK = re.compile("|".join(map(re.escape, _MASKS)))


@dataclasses.dataclass(frozen=True)
class Guess:
    """A token that may stand in a mask's place."""

    token: int
    piece: str
    """Its text, with the space before it where it begins a word; empty where it stands for no text."""
    probability: float
    """Probability over the whole vocabulary; each of several masks is guessed by itself, the others hidden."""
    text: str
    """The text with the piece in this mask's place; other masks stay."""


class MaskedText(NamedTuple):
    """A text as the model reads it."""

    tokens: list[int]
    masks: list[int]
    """Places of the masks, rising."""


class MaskFiller:
    """A model of masked words that fills in texts.

    Args:
      restored: an encoder with the head masked_lm or pretraining.

    Raises:
      UserError: it is another model, or its tokenizer has no mask.
    """

    def __init__(self, restored: Restored):
        architecture = restored.architecture
        vocab_size = architecture.vocab_size
        if (
            architecture.kind != "encoder"
            or vocab_size is None
            or architecture.head not in ("masked_lm", "pretraining")
        ):
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model with the head {architecture.head}: only "
                "encoders with the head masked_lm or pretraining fill in masks"
            )
        tokenizer = restored.tokenizer
        vocabulary = Vocabulary.of(tokenizer)
        if vocabulary.mask_id is None:
            raise UserError(f"{restored.checkpoint}: its tokenizer has neither [MASK] nor <mask>")
        self.restored, self._vocab_size = restored, vocab_size
        self._mask: int = vocabulary.mask_id
        self._begin, self._end = _frame(restored, vocabulary)
        self._pieces = [piece or "" for piece in tokenizer.pieces()]
        keeps_spaces = False
        if restored.objective is None and isinstance(tokenizer, HuggingFaceTokenizer):
            keeps_spaces = not tokenizer.takes_space(self._mask)
        self._spelled = SpelledTokenizer(tokenizer, dict.fromkeys(_MASKS, self._mask), keeps_spaces=keeps_spaces)
        self._drops_spaces = not tokenizer.encode(" ")
        """Whether text keeps no trace of its spaces, as WordPiece's does."""

    def __call__(
        self, texts: Sequence[str], *, top_k: int = 5, batch_size: int = 32, among: Sequence[int] | None = None
    ) -> list[list[list[Guess]]]:
        """Returns the `top_k` likeliest tokens of each mask of each text, the likeliest first.

        Args:
          texts: with [MASK] or <mask>, which mean the same, at least once each.
          top_k: guesses a mask.
          batch_size: texts that are read together.
          among: tokens among which is chosen, by their probabilities over the whole vocabulary; None: among all.

        Raises:
          UserError: a text without a mask, one that the model's context does not hold, a `top_k` that cannot be.
        """
        size = self._vocab_size if among is None else len(among)
        if not 1 <= top_k <= size:
            raise UserError(f"{top_k} guesses a mask asked for: give 1 to {size}, the tokens there are")
        rows = [self.encode(text) for text in texts]
        guesses: list[list[list[Guess]]] = []
        for chosen, filled in batches(list(zip(texts, rows, strict=True)), batch_size):
            probabilities_BPK, tokens_BPK = self._likeliest([row for _, row in filled], rows, top_k, among)
            for number, (text, _) in enumerate(chosen):
                of_text = zip(_MASK.finditer(text), tokens_BPK[number], probabilities_BPK[number], strict=False)
                guesses.append([self._guesses(text, mask, tokens_K, likely_K) for mask, tokens_K, likely_K in of_text])
        return guesses

    def encode(self, text: str) -> MaskedText:
        """Returns a text as the model was trained to read it, its masks the special and all else plain text.

        Raises:
          UserError: no mask, or more tokens than the model's context holds.
        """
        tokens = [*self._begin, *self._spelled.encode(text), *self._end]
        masks = [place for place, token in enumerate(tokens) if token == self._mask]
        if not masks:
            raise UserError(f"{text!r} has no mask: write [MASK] or <mask> for the word that is hidden")
        context = self.restored.model.config.context_length
        if len(tokens) > context:
            raise UserError(f"a text has {len(tokens)} tokens and the model's context holds {context}: shorten it")
        return MaskedText(tokens, masks)

    def _likeliest(
        self, batch: Sequence[MaskedText], rows: Sequence[MaskedText], top_k: int, among: Sequence[int] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities and tokens, [B, P, K] each, of a batch that is padded to the longest of all rows."""
        context = self.restored.model.config.context_length
        width = min(round_up(max(len(row.tokens) for row in rows)), context)
        masks = round_up(max(len(row.masks) for row in rows), MASKS_MULTIPLE)
        tokens_BT, segments_BT = padded([row.tokens for row in batch], width)
        masked_BP, _ = padded([row.masks for row in batch], masks)
        model, params = self.restored.model, self.restored.params
        chosen = None if among is None else np.asarray(among, np.int32)
        return jax.device_get(_likeliest(model, params, tokens_BT, segments_BT, masked_BP, chosen, top_k))

    def _guesses(
        self, text: str, mask: re.Match[str], tokens_K: np.ndarray, probabilities_K: np.ndarray
    ) -> list[Guess]:
        """Returns the guesses of one mask of a text."""
        before, after = text[: mask.start()], text[mask.end() :]
        guesses = []
        for token, probability in zip(tokens_K.tolist(), probabilities_K.tolist(), strict=True):
            piece = self._pieces[token] if token < len(self._pieces) else ""  # the model may have room for more
            guesses.append(Guess(token, piece, probability, self._fill(before, piece) + after))
        return guesses

    def _fill(self, before: str, piece: str) -> str:
        """Returns a piece put after the text before its mask, one space between them where the piece has one."""
        if not self._spelled.holds_spaces:
            return before + piece
        if piece.startswith(" ") and (not before or (self._drops_spaces and not before[-1].isalnum())):
            return before + piece[1:]
        return before.removesuffix(" ") + piece


def _frame(restored: Restored, vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """Returns the specials before and after a text, as in the model's training.

    An imported model has its tokenizer's template, if there is one. Models trained here on pairs of sentences (BERT,
    ALBERT) know <cls> and <sep>; others know the begin and end of documents.
    """
    architecture, tokenizer = restored.architecture, restored.tokenizer
    if restored.objective is None and isinstance(tokenizer, HuggingFaceTokenizer):
        begin, end = tokenizer.template()
        if begin or end:
            return begin, end
    if architecture.head == "pretraining" and "sentence" in architecture.tasks:
        return [vocabulary.cls], [vocabulary.sep]
    return [vocabulary.bos], [vocabulary.eos]


@functools.partial(jax.jit, static_argnames=("model", "top_k"))
def _likeliest(
    model: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    masked_BP: jax.Array,
    among: jax.Array | None,
    top_k: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the probabilities, falling, and their tokens, [B, P, K] each; where given, those `among` some alone."""
    outputs: Any = model.apply(
        {"params": params}, tokens=tokens_BT, segment_ids=segments_BT, masked_positions=masked_BP
    )
    probabilities = jax.nn.softmax(outputs.logits)
    if among is None:
        return jax.lax.top_k(probabilities, top_k)
    best, places = jax.lax.top_k(probabilities[..., among], top_k)
    return best, among[places]
