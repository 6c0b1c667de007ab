"""How often to save: often enough that a failure loses little, seldom enough that saving costs little."""

import math


def young_daly(cost: float, mtbf: float) -> float:
    """Returns the interval between saves that wastes the least time, in seconds.

    Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equation 37: Young's
    (1974) sqrt(2 cost mtbf), with two terms more; and mtbf itself where a save costs twice that or more.

    Args:
      cost: seconds that the training waits for one save.
      mtbf: mean seconds between failures.
    """
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return math.sqrt(2 * cost * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def expected_goodput(cost: float, mtbf: float, interval: float, restart: float) -> float:
    """Returns the share of a run's wall time that makes steps which last, where failures come at random.

    Daly 2006, equation 20: the expected wall time of a run, of which the solve time is this share.

    Args:
      cost: seconds that the training waits for one save.
      mtbf: mean seconds between failures.
      interval: seconds of training between saves.
      restart: seconds from a failure to the first step after it.
    """
    return interval / (mtbf * math.exp(restart / mtbf) * math.expm1((interval + cost) / mtbf))
