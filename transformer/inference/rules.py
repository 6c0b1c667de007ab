"""Decoding rules, which change the scores of next tokens before one is chosen, by sampling or by a search."""

import dataclasses
from collections.abc import Iterator

from transformer import checks
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class DecodingRules:
    """The logits processors of Hugging Face Transformers' `generate`, under its names; the defaults do nothing.

    `processors.Processors` applies them, in the order of `generate`.
    """

    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """(tokens, bias): added to the score of the last of the tokens where the text ends with the others."""
    encoder_repetition_penalty: float = 1.0
    """Above 1, tokens of the source, or of a decoder's prompt, become likelier; 1 is no penalty."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred before become less likely; 1 is no penalty."""
    no_repeat_ngram_size: int = 0
    """Length of n-grams that may not occur twice, a decoder's prompt included; 0: any may."""
    encoder_no_repeat_ngram_size: int = 0
    """Length of n-grams of the source, or of a decoder's prompt, that may not be generated; 0: any may."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are never generated; a single stop token among them is ignored."""
    forced_bos_token_id: int | None = None
    """The first token of an encoder-decoder's answer, or after a decoder's prompt of one token."""
    forced_eos_token_id: tuple[int, ...] = ()
    """Tokens of which one ends a continuation of full length."""
    remove_invalid_values: bool = False
    """Scores that are not finite become 0 (NaN) or the largest finite ones."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): after `start` tokens, stop tokens' scores grow by their size times factor ** tokens - 1."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are never generated."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that are not generated first."""
    renormalize_logits: bool = False
    """Whether scores become log-probabilities again after all other rules, as a beam search adds them up."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "repetition_penalty", "encoder_repetition_penalty")
        checks.at_least(self, 0, "no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
        for field, tokens in self._tokens():
            least = min(tokens, default=0)
            checks.require(self, least >= 0, f"`{field}` holds {least}: token ids are at least 0")
            some = bool(tokens) or field not in ("bad_words_ids", "sequence_bias")
            checks.require(self, some, f"`{field}` holds an empty list: give each at least one token id")

    def check_ids(self, vocab_size: int) -> None:
        """Raises `UserError` for a rule about tokens that the model does not have, other than suppressed ones."""
        for field, tokens in self._tokens():
            if max(tokens, default=0) >= vocab_size and "suppress" not in field:
                raise UserError(f"{field} holds {max(tokens)}: the model's vocabulary has {vocab_size} tokens")

    def _tokens(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the name of each field that holds tokens, with the tokens."""
        for word in self.bad_words_ids:
            yield "bad_words_ids", word
        for word, _ in self.sequence_bias:
            yield "sequence_bias", word
        yield "forced_bos_token_id", () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for field in ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
            yield field, getattr(self, field)
