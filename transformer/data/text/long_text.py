"""Documents of any length to the ids of their whole text, in bounded memory.

A text is not encoded like its parts, one after the other: tokenizers put a space before a text, strip its ends, and
have pieces that lie across any cut. So a long document is cut where its tokenizer knows that ids do not change by it:
bytes anywhere, the models that are trained here wherever no piece of the vocabulary could lie across. Where a tokenizer
does not know, the document is encoded in windows that overlap, and two windows are joined at a place where both have
the same tokens, and where nothing beyond them can change that:

- between two words of the pre-tokenizer, which splits the text before the model sees it; or
- where the tokenizer says that the boundary is settled. In BPE every one is: a list of tokens is a text's encoding if
  each two neighbours are the encoding of theirs, because a merge across a boundary would happen in the pair alone too.
  A unigram model takes the best of all paths, so there no piece may lie across: every path goes through the boundary.

Where there is no such place, the windows become one.

A unigram model's sums are rounded, and of two paths that are equal but for rounding it takes one or the other by what
comes before. So such models encode documents whole up to `Windowing.whole`; beyond, the paths are as good, and which of
equal ones is taken depends on the text since the cut, or the window's start.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from transformer.data.text.pieces import Piece
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Spans, Tokenizer

_BATCH_CHARS = 4 << 20  # text in memory at a time; enough to keep the tokenizer's threads busy
_BATCH_PARTS = 1 << 14


class Encoded(NamedTuple):
    """Ids of a document, or of a part of one; the parts follow each other."""

    ids: np.ndarray
    """int32[tokens]."""
    text: bytes
    """What they encode, as UTF-8."""
    ends_document: bool


class Windowing(NamedTuple):
    """How long documents are cut."""

    window: int = 1 << 18
    """Characters of a window. SentencePiece's BPE slows down beyond: its queue no longer fits the processor's cache."""
    overlap: int = 1 << 12
    """Characters that a window shares with the next, and among which a cut is looked for."""
    whole: int = 1 << 22
    """Characters of a document up to which a model that sums scores encodes it whole."""
    most: int = 1 << 26
    """Characters of the longest window, where no shorter one has a place to cut or to join."""
    run: int = 8
    """Tokens that two windows have in common on either side of the place where they are joined."""


def encode_documents(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    name: str,
    *,
    batch_parts: int = _BATCH_PARTS,
    windowing: Windowing = Windowing(),
) -> Iterator[list[Encoded]]:
    """The ids of each document, equal to `tokenizer.encode(document)`, in batches that the library's threads share.

    Args:
      pieces: documents, whole or in parts.
      tokenizer: the tokenizer.
      name: of the corpus, for messages.
      batch_parts: the most documents, and windows of long ones, encoded at a time.
      windowing: how long documents are cut.

    Raises:
      UserError: a document of more than `windowing.most` characters that cannot be cut anywhere.
    """
    joiner = _Joiner(tokenizer, name, windowing)
    for batch in _batches(_windows(pieces, tokenizer, windowing), batch_parts):
        whole = iter(tokenizer.encode_batch([part.text for part in batch if part.is_whole]))
        spans = iter(tokenizer.encode_spans([part.text for part in batch if not part.is_whole]))
        encoded: list[Encoded] = []
        for part in batch:
            if part.is_whole:
                encoded.append(Encoded(next(whole), part.text.encode(), part.ends_document))
            else:
                encoded += joiner.add(part, next(spans))
        if encoded:
            yield encoded


class _Window(NamedTuple):
    text: str
    start: int
    """The place of its first character in the document."""
    opens: bool
    """Whether its first token does not depend on what is before: it starts a document, or at a cut."""
    closes: bool
    """Whether its last token does not depend on what is after."""
    ends_document: bool

    @property
    def is_whole(self) -> bool:
        return self.opens and self.closes


def _windows(pieces: Iterable[Piece], tokenizer: Tokenizer, windowing: Windowing) -> Iterator[_Window]:
    """Yields the windows of each document; they depend on its text alone, not on the pieces that it comes in."""
    parts: list[str] = []
    held = 0  # characters in `parts`
    cutter = _Cutter(tokenizer, windowing)
    for text, ends_document in pieces:
        parts.append(text)
        held += len(text)
        if ends_document or held > 2 * cutter.longest:
            rest = yield from cutter.cut("".join(parts), ends_document)
            parts, held = [rest], len(rest)


class _Cutter:
    """Cuts one document after the other, each from its front."""

    def __init__(self, tokenizer: Tokenizer, windowing: Windowing):
        self._tokenizer, self._windowing = tokenizer, windowing
        self.longest = max(windowing.whole, windowing.window) if tokenizer.sums_scores else windowing.window
        self._start, self._opens = 0, True

    def cut(self, text: str, ends_document: bool) -> Generator[_Window, None, str]:
        """Yields the next windows, cut off the front of `text`; returns what is left of it."""
        window, overlap = self._windowing.window, self._windowing.overlap
        place = 0
        # The first decides: a document that is not longer is encoded whole, the others in windows to their end.
        while len(text) - place > (self.longest if self._start == 0 else window):
            stop = place + window
            cut = self._tokenizer.cut(text, stop - overlap, stop)
            yield _Window(text[place : cut or stop], self._start, self._opens, cut is not None, ends_document=False)
            self._opens = cut is not None
            next_place = stop - overlap if cut is None else cut
            self._start += next_place - place
            place = next_place
        if not ends_document:
            return text[place:]
        yield _Window(text[place:], self._start, self._opens, closes=True, ends_document=True)
        self._start, self._opens = 0, True
        return ""


def _batches(windows: Iterable[_Window], most: int) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    chars = 0
    for window in windows:
        batch.append(window)
        chars += len(window.text)
        if chars >= _BATCH_CHARS or len(batch) >= most:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


class _Joiner:
    """Joins the windows of a long document as they come; holds the last of them."""

    def __init__(self, tokenizer: Tokenizer, name: str, windowing: Windowing):
        self._tokenizer, self._name, self._windowing = tokenizer, name, windowing
        self._text, self._start = "", 0  # the window that is held, and its place in the document
        self._spans: Spans | None = None  # its tokens; None while it is being widened
        self._first = 0  # the first of its tokens that was not given out yet
        self._done = 0  # the place in the document where that token starts
        self._wanted = 0  # characters to widen to before the next try

    def add(self, window: _Window, spans: Spans) -> Iterator[Encoded]:
        """Yields the ids that the next window settles."""
        spans = spans.moved(window.start)
        if window.opens:
            self._hold(window, spans, first=0, done=window.start)
            return
        if self._spans is None and len(self._text) >= self._wanted:
            self._spans = self._encode_held()
        place = self._find_place(self._spans, spans, window) if self._spans is not None else None
        if place is not None:
            yield self._give(place.left, place.start)
            self._hold(window, spans, first=place.right, done=place.start)
        else:
            self._widen(window)
        if window.closes:
            if self._spans is None:
                self._spans = self._encode_held()
            yield self._give(len(self._spans.ids), self._start + len(self._text), window.ends_document)

    def _hold(self, window: _Window, spans: Spans, *, first: int, done: int) -> None:
        self._text, self._start, self._spans = window.text, window.start, spans
        self._first, self._done = first, done

    def _give(self, last: int, until: int, ends_document: bool = False) -> Encoded:
        assert self._spans is not None
        text = self._text[self._done - self._start : until - self._start]
        return Encoded(self._spans.ids[self._first : last], text.encode(), ends_document)

    def _widen(self, window: _Window) -> None:
        if self._spans is not None:
            self._spans, self._wanted = None, 2 * len(self._text)  # doubled: all tries together cost two of the last
        self._text += window.text[self._start + len(self._text) - window.start :]
        if len(self._text) > self._windowing.most:
            raise self._uncuttable()

    def _encode_held(self) -> Spans:
        [spans] = self._tokenizer.encode_spans([self._text])
        spans = spans.moved(self._start)
        if self._done > self._start:
            starts, tokens = spans.boundaries()
            here = np.flatnonzero(starts == self._done)
            if not len(here):  # the pre-tokenizer's words depend on text that is far away
                raise self._uncuttable()
            self._first = int(tokens[here[0]])
        return spans

    def _uncuttable(self) -> UserError:
        return UserError(
            f"{self._name}: a document of more than {self._windowing.window:,} characters has no place where this "
            "tokenizer surely ends a token. Cut the document, or take another --data.tokenizer."
        )

    def _find_place(self, left: Spans, right: Spans, window: _Window) -> "_Place | None":
        """Returns the place nearest to the middle of the overlap where both surely have the same tokens, if any."""
        starts, left_tokens = left.boundaries()
        right_starts, right_tokens = right.boundaries()
        common, in_left, in_right = np.intersect1d(starts, right_starts, assume_unique=True, return_indices=True)
        middle = (window.start + self._start + len(self._text)) / 2
        for i in np.argsort(np.abs(common - middle), kind="stable").tolist():
            place = _Place(int(common[i]), int(left_tokens[in_left[i]]), int(right_tokens[in_right[i]]))
            if place.start > self._done and self._is_sure(left, right, place):
                return place
        return None

    def _is_sure(self, left: Spans, right: Spans, place: "_Place") -> bool:
        run = self._windowing.run
        if not left.around(place.left, run).equals(right.around(place.right, run), 2 * run):
            return False
        if left.ends_word(place.left) and right.ends_word(place.right):
            return True
        return self._tokenizer.settles(*left.ids[place.left - 1 : place.left + 1].tolist())


class _Place(NamedTuple):
    start: int
    """Where the windows are joined, in the document."""
    left: int
    """The first token after it, in the window on the left."""
    right: int
    """The same token in the window on the right."""
