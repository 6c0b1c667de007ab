"""Batches by step, through Grain: shuffled by index, mixed by weight, sliced by host, made ahead in the background.

The sample at index i is a pure function of (corpora, seed, i), and the global batch of step s is samples [s*B,
(s+1)*B). So a batch does not depend on the number of hosts, and the position to resume from is the step. A sample that
is left out becomes padding in its place: all others stay where they were.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import grain
import numpy as np

from transformer.data.generators import generators
from transformer.data.grouping import Grouping, width_of
from transformer.data.records import LengthRecords, Record, Records, stack
from transformer.data.selection import Selection
from transformer.data.shuffle import Shuffle
from transformer.data.workers import WorkerBatches

Example = dict[str, Any]
MakeExample = Callable[[Record, np.random.Generator], Example]


@runtime_checkable
class MakesBatches(Protocol):
    """A `MakeExample` that makes many examples in one go, the same ones."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Example: ...

    def batch(self, records: Record, rngs: Sequence[np.random.Generator]) -> Example:
        """Returns the examples of `records`, stacked; example i depends on record i and generator i alone."""
        ...


@runtime_checkable
class CutsBatches(Protocol):
    """A `MakeExample` whose batches can be made narrower, where the records' lengths are known."""

    @property
    def most(self) -> int:
        """The tokens that an example may have."""
        ...

    def cut(self, batch: Example, width: int) -> Example:
        """Returns a batch without what is beyond its first `width` tokens, all of it padding."""
        ...


def train_batches(
    corpora: Sequence[Records],
    weights: Sequence[float],
    *,
    example: MakeExample,
    batch_size: int,
    seed: int,
    copies: int | None = None,
    skip: Collection[int] = (),
    rows: Sequence[int] | np.ndarray | None = None,
) -> grain.MapDataset:
    """Returns an endless dataset whose element s is this host's part of the global batch of step s.

    Each corpus is shuffled anew each epoch. Where records know their lengths, those of like lengths share a batch,
    which is as narrow as its longest allows (`transformer.data.grouping`).

    The part is the samples s*B + r of the stream, for the host's rows r: a nested dict of arrays, as `example` returns
    them, stacked on a first axis. No other sample is made.

    Args:
      weights: relative, positive; a sample comes from corpus k with frequency weights[k] / sum(weights).
      example: called with a record and a generator that depends on (seed, record, epoch) alone.
      batch_size: B, over all hosts.
      copies: the epochs after which the examples repeat: epoch e makes those of epoch e mod `copies`, in another order.
        None: never.
      skip: places in the sample stream that are left out: padding, to which `example` gives weight 0, is there instead.
      rows: the rows of a global batch that this host needs, rising numbers below B; None: all of them.
    """
    samples = _Training(_Stream(corpora, weights, seed, batch_size), example, seed, copies, skip)
    return _host_part(samples, batch_size, rows)


class SampleOrigin(NamedTuple):
    """Where a sample comes from."""

    corpus: int
    """Which of the corpora."""
    record: int
    """Which of its records."""
    epoch: int
    """How often all of the corpus was read before."""


def origins(corpora: Sequence[Records], weights: Sequence[float], *, seed: int, batch_size: int) -> grain.MapDataset:
    """Returns an endless dataset of the `SampleOrigin` of each sample of `train_batches`; reads no record."""
    return grain.MapDataset.range(sys.maxsize).map(_FindOrigin(_Stream(corpora, weights, seed, batch_size)))


class _Stream:
    """Where the samples come from: each corpus shuffled anew each epoch, mixed, and grouped by length."""

    def __init__(self, corpora: Sequence[Records], weights: Sequence[float], seed: int, batch_size: int):
        self.corpora = corpora
        self._selection = Selection(weights)
        own, *seeds = _seeds(seed, len(corpora))
        self._shuffles = [Shuffle(len(corpus), seed) for corpus, seed in zip(corpora, seeds, strict=True)]
        self.has_lengths = all(isinstance(corpus, LengthRecords) for corpus in corpora)
        self._grouping = Grouping(self._ungrouped_lengths, batch_size, own) if self.has_lengths else None

    def find(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the corpora, records and epochs (see `SampleOrigin`) of the samples at `places`, int64[n] each."""
        return self._find(places if self._grouping is None else self._grouping(places))

    def longest(self, places: np.ndarray) -> int:
        """Returns the length of the longest of some samples, whose lengths are known."""
        return int(self._lengths(*self.find(places)).max())

    def _ungrouped_lengths(self, places: np.ndarray) -> np.ndarray:
        return self._lengths(*self._find(places))

    def _lengths(self, corpora: np.ndarray, records: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        del epochs
        lengths = np.zeros(len(corpora), np.int64)
        for number, corpus in enumerate(self.corpora):
            assert isinstance(corpus, LengthRecords)
            lengths[corpora == number] = corpus.lengths[records[corpora == number]]
        return lengths

    def _find(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        corpora, numbers = self._selection.select(places)
        lengths = np.array([len(corpus) for corpus in self.corpora])[corpora]
        epochs, within = np.divmod(numbers, lengths)
        samples = zip(corpora.tolist(), within.tolist(), epochs.tolist(), strict=True)
        records = [self._shuffles[corpus](place, epoch) for corpus, place, epoch in samples]
        return corpora, np.array(records, np.int64), epochs


def _seeds(seed: int, corpora: int) -> list[int]:
    """Seeds of their own, of the examples and of each corpus's shuffle.

    So two corpora of one length are not shuffled alike, and masks do not follow the shuffle.
    """
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(1 + corpora)]


class _FindOrigin:
    """The origin of a sample, by its place."""

    def __init__(self, stream: _Stream):
        self._stream = stream

    def __call__(self, place: int) -> SampleOrigin:
        return SampleOrigin(*(int(values[0]) for values in self._stream.find(np.array([place]))))


class _Samples(Protocol):
    """Samples by their place; all of one shape."""

    def __len__(self) -> int: ...

    def batch(self, places: np.ndarray) -> Example:
        """Returns the samples at `places`, int64[n], stacked."""
        ...

    def narrow(self, batch: Example, whole: np.ndarray) -> Example:
        """Returns a batch as wide as it must be for the samples at `whole`, int64[n], which other hosts have too."""
        ...


class _Training:
    """The endless stream of training samples."""

    def __init__(self, stream: _Stream, example: MakeExample, seed: int, copies: int | None, skip: Collection[int]):
        self._stream, self._example, self._copies = stream, example, copies
        self._seed, *_ = _seeds(seed, len(stream.corpora))
        self._skip = np.array(sorted(set(skip)), np.int64)

    def __len__(self) -> int:
        return sys.maxsize

    def batch(self, places: np.ndarray) -> Example:
        left_out = np.isin(places, self._skip)
        corpora, records, epochs = self._stream.find(places)
        copies = epochs if self._copies is None else epochs % self._copies
        parts = []
        for number, corpus in enumerate(self._stream.corpora):
            rows = np.flatnonzero((corpora == number) & ~left_out)
            if len(rows):
                rngs = generators(self._seed, number, records[rows], copies[rows])
                parts.append((rows, _make(corpus, records[rows], rngs, self._example)))
        rows = np.flatnonzero(left_out)
        if len(rows):
            padding = _padding(self._stream.corpora[0], np.random.default_rng(0), self._example)
            parts.append((rows, stack([padding] * len(rows))))
        return _assemble(parts, len(places))

    def narrow(self, batch: Example, whole: np.ndarray) -> Example:
        if not self._stream.has_lengths or not isinstance(self._example, CutsBatches):
            return batch
        return self._example.cut(batch, width_of(self._stream.longest(whole), self._example.most))


def _make(records: Records, indices: np.ndarray, rngs: Sequence[np.random.Generator], example: MakeExample) -> Example:
    """Returns the examples of some records, each with its generator, stacked."""
    if isinstance(example, MakesBatches):
        return example.batch(records.draw_many(indices, rngs), rngs)
    return stack([example(records.draw(i, rng), rng) for i, rng in zip(indices.tolist(), rngs, strict=True)])


def _assemble(parts: Sequence[tuple[np.ndarray, Example]], size: int) -> Example:
    """One batch of `size` rows out of several: each part has its rows."""
    if len(parts) == 1:
        return parts[0][1]  # all rows, in order

    def assemble(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: assemble([value[name] for value in values]) for name in values[0]}
        whole = np.empty((size, *values[0].shape[1:]), values[0].dtype)
        for (rows, _), value in zip(parts, values, strict=True):
            whole[rows] = value
        return whole

    return assemble([part for _, part in parts])


def eval_batches(
    records: Records,
    *,
    example: MakeExample,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
) -> grain.MapDataset:
    """Every record once, in order, as this host's parts of ceil(records / B) global batches.

    The last batch is filled up with records that are all padding (segment 0), to which `example` gives weight 0: shapes
    never change and sums are exact. Iterate over it with `iterate(dataset, 0)`, any number of times: the batches are
    the same each time, and so is what they hide.
    """
    return _host_part(_Evaluation(records, example, batch_size), batch_size, rows)


def _host_part(samples: _Samples, batch_size: int, rows: Sequence[int] | np.ndarray | None) -> grain.MapDataset:
    """Returns the rows of a host of each batch of `samples`, by batch; None: all of them."""
    held = np.arange(batch_size) if rows is None else np.asarray(rows)
    return grain.MapDataset.range(len(samples) // batch_size).map(_Rows(samples, batch_size, held))


class _Rows:
    """Some rows of each batch."""

    def __init__(self, samples: _Samples, batch_size: int, rows: np.ndarray):
        self._samples, self._batch_size, self._rows = samples, batch_size, rows

    def __call__(self, batch: int) -> Example:
        first = batch * self._batch_size
        rows = self._samples.batch(first + self._rows)
        return self._samples.narrow(rows, np.arange(first, first + self._batch_size))


class _Evaluation:
    """Examples of `records` in order, filled up with padding to a whole number of batches."""

    def __init__(self, records: Records, example: MakeExample, batch_size: int):
        self._records, self._example = records, example
        self._length = -(-len(records) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def batch(self, places: np.ndarray) -> Example:
        rngs, count = generators(places), int((places < len(self._records)).sum())
        parts = []
        if count:
            parts.append((np.arange(count), _make(self._records, places[:count], rngs[:count], self._example)))
        if count < len(places):
            padding = [_padding(self._records, rng, self._example) for rng in rngs[count:]]
            parts.append((np.arange(count, len(places)), stack(padding)))
        return _assemble(parts, len(places))

    def narrow(self, batch: Example, whole: np.ndarray) -> Example:
        records, example = self._records, self._example
        if not isinstance(records, LengthRecords) or not isinstance(example, CutsBatches):
            return batch
        longest = int(records.lengths[whole[whole < len(records)]].max())
        return example.cut(batch, width_of(longest, example.most))


def _padding(records: Records, rng: np.random.Generator, make: MakeExample) -> Example:
    """Returns the example of a record that is all padding (segment 0)."""
    return make({name: np.zeros_like(value) for name, value in records.draw(0, rng).items()}, rng)


class Batches(Iterator[Example]):
    """An iterator over batches whose threads and processes stop at `close`, or at the end of a `with` block."""

    def __init__(self, iterator: grain.DatasetIterator | WorkerBatches):
        self._iterator = iterator

    def __next__(self) -> Example:
        return next(self._iterator)

    def close(self) -> None:
        """Stops the threads, after the batches that they are making, and the processes at once; may be called again."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iterate(
    dataset: grain.MapDataset, start_step: int, *, prefetch: int = 4, threads: int = 1, workers: int = 0
) -> Batches:
    """Returns the batches of `dataset` from `start_step` on, made ahead in the background; seeking costs nothing.

        with iterate(dataset, start_step=1000) as batches:
            for batch in batches: ...

    Leaving the block stops what makes them, also by an exception or Ctrl-C.

    Args:
      prefetch: batches made ahead, at most; each worker has one more.
      threads: how many of them at a time, by this process.
      workers: processes that make them instead; 0: none.
    """
    if workers:
        return Batches(WorkerBatches(dataset, start_step, workers=workers, ahead=prefetch))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return Batches(iter(dataset[start_step:].to_iter_dataset(options)))
