"""A sweep in sight: a table that follows the runs; where nobody looks, a line for each change."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from transformer.scaling.studies.sweep import CellProgress

_STYLES = {"waits": "dim", "runs": "bold", "ended": "", "failed": "red"}


@contextmanager
def live(title: str) -> Iterator[Callable[[list[CellProgress]], None]]:
    """Gives the function that shows where all runs are."""
    console = Console()
    if not console.is_terminal:
        yield _lines()
        return
    with Live(console=console, refresh_per_second=2) as screen:
        yield lambda progress: screen.update(table(title, progress))


def table(title: str, progress: list[CellProgress]) -> Table:
    """Returns the runs, a row each."""
    ended = sum(one.state == "ended" for one in progress)
    own = sum(one.cell.own_steps for one in progress)
    made = sum(_made(one) for one in progress)
    found = Table(title=f"{title}: {ended} of {len(progress)} runs, {made / own:.0%} of the updates")
    for words in ("run", ""):
        found.add_column(words)
    for number in ("updates", "loss", "tokens/s"):
        found.add_column(number, justify="right")
    for one in progress:
        loss = one.outcome.loss if one.state == "ended" else one.outcome.training_loss
        speed = one.outcome.tokens_per_second
        found.add_row(
            one.cell.name,
            one.reason if one.state == "failed" else one.state,
            f"{one.outcome.step:,} / {one.cell.steps:,}",
            f"{loss:.4f}" if loss == loss else "",
            f"{speed:,.0f}" if one.state == "runs" and speed == speed else "",
            style=_STYLES[one.state],
        )
    return found


def _made(one: CellProgress) -> int:
    """Returns the updates that a run has made itself."""
    return one.cell.own_steps if one.state == "ended" else max(one.outcome.step - (one.cell.branch or 0), 0)


def _lines() -> Callable[[list[CellProgress]], None]:
    began, seen = time.monotonic(), {}

    def show(progress: list[CellProgress]) -> None:
        for one in progress:
            if seen.get(one.cell.name, "waits") != one.state:
                loss = f", loss {one.outcome.loss:.4f}" if one.state == "ended" else ""
                why = f": {one.reason}" if one.state == "failed" else ""
                print(f"{time.monotonic() - began:7.0f} s  {one.cell.name} {one.state}{loss}{why}", file=sys.stderr)
            seen[one.cell.name] = one.state

    return show
