"""Spans replaced by sentinels, to be said after them (Raffel et al. 2020, T5, section 3.1.4)."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from transformer import checks
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.objectives.encoder_decoder import CorruptedText
from transformer.objectives.objective import Setting


class Sizes(NamedTuple):
    """What corrupting a text of so many tokens gives."""

    noise: int
    spans: int
    inputs: int
    """What is left, a sentinel a span, and </s>."""
    targets: int
    """The noise, a sentinel a span, and </s>."""


@dataclasses.dataclass(frozen=True)
class SpanCorruption(CorruptedText):
    """T5's denoising: the decoder says, for each sentinel of the encoder's text, what stood there."""

    name: ClassVar[str] = "span_corruption"
    kind: ClassVar = "encoder_decoder"

    density: float = 0.15
    """The part of a text's tokens that is replaced."""
    mean_span: float = 3.0
    """Tokens of a span, on average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Above one half the targets would be longer than the inputs.
        checks.within(self, "(0, 0.5]", "density")
        checks.at_least(self, 1, "mean_span")

    def sizes(self, length: int) -> Sizes:
        """Returns what a text of `length` tokens, at least 2, becomes."""
        noise = min(max(round(length * self.density), 1), length - 1)
        # A span needs a token of its own and one before it that is left.
        spans = min(max(round(noise / self.mean_span), 1), noise, length - noise)
        return Sizes(noise, spans, length - noise + spans + 1, noise + spans + 1)

    def text_length(self, seq_len: int) -> int:
        """Returns the longest text whose inputs fit `seq_len` tokens.

        T5's released code searches the same number (`random_spans_helper`): so rows are full and nothing is cut off.
        """
        told = f"`train.seq_len` {seq_len} is too short for span_corruption: give at least 8"
        checks.require(self, seq_len >= 8, told)
        length = seq_len - 2
        while self.sizes(length + 1).inputs <= seq_len:
            length += 1
        return length

    def reading(self, seq_len: int) -> TextReading:
        return TextReading("text", self.text_length(seq_len))

    def target_length(self, seq_len: int) -> int:
        """Returns what the longest text's targets take; 114 for 512."""
        return self.sizes(self.text_length(seq_len)).targets

    def check(self, setting: Setting) -> None:
        spans, sentinels = self.sizes(self.text_length(setting.seq_len)).spans, len(setting.vocabulary.sentinels)
        if spans > sentinels:
            raise UserError(
                f"--train.seq-len {setting.seq_len} has {spans} spans and the tokenizer {sentinels} sentinels "
                "(<extra_id_0>, ...): lower it, or raise --objective.mean-span"
            )

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Returns bool[length], true where a text's tokens are replaced."""
        return noise_mask(length, self.sizes(length), rng)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Returns a text with sentinels and what they stand for: "x <0> z" and "<0> y </s>" for "x y z"."""
        if len(tokens) < 2:
            return tokens, tokens[:0]
        vocabulary = setting.vocabulary
        return take_apart(tokens, self.noise(len(tokens), rng), vocabulary.sentinels, vocabulary.eos)


def noise_mask(length: int, sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    """Returns bool[length], true where noise is: kept and noise spans by turns, each at least a token, kept ones first.

    T5's released code, `random_spans_noise_mask`: all ways to cut noise and rest into that many spans are as likely.
    """
    kept = _random_lengths(length - sizes.noise, sizes.spans, rng)
    noise = _random_lengths(sizes.noise, sizes.spans, rng)
    return np.repeat(np.arange(2 * sizes.spans) % 2 == 1, np.stack((kept, noise), axis=1).ravel())


def _random_lengths(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int[parts], positive and of sum `total`, all such sequences as likely."""
    bounds = np.empty(parts + 1, int)
    bounds[0], bounds[-1] = -1, total - 1
    bounds[1:-1] = np.sort(rng.choice(total - 1, parts - 1, replace=False, shuffle=False))
    return bounds[1:] - bounds[:-1]


def take_apart(
    tokens: np.ndarray, noise: np.ndarray, sentinels: Sequence[int], eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the text with a sentinel for each span of noise, and one with a sentinel for each of the rest; ended."""
    ids = np.asarray(sentinels, np.int32)
    return replace_spans(tokens, noise, ids, eos), replace_spans(tokens, ~noise, ids, eos)


def replace_spans(tokens: np.ndarray, replaced: np.ndarray, sentinels: np.ndarray, eos: int) -> np.ndarray:
    """Returns `tokens` and `eos`, the k-th run of replaced ones made `sentinels[k]`; the target is the complement's."""
    begins = replaced.copy()
    begins[1:] &= ~replaced[:-1]
    marked = np.empty(len(tokens) + 1, np.int32)
    marked[:-1], marked[-1] = tokens, eos
    places = np.flatnonzero(begins)
    marked[places] = sentinels[: len(places)]
    kept = np.ones(len(marked), bool)
    kept[:-1] = begins | ~replaced
    return marked[kept]
