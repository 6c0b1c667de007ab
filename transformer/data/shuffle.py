"""The order of a corpus's records: another permutation each epoch, any place of which is found at once."""

import math

from grain.experimental import index_shuffle


class Shuffle:
    """Permutations of the numbers below `length`: those of Grain's `MapDataset.shuffle`, for up to 2^62 records.

    Args:
      length: at least 1.
      seed: epochs have seeds of their own, this one and those after it; 32 bits of them count.
    """

    def __init__(self, length: int, seed: int):
        self._last, self._seed = length - 1, seed
        # Grain's cipher permutes the numbers of an even count of bits. For 2^16 + 1 records, 2^18 + 1, ... it takes two
        # bits too few, and two places would get one record: these are shuffled among twice as many.
        bits = max(math.ceil(math.log2(max(self._last, 1))), 16)
        self._among = self._last if self._last < 1 << (bits + bits % 2) else 2 * self._last

    def __call__(self, place: int, epoch: int) -> int:
        """Returns the record at `place`, from 0 up to `length`, of an epoch."""
        seed = (self._seed + epoch) % 2**32
        record = index_shuffle(place, self._among, seed, 4)
        while record > self._last:
            record = index_shuffle(record, self._among, seed, 4)
        return record
