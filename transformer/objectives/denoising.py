"""Say a corrupted text as it was (Lewis et al. 2020, BART, section 2.2)."""

import dataclasses
from typing import ClassVar

import numpy as np

from transformer import checks
from transformer.data.text.records import TextReading
from transformer.objectives.encoder_decoder import CorruptedText
from transformer.objectives.objective import Setting
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Denoising(CorruptedText):
    """BART's denoising; the defaults are the large model's: text infilling and sentence permutation.

    Corruptions apply in the order of the fields. The encoder reads <s> corrupted </s>, the target is <s> original </s>.
    """

    name: ClassVar[str] = "denoising"
    kind: ClassVar = "encoder_decoder"

    permute_sentences: bool = True
    """Whether the sentences are shuffled."""
    rotate: bool = False
    """Whether the text starts at a random token, what was before following its end."""
    delete: float = 0.0
    """The part of the tokens that is deleted, without a trace."""
    infill: float = 0.3
    """The part of the tokens that is replaced, each span by one <mask>."""
    mean_span: float = 3.0
    """Mean length of a span in tokens, which is Poisson distributed; a span of no token is a <mask> put in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "[0, 1)", "delete", "infill")
        checks.at_least(self, 1, "mean_span")

    @property
    def begins_source(self) -> bool:
        return True

    def reading(self, seq_len: int) -> TextReading:
        checks.require(self, seq_len >= 8, f"`train.seq_len` {seq_len} is too short for denoising: give at least 8")
        return TextReading("text", seq_len - 2)

    def target_length(self, seq_len: int) -> int:
        return seq_len

    def check(self, setting: Setting) -> None:
        _ = self.infill and setting.vocabulary.mask

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Returns a corrupted text and the original."""
        vocabulary = setting.vocabulary
        if not len(tokens):
            return tokens, tokens
        source = tokens
        if self.permute_sentences:
            source = shuffle_sentences(source, vocabulary, rng)
        if self.rotate:
            source = np.roll(source, -int(rng.integers(len(source))))
        if self.delete:
            source = np.delete(source, rng.permutation(len(source))[: round(self.delete * len(source))])
        if self.infill and len(source):
            source = infill(source, self.infill, self.mean_span, vocabulary.mask, rng)
        source, target = (np.concatenate(([vocabulary.bos], x, [vocabulary.eos])) for x in (source, tokens))
        return source, target


def shuffle_sentences(tokens: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """Returns the sentences of `tokens` in a random order; what follows the last one's end is one too."""
    sentences = np.split(tokens, np.flatnonzero(vocabulary.ends_sentence[tokens[:-1]]) + 1)
    return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])


def infill(tokens: np.ndarray, rate: float, mean_span: float, mask: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `tokens` with spans replaced by one `mask` each, never longer than before.

    Lengths are drawn until they cover the rate, and the last is cut to it, as in BART's released code (fairseq's
    `DenoisingDataset.add_whole_word_mask`). All places for the spans among the tokens that stay are as likely.
    """
    count = round(rate * len(tokens))
    lengths = np.zeros(0, int)
    while lengths.sum() < count:
        lengths = np.append(lengths, rng.poisson(mean_span, size=1 + int(count / mean_span)))
    if count:
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), count)) + 1]
        lengths[-1] -= lengths.sum() - count
    if len(lengths) > count:  # more put in than taken out
        lengths = lengths[lengths > 0]
    # Stretches that stay, as single tokens, and spans, in a random order.
    spans = np.zeros(len(tokens) - count + len(lengths), bool)
    spans[rng.choice(len(spans), len(lengths), replace=False, shuffle=False)] = True
    widths = np.ones(len(spans), int)
    widths[spans] = lengths
    starts = np.cumsum(widths) - widths
    return np.where(spans, mask, tokens[np.minimum(starts, len(tokens) - 1)])
