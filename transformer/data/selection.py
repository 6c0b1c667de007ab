"""Which corpus of a mixture each sample comes from: exact proportions, no randomness, any place found at once."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


class Selection:
    """A mixture's order: sample i comes from one corpus, and is that corpus's j-th.

    The first corpus gets every so many-th of all samples, the second every so many-th of those that are left, and so
    on: of n samples, the corpora from number k on get floor(m * r[k] / r[k - 1]), where m is what those from k - 1 on
    got and r[k] is the weight of all from k on. So among the first n samples corpus k has less than 1 more than
    n * weights[k] / sum(weights), and at most k fewer (the first, less than 1; of two corpora, each is within 1). A
    weight is the decimal number that a person wrote: 0.7 is 7/10.

    This is the order of Grain's `mix`, which rounds the weights first: where they are multiples of a hundredth of the
    smallest one, it is the same sample by sample.

    Args:
      weights: relative, positive.
    """

    def __init__(self, weights: Sequence[float]):
        fractions = [Fraction(repr(float(weight))) for weight in weights]
        scale = math.lcm(*(fraction.denominator for fraction in fractions))
        whole = [int(fraction * scale) for fraction in fractions]
        common = math.gcd(*whole)
        self._shares = [share // common for share in whole]

    def select(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the corpus of each place of the mixture, and its number among that corpus's samples.

        Args:
          places: int64[n], not negative, in any order; the nearer they lie together the cheaper.
        """
        corpora = np.zeros(len(places), np.int64)
        if len(self._shares) == 1 or not len(places):
            return corpora, places
        # What corpora from the k-th on have of the samples before each place, and before the next one. Counted from the
        # first place, so that the numbers are small: its own counts are Python's integers, of any size.
        base = int(places.min())
        span = int(places.max()) - base + 2
        left = sum(self._shares)
        small = span * left < 2**62
        before = (places - base).astype(np.int64 if small else object)
        after = before + 1
        numbers = np.zeros(len(places), np.int64)
        undecided = np.ones(len(places), bool)
        for number, share in enumerate(self._shares):
            rest = left - share
            base_rest, remainder = divmod(base * rest, left)
            before_rest, after_rest = ((remainder + count * rest) // left for count in (before, after))
            chosen = undecided & (after_rest == before_rest)
            corpora[chosen] = number
            numbers[chosen] = (before[chosen] - before_rest[chosen]) + (base - base_rest)
            undecided &= ~chosen
            if not undecided.any():
                break
            before, after, base, left = before_rest, after_rest, base_rest, rest
        return corpora, numbers
