"""From a config to everything that training reads: the room's one entry."""

import dataclasses
from collections.abc import Sequence

from transformer.data.config import DataConfig
from transformer.data.mixture import open_sources
from transformer.data.store import TokenStore, build_store
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_kinds import check_vocabulary, make_tokenizer
from transformer.data.windows import JoinedWindows, Windows


@dataclasses.dataclass(frozen=True)
class TextFigures:
    """What general compressors make of the validation text: the marks to beat."""

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
    train: tuple[Windows, ...]
    """One a source of the mixture."""
    weights: tuple[float, ...]
    """How often each of `train` is drawn from; relative."""
    validation: JoinedWindows
    """The validation text of all sources, one after the other and each once: weights do not apply."""
    figures: TextFigures
    fingerprint: str
    """Of the text and the tokens: changes if a resumed run would see other data."""


def prepare(config: DataConfig, *, vocab_size: int, seq_len: int, tokenizer: Tokenizer | None = None) -> Corpora:
    """Opens the sources, makes the tokenizer, builds the token stores or finds them in `cache_dir`, and cuts windows.

    Every machine of a job prepares its own stores (or finds those on a shared disk, where one process builds them).

    Args:
      vocab_size: the model's; a tokenizer may have fewer pieces, not more.
      seq_len: T; windows have T + 1 tokens.
      tokenizer: a resumed run's own; without it the config decides.

    Raises:
      UserError: anything about the corpus, the tokenizer or the disk that a person can mend.
    """
    sources = open_sources(config)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, vocab_size, sources)
    check_vocabulary(tokenizer, vocab_size)
    train = [build_store(source, "train", tokenizer, config.cache_dir) for source, _ in sources]
    validation = [build_store(source, "validation", tokenizer, config.cache_dir) for source, _ in sources]
    return Corpora(
        tokenizer=tokenizer,
        train=tuple(Windows(store, seq_len, drop_remainder=True) for store in train),
        weights=tuple(weight for _, weight in sources),
        validation=JoinedWindows([Windows(store, seq_len, drop_remainder=False) for store in validation]),
        figures=_figures(validation),
        fingerprint="-".join((*(store.meta.corpus for store in train), tokenizer.fingerprint)),
    )


def _figures(stores: Sequence[TokenStore]) -> TextFigures:
    return TextFigures(
        text_bytes=sum(store.meta.text_bytes for store in stores),
        targets=sum(store.meta.tokens - store.meta.documents for store in stores),
        measured_bytes=sum(store.meta.measured_bytes or 0 for store in stores),
        gzip9_bytes=sum(store.meta.gzip9_bytes or 0 for store in stores),
        xz9_bytes=sum(store.meta.xz9_bytes or 0 for store in stores),
    )
