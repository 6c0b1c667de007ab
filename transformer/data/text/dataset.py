"""A dataset of text: its records are tokens, and its validation text is measured by compressors."""

import dataclasses
from collections.abc import Sequence

from transformer.data.records import Record
from transformer.data.text.records import TextRecords
from transformer.data.text.store import TokenStore
from transformer.data.tokenized import TokenizedDataset


@dataclasses.dataclass(frozen=True)
class TextFigures:
    """What general compressors make of the validation text: the marks to beat."""

    documents: int
    """Documents, or pairs."""
    text_bytes: int
    """UTF-8 bytes of all validation text: divide the summed loss by it for bits per byte."""
    targets: int
    """Tokens that a model predicts in it: all but the first of each document."""
    measured_bytes: int
    """The bytes that were compressed: all, or the first 32 MiB of a larger corpus."""
    gzip9_bytes: int
    xz9_bytes: int

    @property
    def targets_per_byte(self) -> float:
        """Turns a loss per token into one per byte."""
        return self.targets / self.text_bytes

    @property
    def gzip9_bits_per_byte(self) -> float:
        return 8 * self.gzip9_bytes / self.measured_bytes

    @property
    def xz9_bits_per_byte(self) -> float:
        return 8 * self.xz9_bytes / self.measured_bytes


@dataclasses.dataclass(frozen=True)
class TextDataset(TokenizedDataset):
    """A dataset of text, or of pairs of texts, as tokens."""

    train: tuple[TextRecords, ...]
    figures: TextFigures
    """The validation text's; that of its targets, where it is pairs."""

    @property
    def train_tokens(self) -> int:
        """Tokens to train on, over all sources."""
        return sum(records.tokens for records in self.train)

    def show(self, record: Record) -> tuple[str, ...]:
        """Returns the texts of a record, without padding."""
        filled = {name: record[name.replace("tokens", "segment_ids")] > 0 for name in record if name.endswith("tokens")}
        return tuple(self.tokenizer.decode(record[name][mask].tolist()) for name, mask in filled.items())


def figures_of(stores: Sequence[TokenStore]) -> TextFigures:
    """Returns what compressors made of the validation text in some stores."""
    return TextFigures(
        documents=sum(store.meta.documents for store in stores),
        text_bytes=sum(store.meta.text_bytes for store in stores),
        targets=sum(store.meta.tokens - store.meta.documents for store in stores),
        measured_bytes=sum(store.meta.measured_bytes or 0 for store in stores),
        gzip9_bytes=sum(store.meta.gzip9_bytes or 0 for store in stores),
        xz9_bytes=sum(store.meta.xz9_bytes or 0 for store in stores),
    )
