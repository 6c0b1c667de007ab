"""Which sources a config names, and how much of each."""

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from transformer.data.text.config import TFDS_PREFIX, TextConfig
from transformer.data.text.readable import Readable
from transformer.data.text.sources import Source, open_path
from transformer.errors import UserError

S = TypeVar("S", bound=Readable)


class Weighted(NamedTuple, Generic[S]):
    source: S
    weight: float


def open_sources(config: TextConfig, *, whole: bool = False) -> list[Weighted[Source]]:
    """Returns the sources of text that `config` names, opened, as `opened` does."""
    return opened(config, open_path, _open_tfds, whole=whole)


def opened(
    config: TextConfig, path: Callable[[str, TextConfig], S], tfds: Callable[[str, TextConfig], S], *, whole: bool
) -> list[Weighted[S]]:
    """Returns the sources of `config`, opened: of its mixture, else its path, else its TFDS dataset.

    Args:
      config: names them.
      path: opens what is a path.
      tfds: opens what is a TFDS dataset, by its name.
      whole: all that they hold is validation text, whatever `validation_fraction` is.

    Raises:
      UserError: nothing named, a malformed mixture item, a source that cannot be opened.
    """
    names = shares(config)
    if whole:
        config = dataclasses.replace(config, validation_fraction=1.0)
    return [
        Weighted(tfds(name[len(TFDS_PREFIX) :], config) if name.startswith(TFDS_PREFIX) else path(name, config), weight)
        for name, weight in names
    ]


def shares(config: TextConfig) -> list[tuple[str, float]]:
    """Returns what `config` calls its sources, a path or `tfds:NAME`, with the weight of each.

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


def _open_tfds(name: str, config: TextConfig) -> Source:
    from transformer.data.text.tfds_source import TfdsSource  # here, because importing TFDS costs a third of a second

    return TfdsSource(name, config)
