"""Kinds of data, listed here by hand: a config each, how it may be read, and the function that opens it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from transformer.data.audio.config import AudioConfig
from transformer.data.audio.records import SpeechReading
from transformer.data.chats.config import ChatConfig
from transformer.data.chats.reading import ChatReading
from transformer.data.dataset import DataConfig, Dataset
from transformer.data.examples.choices import ChoicesReading
from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.groups import GroupsReading
from transformer.data.examples.questions import QuestionsReading
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.tagged import TaggedReading
from transformer.data.examples.texts import TextsReading
from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.listing import Listings
from transformer.data.pairs.rows import PairReading
from transformer.data.prepare import prepare
from transformer.data.records import Reading
from transformer.data.text.config import TextConfig
from transformer.data.text.records import TextReading
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer


class Survey(NamedTuple):
    """What data that are read whole say before anything else is known."""

    labels: tuple[str, ...]
    """Names of the classes, in order."""
    examples: int
    """Examples to train on."""


class Kind(NamedTuple):
    """A kind of data."""

    config: type[DataConfig]
    readings: tuple[type[Reading], ...]
    """The classes of what `Objective.reading` returns that it can answer."""
    open: Callable[..., Dataset]
    """Called with what `open_dataset` is called with."""
    list_files: Callable[[Any, Listings], object] | None = None
    """Opens a config's sources, whose files are listed; None: its files are read otherwise."""
    survey: Callable[[Any, Any], Survey] | None = None
    """Reads what a model and the length of a run depend on, of a config and a reading; None: they depend on nothing."""


def _open_images(*args: Any, **options: Any) -> Dataset:
    from transformer.data.images.dataset import open_images  # Pillow loads only where images are read

    return open_images(*args, **options)


def _list_images(config: ImagesConfig, listings: Listings) -> object:
    from transformer.data.images.sources import open_sources

    return open_sources(config, whole=True, listings=listings)


def _list_audio(config: AudioConfig, listings: Listings) -> object:
    from transformer.data.audio.sources import open_sources

    return open_sources(config, whole=True, listings=listings)


def _open_chats(*args: Any, **options: Any) -> Dataset:
    from transformer.data.chats.dataset import open_chats  # Jinja loads only where chats are read

    return open_chats(*args, **options)


def _open_audio(*args: Any, **options: Any) -> Dataset:
    from transformer.data.audio.dataset import open_audio

    return open_audio(*args, **options)


def _open_examples(*args: Any, **options: Any) -> Dataset:
    from transformer.data.examples.dataset import open_examples

    return open_examples(*args, **options)


def _survey_examples(config: ExamplesConfig, reading: ExampleReading) -> Survey:
    from transformer.data.examples.dataset import read_labels
    from transformer.data.examples.sources import open_sources

    train, held = open_sources(config, reading)
    return Survey(
        read_labels(train, held, functools.partial(reading.labels, config=config)), 0 if train is None else len(train)
    )


_EXAMPLES = (TextsReading, GroupsReading, TaggedReading, QuestionsReading, ChoicesReading)

KINDS: dict[str, Kind] = {
    kind.config.kind: kind
    for kind in (
        Kind(TextConfig, (TextReading, PairReading), prepare),
        Kind(ImagesConfig, (ImageReading,), _open_images, _list_images),
        Kind(AudioConfig, (SpeechReading,), _open_audio, _list_audio),
        Kind(ExamplesConfig, _EXAMPLES, _open_examples, survey=_survey_examples),
        Kind(ChatConfig, (ChatReading,), _open_chats),
    )
}
"""Name, as in an experiment.json -> the kind."""


def list_files(config: DataConfig) -> bool:
    """Lists the files that a config names, so that no start has to; returns whether there are any to be listed.

    Raises:
      UserError: anything about them that a person can mend.
    """
    listings, read = Listings(config.cache_dir, writes=True), KINDS[config.kind].list_files
    if read is None:
        return False
    read(config, listings)
    return listings.written > 0


def survey(config: DataConfig, reading: Reading) -> Survey | None:
    """Returns what the data say before anything else is known; None: nothing, since they are not read whole.

    Raises:
      UserError: the objective reads other data, or anything about the data that a person can mend.
    """
    kind = _kind(config, reading)
    return None if kind.survey is None else kind.survey(config, reading)


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
    kind = _kind(config, reading)
    return kind.open(config, reading, vocab_size=vocab_size, input_size=input_size, tokenizer=tokenizer, whole=whole)


def _kind(config: DataConfig, reading: Reading) -> Kind:
    """Returns the kind of a config; UserError where an objective reads other data."""
    kind = KINDS[config.kind]
    if type(reading) not in kind.readings:
        raise UserError(
            f"the objective reads no {config.kind}, which --data is: choose a preset whose data the objective reads"
        )
    return kind
