"""Which pairs a config names, and how much of each source."""

from typing import NamedTuple

from transformer.data.pairs.files import open_pair_path
from transformer.data.pairs.pairs import PairSource
from transformer.data.text.config import TFDS_PREFIX, TextConfig
from transformer.data.text.mixture import all_held_out, shares


class WeightedPairs(NamedTuple):
    pairs: PairSource
    weight: float


def open_pairs(config: TextConfig, *, whole: bool = False) -> list[WeightedPairs]:
    """Returns the sources of pairs that `config` names, opened, as `open_sources` does those of text."""
    names, config = shares(config), all_held_out(config) if whole else config
    return [WeightedPairs(_open(name, config), weight) for name, weight in names]


def _open(name: str, config: TextConfig) -> PairSource:
    if not name.startswith(TFDS_PREFIX):
        return open_pair_path(name, config)
    from transformer.data.pairs.tfds import TfdsPairs  # here, because importing TFDS costs a third of a second

    return TfdsPairs(name.removeprefix(TFDS_PREFIX), config)
