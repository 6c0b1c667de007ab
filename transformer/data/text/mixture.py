"""Which sources a config names, and how much of each."""

import dataclasses
import math
from typing import NamedTuple

from transformer.data.text.config import TFDS_PREFIX, TextConfig
from transformer.data.text.sources import Source, open_path
from transformer.errors import UserError


class Weighted(NamedTuple):
    source: Source
    weight: float


def open_sources(config: TextConfig, *, whole: bool = False) -> list[Weighted]:
    """Returns the sources of `config`, opened: of its mixture, else its path, else its TFDS dataset.

    With `whole`, all that they hold is validation text, whatever `validation_fraction` is.

    Raises:
      UserError: nothing named, a malformed mixture item, a source that cannot be opened.
    """
    names, config = shares(config), all_held_out(config) if whole else config
    return [Weighted(_open(name, config), weight) for name, weight in names]


def all_held_out(config: TextConfig) -> TextConfig:
    """Returns the config by which all text is validation text."""
    return dataclasses.replace(config, validation_fraction=1.0)


def named(config: TextConfig) -> list[str]:
    """Returns what `config` calls its sources: a path, or `tfds:NAME`."""
    return [name for name, _ in shares(config)]


def shares(config: TextConfig) -> list[tuple[str, float]]:
    """Returns what `config` calls its sources, with the weight of each.

    Raises:
      UserError: nothing named, a malformed mixture item.
    """
    if not 0 < config.validation_fraction < 1:
        raise UserError(
            f"--data.validation-fraction {config.validation_fraction}: give a number between 0 and 1, such as 0.05."
        )
    if config.mixture:
        return list(map(_parse, config.mixture))
    if config.path is not None:
        return [(config.path, 1.0)]
    if config.tfds is not None:
        return [(TFDS_PREFIX + config.tfds, 1.0)]
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


def _open(name: str, config: TextConfig) -> Source:
    if not name.startswith(TFDS_PREFIX):
        return open_path(name, config)
    from transformer.data.text.tfds_source import TfdsSource  # here, because importing TFDS costs a third of a second

    return TfdsSource(name.removeprefix(TFDS_PREFIX), config)
