"""Batches by step, through Grain: shuffled by index, mixed by weight, sliced by host, prefetched by threads.

The sample at index i is a pure function of (corpora, seed, i), and the global batch of step s is samples [s*B,
(s+1)*B). So a batch does not depend on the number of hosts, and the position to resume from is the step. A sample that
is left out becomes padding in its place: all others stay where they were.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Self

import grain
import numpy as np

from transformer.data.records import Record, Records

Example = dict[str, Any]
MakeExample = Callable[[Record, np.random.Generator], Example]


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
    """An endless dataset whose element s is this host's part of the global batch of step s.

    Each corpus is shuffled anew each epoch. The part is the samples s*B + r of the stream, for the host's rows r: a
    nested dict of arrays, as `example` returns them, stacked on a first axis. No other sample is made.

    Args:
      weights: relative, positive; a sample comes from corpus k with frequency weights[k] / sum(weights).
      example: called with a record and a generator that depends on (seed, record, epoch) alone.
      batch_size: B, over all hosts.
      copies: the epochs after which the examples repeat: epoch e makes those of epoch e mod `copies`, in another order.
        None: never.
      skip: places in the sample stream that are left out: padding, to which `example` gives weight 0, is there instead.
      rows: the rows of a global batch that this host needs, rising numbers below B; None: all of them.
    """
    example_seed, *_ = _seeds(seed, len(corpora))
    samples = _stream(
        corpora,
        weights,
        seed,
        [_Make(corpus, example, (example_seed, number), copies) for number, corpus in enumerate(corpora)],
    )
    if skip:
        padding = _padding(corpora[0], np.random.default_rng(0), example)
        samples = samples.map_with_index(_LeaveOut(frozenset(skip), padding))
    return _host_part(samples, batch_size, rows)


class Origin(NamedTuple):
    """Where a sample comes from."""

    corpus: int
    """Which of the corpora."""
    record: int
    """Which of its records."""
    epoch: int
    """How often all of the corpus was read before."""


def origins(corpora: Sequence[Records], weights: Sequence[float], *, seed: int) -> grain.MapDataset:
    """An endless dataset whose element i is the `Origin` of sample i of `train_batches`; reads no record."""
    return _stream(corpora, weights, seed, [_Find(number, len(corpus)) for number, corpus in enumerate(corpora)])


def _stream(
    corpora: Sequence[Records],
    weights: Sequence[float],
    seed: int,
    makers: Sequence[Callable[[int, int], Any]],
) -> grain.MapDataset:
    """The mixed stream of what each corpus's maker makes of (place in the corpus's own endless stream, record)."""
    _, *corpus_seeds = _seeds(seed, len(corpora))
    streams = [
        grain.MapDataset.range(len(corpus)).shuffle(seed=corpus_seed).repeat().map_with_index(maker)
        for corpus, corpus_seed, maker in zip(corpora, corpus_seeds, makers, strict=True)
    ]
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, list(weights))


def _seeds(seed: int, corpora: int) -> list[int]:
    """Seeds of their own, of the examples and of each corpus's shuffle.

    So two corpora of one length are not shuffled alike, and masks do not follow the shuffle.
    """
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(1 + corpora)]


class _Find:
    """The origin of a place of an endless stream of one corpus's records, epoch after epoch."""

    def __init__(self, corpus: int, records: int):
        self._corpus, self._records = corpus, records

    def __call__(self, place: int, index: int) -> Origin:
        return Origin(self._corpus, int(index), place // self._records)


class _LeaveOut:
    """The samples, but padding at some places."""

    def __init__(self, places: frozenset[int], padding: Example):
        self._places, self._padding = places, padding

    def __call__(self, place: int, sample: Example) -> Example:
        return self._padding if place in self._places else sample


class _Make:
    """The example at a place of an endless stream of one corpus's records, epoch after epoch."""

    def __init__(self, corpus: Records, example: MakeExample, seed: tuple[int, int], copies: int | None):
        self._corpus, self._example, self._seed, self._copies = corpus, example, seed, copies

    def __call__(self, place: int, index: int) -> Example:
        epoch = place // len(self._corpus)
        copy = epoch if self._copies is None else epoch % self._copies
        rng = np.random.default_rng((*self._seed, int(index), copy))
        return self._example(self._corpus.draw(int(index), rng), rng)


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
    padded = _Padded(records, batch_size)
    samples = grain.MapDataset.range(len(padded)).map(lambda index: padded.example(int(index), example))
    return _host_part(samples, batch_size, rows)


def _host_part(samples: grain.MapDataset, batch_size: int, rows: Sequence[int] | np.ndarray | None) -> grain.MapDataset:
    if rows is None:
        return samples.batch(batch_size, drop_remainder=True)
    if len(rows) == 0:
        raise ValueError("a host without rows")
    places = grain.MapDataset.range(len(samples) // batch_size * len(rows))
    return places.map(_Pick(samples, batch_size, tuple(map(int, rows)))).batch(len(rows), drop_remainder=True)


class _Pick:
    """The samples of a host, by their place in the stream of those that it needs."""

    def __init__(self, samples: grain.MapDataset, batch_size: int, rows: tuple[int, ...]):
        self._samples, self._batch_size, self._rows = samples, batch_size, rows

    def __call__(self, place: int) -> Example:
        batch, row = divmod(int(place), len(self._rows))
        return self._samples[batch * self._batch_size + self._rows[row]]


class _Padded:
    """`records`, filled up with padding to a whole number of batches."""

    def __init__(self, records: Records, batch_size: int):
        self._records = records
        self._length = -(-len(records) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def example(self, index: int, make: MakeExample) -> Example:
        rng = np.random.default_rng(index)
        if index < len(self._records):
            return make(self._records.draw(index, rng), rng)
        return _padding(self._records, rng, make)


def _padding(records: Records, rng: np.random.Generator, make: MakeExample) -> Example:
    """The example of a record that is all padding (segment 0)."""
    return make({name: np.zeros_like(value) for name, value in records.draw(0, rng).items()}, rng)


class Batches(Iterator[Example]):
    """An iterator over batches whose background threads stop at `close`, or at the end of a `with` block."""

    def __init__(self, iterator: grain.DatasetIterator):
        self._iterator = iterator

    def __next__(self) -> Example:
        return next(self._iterator)

    def close(self) -> None:
        """Stops the threads, after the batches that they are making; may be called again."""
        self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iterate(dataset: grain.MapDataset, start_step: int, *, prefetch: int = 4, threads: int = 1) -> Batches:
    """The batches of `dataset` from `start_step` on, made ahead by background threads; seeking costs nothing.

        with iterate(dataset, start_step=1000) as batches:
            for batch in batches: ...

    Leaving the block stops the threads, also by an exception or Ctrl-C.

    Args:
      prefetch: batches made ahead, at most.
      threads: how many of them at a time.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return Batches(iter(dataset[start_step:].to_iter_dataset(options)))
