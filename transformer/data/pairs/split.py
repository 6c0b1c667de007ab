"""The split of pairs into training and validation by a hash of their numbers."""

from transformer.data.receipts import Facts
from transformer.data.text.readable import Split
from transformer.data.text.sources import choose_split, extremes, unit_hash
from transformer.errors import UserError


class HashSplit:
    """Which side of the split a pair is on, by a hash of its number, where the corpus has no validation part.

    Args:
      facts: `pairs`, their count, and `extremes`, the lowest and highest hash of their numbers.
    """

    def __init__(self, facts: Facts, fraction: float, name: str):
        if not facts["pairs"]:
            raise UserError(f"{name} holds 0 pair(s).")
        if facts["pairs"] < 2 and fraction < 1:
            raise UserError(
                f"{name} holds {facts['pairs']} pair(s): two are needed, one to train on and one to validate."
            )
        self._extremes, self._fraction = facts["extremes"], fraction

    def __call__(self, number: int) -> Split:
        return choose_split(unit_hash(str(number)), self._fraction, *self._extremes)


def numbered(count: int) -> Facts:
    """Returns what a split by a hash needs to know of so many pairs."""
    return {"pairs": count, "extremes": extremes(map(str, range(count)))}
