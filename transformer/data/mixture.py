"""Which sources a config names, and how much of each."""

import dataclasses
import math
from typing import NamedTuple

from transformer.data.config import DataConfig
from transformer.data.pairs.files import open_pair_path
from transformer.data.pairs.pairs import PairSource
from transformer.data.text.sources import Source, open_path
from transformer.errors import UserError

_TFDS_PREFIX = "tfds:"


class Weighted(NamedTuple):
    source: Source
    weight: float


class WeightedPairs(NamedTuple):
    pairs: PairSource
    weight: float


def open_sources(config: DataConfig, *, whole: bool = False) -> list[Weighted]:
    """The sources of `config`, opened: of its mixture, else its path, else its TFDS dataset.

    With `whole`, all that they hold is validation text, whatever `validation_fraction` is.

    Raises:
      UserError: nothing named, a malformed mixture item, a source that cannot be opened.
    """
    names, config = _named(config), _all_held_out(config) if whole else config
    return [Weighted(_open(name, config), weight) for name, weight in names]


def open_pairs(config: DataConfig, *, whole: bool = False) -> list[WeightedPairs]:
    """The same as `open_sources`, for sources of pairs."""
    names, config = _named(config), _all_held_out(config) if whole else config
    return [WeightedPairs(_open_pairs(name, config), weight) for name, weight in names]


def _all_held_out(config: DataConfig) -> DataConfig:
    return dataclasses.replace(config, validation_fraction=1.0)


def named(config: DataConfig) -> list[str]:
    """What `config` calls its sources: a path, or `tfds:NAME`."""
    return [name for name, _ in _named(config)]


def _named(config: DataConfig) -> list[tuple[str, float]]:
    """What `config` names, with weights."""
    if not 0 < config.validation_fraction < 1:
        raise UserError(
            f"--data.validation-fraction {config.validation_fraction}: give a number between 0 and 1, such as 0.05."
        )
    if config.mixture:
        return list(map(_parse, config.mixture))
    if config.path is not None:
        return [(config.path, 1.0)]
    if config.tfds is not None:
        return [(_TFDS_PREFIX + config.tfds, 1.0)]
    raise UserError("No corpus named: set --data.path, --data.tfds or --data.mixture.")


def _parse(item: str) -> tuple[str, float]:
    name, equals, number = item.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not equals or not name or math.isnan(weight):
        raise UserError(
            f"--data.mixture {item!r}: write SOURCE=WEIGHT, such as plays.txt=0.3 or tfds:python_stdlib=0.7."
        )
    if not 0 < weight < math.inf:
        raise UserError(f"--data.mixture {item!r}: the weight must be a positive number.")
    return name, weight


def _open(name: str, config: DataConfig) -> Source:
    if not name.startswith(_TFDS_PREFIX):
        return open_path(name, config)
    from transformer.data.text.tfds_source import TfdsSource  # here, because importing TFDS costs a third of a second

    return TfdsSource(name.removeprefix(_TFDS_PREFIX), config)


def _open_pairs(name: str, config: DataConfig) -> PairSource:
    if not name.startswith(_TFDS_PREFIX):
        return open_pair_path(name, config)
    from transformer.data.text.tfds_source import TfdsPairs

    return TfdsPairs(name.removeprefix(_TFDS_PREFIX), config)
