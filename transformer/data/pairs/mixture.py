"""Which pairs a config names, and how much of each source."""

from transformer.data.pairs.files import open_pair_path
from transformer.data.pairs.pairs import PairSource
from transformer.data.text.config import TextConfig
from transformer.data.text.mixture import Weighted, opened


def open_pairs(config: TextConfig, *, whole: bool = False) -> list[Weighted[PairSource]]:
    """Returns the sources of pairs that `config` names, opened, as `opened` does."""
    return opened(config, open_pair_path, _open_tfds, whole=whole)


def _open_tfds(name: str, config: TextConfig) -> PairSource:
    from transformer.data.pairs.tfds import TfdsPairs  # here, because importing TFDS costs a third of a second

    return TfdsPairs(name, config)
