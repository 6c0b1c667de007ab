"""From a config of texts or pairs to everything that training reads of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.data.dataset import About
from transformer.data.pairs.mixture import open_pairs
from transformer.data.pairs.rows import PairReading, PairRows
from transformer.data.records import JoinedRecords, Reading
from transformer.data.text.build import Built, Maker, find_or_build
from transformer.data.text.config import TextConfig
from transformer.data.text.dataset import TextDataset, figures_of
from transformer.data.text.document_parts import DocumentParts
from transformer.data.text.mixture import Weighted, open_sources, shares
from transformer.data.text.records import TextReading, TextRecords
from transformer.data.text.sampling import training_text
from transformer.data.text.sources import Source, Split
from transformer.data.text.store import TokenStore
from transformer.data.text.windows import TextWindows, Windows
from transformer.errors import UserError
from transformer.tokenizers.kinds import check_vocabulary, make_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary


class Corpus(NamedTuple):
    """An opened source."""

    name: str
    """As the config names it."""
    sides: tuple[Source, ...]
    """The source itself, or both sides of its pairs."""
    weight: float

    @property
    def fingerprint(self) -> str:
        """A hash of the content and of what decides the split."""
        return "-".join(source.fingerprint for source in self.sides)


def prepare(
    config: TextConfig,
    reading: Reading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
    maker: Maker | None = None,
    report: Callable[[Built], None] = lambda built: None,
) -> TextDataset:
    """Opens the sources, makes the tokenizer, builds the token stores or finds them in `cache_dir`, and cuts records.

    Every machine of a job prepares its own stores (or finds those on a shared disk, where one process builds them).

    Args:
      config: names the sources.
      reading: which records the objective reads, a `TextReading` or a `PairReading`.
      vocab_size: the model's; a tokenizer may have fewer pieces, not more.
      input_size: what else the model reads, which must be nothing.
      tokenizer: a resumed run's own; without it the config decides.
      whole: all of the corpus is validation text, and there is none to train on: to evaluate on; needs a tokenizer.
      maker: who reads the corpora and makes the stores, where they are not there; by default this process.
      report: called with each store.

    Raises:
      UserError: anything about the corpus, the tokenizer or the disk that a person can mend.
    """
    if vocab_size is None or input_size:
        raise UserError(
            "--data is text and the model reads other things than text: choose a preset of another model or other data"
        )
    corpora = open_corpora(config, reading, whole=whole)
    if maker is not None:
        for corpus in corpora:
            corpus.sides[0].read(maker.map)
    if tokenizer is None:  # one for both sides of pairs
        text = training_text([Weighted(source, corpus.weight) for corpus in corpora for source in corpus.sides])
        tokenizer = make_tokenizer(config.tokenizer, vocab_size, text, Path(config.cache_dir).expanduser())
    check_vocabulary(tokenizer, vocab_size)

    def store(source: Source, split: Split) -> TokenStore:
        built = find_or_build(source, split, tokenizer, config.cache_dir, maker)
        report(built)
        return built.store

    def stores(split: Split) -> list[list[TokenStore]]:
        return [[store(source, split) for source in corpus.sides] for corpus in corpora]

    train_stores, validation_stores = [] if whole else stores("train"), stores("validation")
    contents = [*(store.meta.corpus for parts in train_stores for store in parts), tokenizer.fingerprint]
    train = tuple(cut(*parts, reading=reading, drop_remainder=True) for parts in train_stores)
    weights = () if whole else tuple(corpus.weight for corpus in corpora)
    validation = [cut(*parts, reading=reading, drop_remainder=False) for parts in validation_stores]
    return TextDataset(
        train=train,
        weights=weights,
        validation=JoinedRecords(validation),
        fingerprint="-".join(contents),
        about=About(
            identity={
                "sources": {corpus.name: corpus.fingerprint for corpus in corpora},
                "validation_fraction": config.validation_fraction,
                "tokenizer": tokenizer.fingerprint,
            },
            summary=_summary(train, validation, tokenizer),
            notes=tuple(note for corpus in corpora for note in corpus.sides[0].notes),
            training=_training_notes(train, weights),
            validation=_validation_notes(validation),
        ),
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer),
        figures=figures_of([parts[-1] for parts in validation_stores]),
    )


def open_corpora(config: TextConfig, reading: Reading, *, whole: bool = False) -> list[Corpus]:
    """Returns the sources that `config` names, or both sides of its pairs."""
    if isinstance(reading, PairReading):
        opened = [(pairs.sides, weight) for pairs, weight in open_pairs(config, whole=whole)]
    else:
        opened = [((source,), weight) for source, weight in open_sources(config, whole=whole)]
    return [Corpus(name, *parts) for (name, _), parts in zip(shares(config), opened, strict=True)]


def cut(*stores: TokenStore, reading: Reading, drop_remainder: bool) -> TextRecords:
    """Returns the records of a store, or of the two of pairs.

    With `drop_remainder` (training) there is no last window that is not full.
    """
    if isinstance(reading, PairReading):
        return PairRows(*stores, reading=reading)
    if not isinstance(reading, TextReading):
        raise TypeError(f"{reading} is no way to read text")
    [store] = stores
    if reading.kind == "windows":
        return Windows(store, reading.length, reading.overlap, drop_remainder)
    if reading.kind == "text":
        return TextWindows(store, reading.length, drop_remainder)
    return DocumentParts(store, reading.length, reading.others)


def _summary(train: Sequence[TextRecords], validation: Sequence[TextRecords], tokenizer: Tokenizer) -> str:
    megabytes, validation_megabytes = (sum(part.text_bytes for part in parts) / 1e6 for parts in (train, validation))
    return (
        f"{megabytes:,.1f} MB of training text, {sum(records.tokens for records in train):,} tokens of "
        f"{tokenizer.vocab_size:,} kinds; {validation_megabytes:,.2f} MB for validation"
    )


def _training_notes(train: Sequence[TextRecords], weights: Sequence[float]) -> tuple[str, ...]:
    rows = [(records, weight) for records, weight in zip(train, weights, strict=True) if isinstance(records, PairRows)]
    if not rows:
        return ()
    padding = sum(weight * records.padding for records, weight in rows) / sum(weights)
    left_out = sum(records.left_out for records, _ in rows)
    note = f"{100 * padding:.1f} % of the rows' places are padding"
    return (note, f"{left_out:,} training pairs are left out: they are longer than a row") if left_out else (note,)


def _validation_notes(validation: Sequence[TextRecords]) -> tuple[str, ...]:
    left_out = sum(records.left_out for records in validation if isinstance(records, PairRows))
    return (f"{left_out:,} pairs are left out of the loss: they are longer than a row",) if left_out else ()
