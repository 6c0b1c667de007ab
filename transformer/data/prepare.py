"""From a config to everything that training reads: the room's one entry."""

import dataclasses
from collections.abc import Callable, Sequence

from transformer.data.config import DataConfig
from transformer.data.mixture import Weighted, named, open_pairs, open_sources
from transformer.data.pairs.rows import PairRows
from transformer.data.records import JoinedRecords, Reading, Records
from transformer.data.store import TokenStore
from transformer.data.text.build import Built, Maker, find_or_build
from transformer.data.text.document_parts import DocumentParts
from transformer.data.text.sources import Source, Split
from transformer.data.text.windows import TextWindows, Windows
from transformer.tokenizers.kinds import check_vocabulary, make_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TextFigures:
    """What general compressors make of the validation text: the marks to beat."""

    documents: int
    """Of pairs: how many there are."""
    text_bytes: int
    """UTF-8 bytes of all validation text: divide the summed loss by it for bits per byte."""
    targets: int
    """Tokens that a model predicts in it: all but the first of each document."""
    measured_bytes: int
    """The bytes that were compressed: all, or the first 32 MiB of a larger corpus."""
    gzip9_bytes: int
    xz9_bytes: int

    @property
    def targets_per_byte(self) -> float:
        """Turns a loss per token into one per byte."""
        return self.targets / self.text_bytes

    @property
    def gzip9_bits_per_byte(self) -> float:
        return 8 * self.gzip9_bytes / self.measured_bytes

    @property
    def xz9_bits_per_byte(self) -> float:
        return 8 * self.xz9_bytes / self.measured_bytes


@dataclasses.dataclass(frozen=True)
class Corpora:
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    """The tokenizer's."""
    train: tuple[Records, ...]
    """One a source of the mixture."""
    weights: tuple[float, ...]
    """How often each of `train` is drawn from; relative."""
    validation: JoinedRecords
    """The validation text of all sources, one after the other and each once: weights do not apply."""
    figures: TextFigures
    """Of the validation text; of its targets, where it is pairs."""
    fingerprints: dict[str, str]
    """Source, as the config names it -> a hash of its content and of what decides its split."""
    fingerprint: str
    """Of the text and the tokens: changes if a resumed run would see other data."""
    notes: tuple[str, ...] = ()
    """What people should know of how the sources are read, a line each."""


def prepare(
    config: DataConfig,
    *,
    vocab_size: int,
    reading: Reading,
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
    maker: Maker | None = None,
    report: Callable[[Built], None] = lambda built: None,
) -> Corpora:
    """Opens the sources, makes the tokenizer, builds the token stores or finds them in `cache_dir`, and cuts records.

    Every machine of a job prepares its own stores (or finds those on a shared disk, where one process builds them).

    Args:
      vocab_size: the model's; a tokenizer may have fewer pieces, not more.
      reading: which records the objective reads.
      tokenizer: a resumed run's own; without it the config decides.
      whole: all of the corpus is validation text, and there is none to train on: to evaluate on; needs a tokenizer.
      maker: who reads the corpora and makes the stores, where they are not there; by default this process.
      report: called with each store.

    Raises:
      UserError: anything about the corpus, the tokenizer or the disk that a person can mend.
    """
    corpora = open_corpora(config, reading, whole=whole)
    if maker is not None:
        for sources, _ in corpora:
            sources[0].read(maker.map)
    if tokenizer is None:
        texts = [Weighted(source, weight) for sources, weight in corpora for source in sources]
        tokenizer = make_tokenizer(config, vocab_size, texts)  # one for both sides of pairs
    check_vocabulary(tokenizer, vocab_size)

    def stores(split: Split) -> list[list[TokenStore]]:
        return [[store(source, split) for source in sources] for sources, _ in corpora]

    def store(source: Source, split: Split) -> TokenStore:
        built = find_or_build(source, split, tokenizer, config.cache_dir, maker)
        report(built)
        return built.store

    train, validation = [] if whole else stores("train"), stores("validation")
    return Corpora(
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer),
        train=tuple(cut(*parts, reading=reading, drop_remainder=True) for parts in train),
        weights=() if whole else tuple(weight for _, weight in corpora),
        validation=JoinedRecords([cut(*parts, reading=reading, drop_remainder=False) for parts in validation]),
        figures=_figures([parts[-1] for parts in validation]),
        fingerprints={
            name: "-".join(source.fingerprint for source in sources)
            for name, (sources, _) in zip(named(config), corpora, strict=True)
        },
        fingerprint="-".join((*(store.meta.corpus for parts in train for store in parts), tokenizer.fingerprint)),
        notes=tuple(note for sources, _ in corpora for note in sources[0].notes),
    )


def open_corpora(
    config: DataConfig, reading: Reading, *, whole: bool = False
) -> list[tuple[tuple[Source, ...], float]]:
    """The sources that `config` names, or both sides of its pairs, each with its weight."""
    if reading.kind == "pairs":
        return [(pairs.sides, weight) for pairs, weight in open_pairs(config, whole=whole)]
    return [((source,), weight) for source, weight in open_sources(config, whole=whole)]


def cut(*stores: TokenStore, reading: Reading, drop_remainder: bool) -> Records:
    """The records of a store, or of the two of pairs.

    With `drop_remainder` (training) there is no last window that is not full.
    """
    if reading.kind == "pairs":
        return PairRows(*stores, reading=reading)
    [store] = stores
    if reading.kind == "windows":
        return Windows(store, reading.length, reading.overlap, drop_remainder)
    if reading.kind == "text":
        return TextWindows(store, reading.length, drop_remainder)
    return DocumentParts(store, reading.length, reading.others)


def _figures(stores: Sequence[TokenStore]) -> TextFigures:
    return TextFigures(
        documents=sum(store.meta.documents for store in stores),
        text_bytes=sum(store.meta.text_bytes for store in stores),
        targets=sum(store.meta.tokens - store.meta.documents for store in stores),
        measured_bytes=sum(store.meta.measured_bytes or 0 for store in stores),
        gzip9_bytes=sum(store.meta.gzip9_bytes or 0 for store in stores),
        xz9_bytes=sum(store.meta.xz9_bytes or 0 for store in stores),
    )
