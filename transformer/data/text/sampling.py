"""Samples of a corpus' text, drawn without reading much more than the sample; what tokenizers are trained on."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from transformer.data.text.mixture import Weighted
from transformer.data.text.pieces import Piece, cut_document
from transformer.data.text.readable import Split
from transformer.data.text.sources import Source
from transformer.tokenizers.training_text import TrainingText

_READ = 4  # bytes read for one that is kept
_PLACES = 64  # places that are read from, at least, where there are so many


def training_text(corpus: Sequence[Weighted]) -> TrainingText:
    """Returns the training text of a corpus, a sample of which is shared out among its sources by weight."""
    total = sum(weight for _, weight in corpus)

    def draw(size: int) -> Iterator[str]:
        for source, weight in corpus:
            yield from (piece.text for piece in sample(source, "train", int(size * weight / total)))

    return TrainingText(lambda: [(source.fingerprint, weight) for source, weight in corpus], draw)


def sample(source: Source, split: Split, size: int) -> Iterator[Piece]:
    """Yields about `size` bytes of the documents of a split, in pieces; equal corpora give equal ones.

    Evenly spaced pieces of all the text, where that is at most four times as long. Else of places chosen at random,
    each read from its beginning.
    """
    total = max(1, source.size(split))
    if total <= _READ * size:
        rate = min(1.0, size / total)
        pieces = enumerate(_cut(source.pieces(split)))
        yield from (piece for i, piece in pieces if int((i + 1) * rate) > int(i * rate))
        return
    places = list(source.places(split))
    random.Random(source.fingerprint).shuffle(places)
    room, share = _READ * size, _READ * size // min(len(places), _PLACES)

    def read() -> Iterator[Piece]:
        nonlocal room
        for place in places:
            left = min(share, room)
            for piece in source.part_pieces(place, split):
                yield piece
                room -= len(piece.text)
                left -= len(piece.text)
                if left <= 0:
                    break
            if room <= 0:
                return

    yield from itertools.islice(_cut(read()), 0, None, _READ)


def _cut(documents: Iterable[Piece]) -> Iterator[Piece]:
    return itertools.chain.from_iterable(cut_document(document.text) for document in documents)
