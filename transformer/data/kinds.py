"""Kinds of data, listed here by hand: a config each, how it may be read, and the function that opens it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from transformer.data.audio.config import AudioConfig
from transformer.data.audio.records import SpeechReading
from transformer.data.dataset import DataConfig, Dataset
from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.pairs.rows import PairReading
from transformer.data.prepare import prepare
from transformer.data.records import Reading
from transformer.data.text.config import TextConfig
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer


class Kind(NamedTuple):
    """A kind of data."""

    config: type[DataConfig]
    readings: tuple[type[Reading], ...]
    """The classes of what `Objective.reading` returns that it can answer."""
    open: Callable[..., Dataset]
    """Called with what `open_dataset` is called with."""


def _open_images(*args: Any, **options: Any) -> Dataset:
    from transformer.data.images.dataset import open_images  # Pillow loads only where images are read

    return open_images(*args, **options)


def _open_audio(*args: Any, **options: Any) -> Dataset:
    from transformer.data.audio.dataset import open_audio

    return open_audio(*args, **options)


KINDS: dict[str, Kind] = {
    kind.config.kind: kind
    for kind in (
        Kind(TextConfig, (TextReading, PairReading), prepare),
        Kind(ImagesConfig, (ImageReading,), _open_images),
        Kind(AudioConfig, (SpeechReading,), _open_audio),
    )
}
"""Name, as in an experiment.json -> the kind."""


def open_dataset(
    config: DataConfig,
    reading: Reading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
) -> Dataset:
    """Opens the dataset that a config names.

    Args:
      config: of any kind.
      reading: which records the objective reads.
      vocab_size: the model's; None: it reads no tokens.
      input_size: what else the model reads (`Architecture.input_size`); empty: tokens alone.
      tokenizer: what a resumed run, or the weights that a run starts from, have; None: the dataset decides.
      whole: all of the dataset is to validate on, and there is nothing to train on.

    Raises:
      UserError: the objective reads other data, or anything about the data that a person can mend.
    """
    kind = KINDS[config.kind]
    if type(reading) not in kind.readings:
        raise UserError(
            f"the objective reads no {config.kind}, which --data is: choose a preset whose data the objective reads"
        )
    return kind.open(config, reading, vocab_size=vocab_size, input_size=input_size, tokenizer=tokenizer, whole=whole)
