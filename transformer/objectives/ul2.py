"""A mixture of denoisers: short spans, long spans, a text's end (Tay et al. 2022, UL2, section 3.1)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from transformer import checks
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.objectives.encoder_decoder import CorruptedText
from transformer.objectives.objective import Setting
from transformer.objectives.span_corruption import Sizes, SpanCorruption, take_apart
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Suffix:
    """One span, the text's end: an encoder-decoder's prefix language modelling.

    Cut evenly, as in T5's released code (`random_prefix_noise_mask`, where half of a text is the mean), but around the
    quarter of the paper's table 1.
    """

    density: float = 0.25
    """The part of a text's tokens that is replaced, on average."""

    def shortest_prefix(self, length: int) -> int:
        """Returns the fewest tokens that are left of a text of `length`, at least 2."""
        return max(1, round((1 - 2 * self.density) * (length - 1)))

    def sizes(self, length: int) -> Sizes:
        """Returns the most that a text of `length` tokens may become, on either side."""
        noise = length - self.shortest_prefix(length)
        return Sizes(noise, 1, length + 1, noise + 2)

    def text_length(self, seq_len: int) -> int:
        """Returns the longest text whose inputs fit `seq_len` tokens."""
        return seq_len - 1

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Returns bool[length], true where the end is: all prefixes that are not too short are as likely."""
        return np.arange(length) >= rng.integers(self.shortest_prefix(length), length)


Denoiser = SpanCorruption | Suffix

# Table 1 of the paper: R, S and X. Where spans of 64 fit a text once, that one is the text's end too.
_REGULAR = (SpanCorruption(mean_span=3.0), SpanCorruption(mean_span=8.0))
_SEQUENTIAL = (Suffix(),)
_EXTREME = (
    SpanCorruption(density=0.5, mean_span=3.0),
    SpanCorruption(density=0.5, mean_span=8.0),
    SpanCorruption(density=0.15, mean_span=64.0),
    SpanCorruption(density=0.5, mean_span=64.0),
)


@dataclasses.dataclass(frozen=True)
class UL2(CorruptedText):
    """UL2's denoising: each example is corrupted in one of seven ways, and its first token says of which kind.

    The seven are as likely by default, as in the code of the paper's appendix. The first token is [NLU] (regular),
    [S2S] (sequential) or [NLG] (extreme), as the released models are told, or, where the tokenizer has none of these,
    the third last, second last or last sentinel.

    Each text fills the encoder's row, or is as long as there are sentinels for. It is one of the fewest pieces that
    cover its record, which overlap; the others are for other epochs. The decoder's row has room for the longest target.
    Of the places of both rows 24 % are padding at 256 tokens, and 28 % at 512 with 100 sentinels.
    """

    name: ClassVar[str] = "ul2"
    kind: ClassVar = "encoder_decoder"

    regular: float = 2.0
    """How often the two regular denoisers (R: 15 % in spans of 3 or of 8) are taken, relative to the others."""
    sequential: float = 1.0
    """How often the sequential one (S: the last 25 %, on average). Alone, it makes a prefix language model."""
    extreme: float = 4.0
    """How often the four extreme ones (X: 50 % in spans of 3, 8 or 64, or 15 % of 64)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "regular", "sequential", "extreme")
        some = self.regular + self.sequential + self.extreme > 0
        checks.require(self, some, "`regular`, `sequential` and `extreme` are 0: one of them must be above it")

    @property
    def mixture(self) -> list[tuple[int, Denoiser, float]]:
        """Which kind (0 regular, 1 sequential, 2 extreme), how, and how often, of those that are taken at all."""
        kinds = ((self.regular, _REGULAR), (self.sequential, _SEQUENTIAL), (self.extreme, _EXTREME))
        total = sum(weight for weight, _ in kinds)
        return [
            (kind, denoiser, weight / total / len(denoisers))
            for kind, (weight, denoisers) in enumerate(kinds)
            for denoiser in denoisers
            if weight > 0
        ]

    def reading(self, seq_len: int) -> TextReading:
        checks.require(self, seq_len >= 9, f"`train.seq_len` {seq_len} is too short for ul2: give at least 9")
        return TextReading("text", max(_text_length(denoiser, seq_len) for _, denoiser, _ in self.mixture))

    def target_length(self, seq_len: int) -> int:
        """Returns what the longest target takes."""
        return max(denoiser.sizes(_text_length(denoiser, seq_len)).targets for _, denoiser, _ in self.mixture)

    def check(self, setting: Setting) -> None:
        _specials(setting.vocabulary)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Returns a piece of a text with sentinels and what they stand for.

        Of "v w x y z": "[NLU] v <0> x <1> </s>" and "<0> w <1> y z </s>", or "[S2S] v w <0> </s>" and "<0> x y z </s>".
        """
        firsts, sentinels = _specials(setting.vocabulary)
        if len(tokens) < 2:
            return tokens, tokens[:0]
        kinds, denoisers, shares = zip(*self.mixture, strict=True)
        chosen = int(rng.choice(len(shares), p=shares))
        length = min(len(tokens), _text_length(denoisers[chosen], setting.seq_len, len(sentinels)))
        pieces = -(-len(tokens) // length)
        start = (len(tokens) - length) * int(rng.integers(pieces)) // max(pieces - 1, 1)
        piece, noise = tokens[start : start + length], denoisers[chosen].noise(length, rng)
        source, target = take_apart(piece, noise, sentinels, setting.vocabulary.eos)
        first = np.array([firsts[kinds[chosen]]], np.int32)
        return np.concatenate((first, source)), target


@functools.lru_cache(maxsize=64)
def _text_length(denoiser: Denoiser, seq_len: int, sentinels: int | None = None) -> int:
    """Returns the longest text whose inputs fit `seq_len` tokens after the first, and its spans so many sentinels."""
    length = denoiser.text_length(seq_len - 1)
    while sentinels is not None and denoiser.sizes(length).spans > sentinels:
        length -= 1
    return length


def _specials(vocabulary: Vocabulary) -> tuple[Sequence[int], Sequence[int]]:
    """Returns the first tokens of the three kinds, and the sentinels; UserError where there are too few."""
    firsts, sentinels = vocabulary.paradigms, vocabulary.sentinels
    if not firsts:
        firsts, sentinels = sentinels[-3:], sentinels[:-3]
    if not sentinels:
        raise UserError(
            f"The tokenizer has {len(vocabulary.sentinels)} sentinels (<extra_id_0>, ...) and ul2 needs at least 4, as "
            "three say which denoiser: take another --data.tokenizer; those trained here (unigram, bpe) and bytes have "
            "100."
        )
    return firsts, sentinels
