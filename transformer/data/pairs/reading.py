"""What objectives read of pairs of texts."""

import dataclasses

from transformer.data.records import Reading


@dataclasses.dataclass(frozen=True)
class PairReading(Reading):
    """Rows of pairs, and how long they are."""

    length: int
    """Tokens of a row's sources."""
    target_length: int
    """Tokens of a row's targets."""
    begin: bool = False
    """Whether each text begins with <s>."""
