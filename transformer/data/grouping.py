"""Samples of like lengths in a batch, so that little of it is padding.

Within a window of batches the samples are sorted by length, and the batches then shuffled: each sample is read once, as
without, and which batch it is in follows from seed and place alone. The width of a batch is its longest sample's,
rounded up to one of a few, each of which is a compiled program.
"""

import functools
from collections.abc import Callable

import numpy as np

WINDOW = 50
"""Batches of a window: enough that neighbours in length share one."""
_WIDTHS = 4
_MULTIPLE = 32


def width_of(longest: int, most: int) -> int:
    """Returns the width of a batch: one of four at most, multiples of 32 but for the last.

    Args:
      longest: tokens of its longest sample.
      most: tokens that a sample may have.
    """
    step = -(-most // (_WIDTHS * _MULTIPLE)) * _MULTIPLE
    return min(most, -(-longest // step) * step)


class Grouping:
    """The order of an endless stream in which a batch's samples are of like lengths.

    Args:
      lengths: returns the lengths of samples by their places in the stream, int64[n] each.
      batch_size: samples of a batch.
      seed: of the batches' order.
    """

    def __init__(self, lengths: Callable[[np.ndarray], np.ndarray], batch_size: int, seed: int):
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._order = functools.lru_cache(maxsize=4)(self._ordered)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Returns the places in the stream, int64[n], of the samples that stand at `places` in this order."""
        windows, within = np.divmod(places, WINDOW * self._batch_size)
        return np.array(
            [self._order(window)[place] for window, place in zip(windows.tolist(), within.tolist(), strict=True)],
            np.int64,
        )

    def _ordered(self, window: int) -> np.ndarray:
        size = WINDOW * self._batch_size
        places = np.arange(window * size, (window + 1) * size)
        batches = places[np.argsort(self._lengths(places), kind="stable")].reshape(WINDOW, self._batch_size)
        return np.random.default_rng([self._seed, window]).permutation(batches).reshape(-1)

    def __reduce__(self):
        return Grouping, (self._lengths, self._batch_size, self._seed)
