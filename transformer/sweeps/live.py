"""Live view of many runs: a table that follows the runs on a terminal, elsewhere a line for each change."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from transformer.sweeps.runner import CellProgress

_STYLES = {"waits": "dim", "runs": "bold", "ended": "", "failed": "red"}


@contextmanager
def live(title: str) -> Iterator[Callable[[list[CellProgress]], None]]:
    """Yields a function that shows the state of all runs."""
    console = Console()
    if not console.is_terminal:
        yield _lines()
        return
    with Live(console=console, refresh_per_second=2) as screen:
        yield lambda progress: screen.update(table(title, progress))


def table(title: str, progress: list[CellProgress]) -> Table:
    """Returns a table of the runs, a row each."""
    ended = sum(run.state == "ended" for run in progress)
    own = sum(run.cell.own_steps for run in progress)
    updates = sum(_made(run) for run in progress)
    rows = Table(title=f"{title}: {ended} of {len(progress)} runs, {updates / own:.0%} of the updates")
    for words in ("run", ""):
        rows.add_column(words)
    for number in ("updates", "loss", "tokens/s"):
        rows.add_column(number, justify="right")
    for run in progress:
        loss = run.outcome.loss if run.state == "ended" else run.outcome.training_loss
        speed = run.outcome.tokens_per_second
        rows.add_row(
            run.cell.name,
            run.reason if run.state == "failed" else run.state,
            f"{run.outcome.step:,} / {run.cell.steps:,}",
            f"{loss:.4f}" if loss == loss else "",
            f"{speed:,.0f}" if run.state == "runs" and speed == speed else "",
            style=_STYLES[run.state],
        )
    return rows


def _made(run: CellProgress) -> int:
    """Returns the updates that a run has made itself."""
    return run.cell.own_steps if run.state == "ended" else max(run.outcome.step - (run.cell.branch or 0), 0)


def _lines() -> Callable[[list[CellProgress]], None]:
    began, seen = time.monotonic(), {}

    def show(progress: list[CellProgress]) -> None:
        for run in progress:
            if seen.get(run.cell.name, "waits") != run.state:
                loss = f", loss {run.outcome.loss:.4f}" if run.state == "ended" else ""
                why = f": {run.reason}" if run.state == "failed" else ""
                print(f"{time.monotonic() - began:7.0f} s  {run.cell.name} {run.state}{loss}{why}", file=sys.stderr)
            seen[run.cell.name] = run.state

    return show
