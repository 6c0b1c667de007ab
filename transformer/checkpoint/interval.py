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
