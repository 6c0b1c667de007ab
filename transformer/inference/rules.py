"""What may be said: what is done to the scores of all next tokens before one is chosen, however it is chosen."""

import dataclasses
from collections.abc import Iterator

from transformer import checks
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rules:
    """The logits processors of Hugging Face Transformers' `generate`, under its names; the defaults do nothing.

    `processors.Processors` applies them, in the order of `generate`.
    """

    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """(tokens, bias): added to the score of the last of the tokens where the text ends with the others."""
    encoder_repetition_penalty: float = 1.0
    """Above 1, tokens of what is read (the source, or a decoder's prompt) become likelier; 1 is none."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that were there before become less likely; 1 is none."""
    no_repeat_ngram_size: int = 0
    """No so many tokens in a row are said that were there before, in a decoder's prompt too; 0: any may."""
    encoder_no_repeat_ngram_size: int = 0
    """No so many tokens in a row are said that are in what is read; 0: any may."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Tokens in a row that are never said; one that is a stop token alone is let through."""
    forced_bos_token_id: int | None = None
    """The token said first: by an encoder-decoder, or by a decoder whose prompt has one token."""
    forced_eos_token_id: tuple[int, ...] = ()
    """The tokens of which one is said where the continuation has its full length."""
    remove_invalid_values: bool = False
    """Scores that are not finite become 0 (NaN) or the largest finite ones."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): after `start` tokens, stop tokens' scores grow by their size times factor ** tokens - 1."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are never said."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that are not said first."""
    renormalize_logits: bool = False
    """Scores become log-probabilities again: what a beam search adds up, after all else."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "repetition_penalty", "encoder_repetition_penalty")
        checks.at_least(self, 0, "no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
        for field, tokens in self._tokens():
            least = min(tokens, default=0)
            checks.require(self, least >= 0, f"`{field}` holds {least}: token ids are at least 0")
            some = bool(tokens) or field not in ("bad_words_ids", "sequence_bias")
            checks.require(self, some, f"`{field}` holds an empty list: give each at least one token id")

    def check_ids(self, vocab_size: int) -> None:
        """Raises `UserError` for a rule of tokens that the model does not have; those suppressed may lack it."""
        for field, tokens in self._tokens():
            if max(tokens, default=0) >= vocab_size and "suppress" not in field:
                raise UserError(f"{field} holds {max(tokens)}: the model's vocabulary has {vocab_size} tokens")

    def _tokens(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields each field's name with tokens that it holds."""
        for word in self.bad_words_ids:
            yield "bad_words_ids", word
        for word, _ in self.sequence_bias:
            yield "sequence_bias", word
        yield "forced_bos_token_id", () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for field in ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
            yield field, getattr(self, field)
