"""InitConfig: the weights that a run starts from, and what it takes of them."""

import dataclasses
import re

from transformer import checks
from transformer.checks import FieldError
from transformer.transfer.extend import PositionRule, VocabularyRule


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The weights that a run starts from; without a path they are drawn anew."""

    path: str | None = None
    """A run or a checkpoint (an imported one too) whose weights and tokenizer this run starts from. The backbone must
    be the same; a head that differs is new."""
    leaves: str | None = None
    """A regular expression that the whole paths of the arrays to take match, such as `backbone/stack/.*`; all others
    are new. None: all that fit."""
    vocabulary: VocabularyRule | None = None
    """How the rows of a larger vocabulary are made: `fresh` (newly initialised) or `mean` (of the old rows: Hewitt
    2021). None: a larger vocabulary is refused."""
    positions: PositionRule | None = None
    """How the rows of a longer context's learned positions are made: `fresh`, `repeat` (the old rows over and over:
    Longformer) or `interpolate` (between the old rows: ViT). None: more positions are refused."""

    layers: tuple[int, ...] | None = None
    """The source's layers, from 0, that become this model's, in this order; of an encoder-decoder, its encoder's. So a
    student begins with some of its teacher's (DistilBERT: 0 2 4 7 9 11). None: the stacks are as deep."""
    decoder_layers: tuple[int, ...] | None = None
    """The same of an encoder-decoder's decoder (Shleifer and Rush 2020, DistilBART: 0 6 11)."""
    weights: bool = True
    """Whether the weights are taken; False: their architecture and tokenizer alone, to learn from nothing what others
    learn from them."""

    def __post_init__(self) -> None:
        optional = ("leaves", "vocabulary", "positions", "layers", "decoder_layers")
        for field, unused in (*((name, None) for name in optional), ("weights", True)):
            used = getattr(self, field) == unused or self.path is not None
            checks.rule(self, field, used, "there is no `path` to take weights from")
        try:
            re.compile(self.leaves or "")
        except re.error as error:
            raise FieldError(InitConfig, f"`leaves` {self.leaves!r} is not a regular expression: {error}") from error
