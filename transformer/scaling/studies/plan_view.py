"""A plan in lines, for people: the runs, what they cost, and how much they will tell."""

from collections.abc import Callable

from transformer.scaling.studies import simulate
from transformer.scaling.studies.plan import Planned

SIMULATED = 40
"""Number of studies that are simulated."""
_STARTING = 8.0
"""Seconds of a run that are not updates, on a core."""


def table(planned: Planned, seconds: dict[int, float], jobs: int) -> list[str]:
    """Returns the runs, a line each, and their total cost.

    Args:
      planned: the study.
      seconds: N -> seconds of an update, on one of `jobs` runs' share of the machine; empty: not known.
      jobs: runs at a time.
    """
    study = planned.study
    timed = "minutes" if seconds else ""
    lines = [
        f"{study.preset}: {len(study.cells)} runs; C by {study.convention}, N {study.size}",
        f"  {'run':24}{'N':>12}{'D':>16}{'D/N':>8}{'updates':>9}{'own':>8}{'rate':>10}{timed:>9}",
    ]
    minutes = 0.0
    for cell in study.cells:
        mine = cell.own_steps * seconds[cell.params] / 60 if seconds else 0.0
        minutes += mine + _STARTING / 60
        took = f"{mine:.1f}" if seconds else ""
        rate = planned.experiments[cell.name].optimizer.learning_rate
        lines.append(
            f"  {cell.name:24}{cell.params:>12,}{cell.tokens:>16,}{cell.tokens / cell.params:>8.1f}{cell.steps:>9,}"
            f"{cell.own_steps:>8,}{rate:>10.2g}{took:>9}{'  held out' if cell.held_out else ''}"
        )
    own = sum(cell.flops * cell.own_steps / cell.steps for cell in study.cells)
    alone = sum(cell.flops for cell in study.cells)
    saved = f" ({1 - own / alone:.0%} saved: shorter runs are cooled down from longer ones)" if own < alone else ""
    lines.append(f"  in all {own:.3g} FLOPs{saved}")
    if seconds:
        lines.append(f"  about {minutes / jobs:,.0f} minutes with --jobs {jobs}")
    return lines


def tells(planned: Planned, progress: Callable[[], object] = lambda: None) -> list[str]:
    """Returns the lines about how much the study will tell, by `SIMULATED` simulations; calls `progress` after each."""
    expected = simulate.expected(planned.study.cells, count=SIMULATED, progress=progress)
    what = "the held-out budget" if any(cell.held_out for cell in planned.study.cells) else "ten times the budget"
    failed = f"; {expected.failed} of {SIMULATED} could not be fitted" if expected.failed else ""
    return [
        f"if losses followed Chinchilla's law with {simulate.NOISE:.1%} between seeds, 95 % of such studies would be",
        f"  within {expected.loss:.2%} of the best loss of {what}, {expected.params:.0%} of its best size,",
        f"  {expected.a:.3f} of the exponent of N*{failed}",
    ]
