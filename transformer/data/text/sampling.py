"""A sample of a corpus' text, drawn without reading much more than the sample."""

import itertools
import random
from collections.abc import Iterable, Iterator

from transformer.data.text.pieces import Piece, cut_document
from transformer.data.text.readable import Split
from transformer.data.text.sources import Source

_READ = 4  # bytes read for one that is kept
_PLACES = 64  # places that are read from, at least, where there are so many


def sample(source: Source, split: Split, size: int) -> Iterator[Piece]:
    """About `size` bytes of the documents of a split, in pieces; the same of the same corpus.

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
