"""Units of N, D and C: refused where they contradict each other, warned of where they look odd.

- A run's C over 300 times more or less than 6 N D: refused. Over 10 times, in the median run: a warning.
- More than 1e10 tokens per parameter in the median run (N in millions beside FLOPs): refused. More than 1e6, or fewer
  than a thousandth: a warning.
- A median N below 1e4, or a median loss above 20 (a perplexity?): a warning.
"""

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.table import RunTable
from transformer.scaling.laws.warned import Warned

_WORDS = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}


def check(path: str, table: RunTable) -> list[Warned]:
    """Returns warnings about units that look odd.

    Raises:
      UserError: N, D and C contradict each other.
    """
    warned = []
    off = np.log10(table.flops) - np.log10(6) - np.log10(table.params) - np.log10(table.tokens)
    worst = int(np.argmax(np.abs(off)))
    if abs(off[worst]) > np.log10(300):
        middle = float(np.median(off))
        where = f"{path}, {table.names[worst]}" if abs(middle) < 1 else path
        value = off[worst] if abs(middle) < 1 else middle
        unit = 3 * round(abs(value) / 3)
        hint = f"N or D look like {_WORDS[unit]}" if value > 0 and unit in _WORDS else "one of them has another unit"
        raise UserError(
            f"{where}: C is {10**value:.2g} times 6 N D: {hint}; give parameters, tokens and FLOPs themselves, or "
            "--flops 6ND to leave the column of C out"
        )
    ratio = float(np.median(np.log10(table.tokens) - np.log10(table.params)))
    if ratio > 10:
        raise UserError(
            f"{path}: the median run reads {10**ratio:.2g} tokens per parameter: N is in another unit, such as "
            "millions; give parameters, tokens and FLOPs themselves"
        )
    if not -3 < ratio < 6:
        which = "N" if ratio > 0 else "D, or C,"
        line = f"the median run reads {10**ratio:.2g} tokens per parameter: is {which} in another unit?"
        warned.append(Warned("units", line))
    if abs(middle := float(np.median(off))) > 1:
        line = f"C is {10**middle:.2g} times 6 N D in the median run: is it counted otherwise, or in another unit?"
        warned.append(Warned("units", line))
    if np.median(table.params) < 1e4:
        line = f"N is {table.params.min():.3g} to {table.params.max():.3g}: is it in millions? Budgets are 6 N D FLOPs"
        warned.append(Warned("units", line))
    if np.median(table.loss) > 20:
        warned.append(Warned("units", f"the median loss is {np.median(table.loss):.3g}: is it a perplexity?"))
    return warned
