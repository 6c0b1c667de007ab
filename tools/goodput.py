"""Where the time of a run went: python tools/goodput.py RUN [--json] [--plot goodput.png]."""

import dataclasses
import datetime
import json
import sys
from typing import TYPE_CHECKING, Any

import tyro

from transformer import command, drawing
from transformer.errors import UserError

if TYPE_CHECKING:
    from transformer.training.goodput import Account, Part

COLOURS = {
    "step": "#009e73",
    "redone": "#d55e00",
    "compile": "#0072b2",
    "data": "#f0e442",
    "save": "#cc79a7",
    "evaluation": "#56b4e9",
    "restore": "#e69f00",
    "start": "#999999",
    "exit": "#666666",
    "down": "#000000",
}
"""Category -> colour (Okabe and Ito 2008: all eyes tell them), and greys for the beginning and the end."""
MOST_BARS = 60
"""Number of starts above which a picture is of a folder that keeps failing, and its bars get too thin to read."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Show which share of a run's wall time made steps which last, and where the rest went, over all its starts."""

    run: tyro.conf.Positional[str]
    """A run folder, also of a run that goes on."""
    json: bool = False
    """Print one JSON object instead of tables."""
    plot: str | None = None
    """A picture to draw as well, .png, .svg or .pdf: a bar for each start, along the wall time."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/goodput.py")
    figure = None if flags.plot is None else drawing.new_figure(9, 3, flags.plot, "--plot")
    from transformer.training.goodput import account, damaged, read
    from transformer.training.run import Run

    run = Run(flags.run)
    if not run.experiment_path.exists():
        raise UserError(f"{run.folder}: no experiment.json is there: is it a run folder?")
    starts = read(run.goodput)
    for path in damaged(run.goodput, starts):
        print(
            f"{path} is damaged: this start is left out, and what it spent between others counts as down",
            file=sys.stderr,
        )
    if not starts:
        raise UserError(
            f"{run.goodput} holds no start: the run is of an older version, or none came as far as its first state"
        )
    found = account(starts)
    if flags.json:
        print(json.dumps(as_json(found)))
    else:
        show(found)
    if flags.plot is not None:
        draw(figure, found)
        drawing.save_figure(figure, flags.plot)
        print(flags.plot, file=sys.stderr)


def as_json(found: "Account") -> dict[str, Any]:
    """Returns the account as plain values."""
    starts = [
        {
            **{
                name: getattr(part.start, name) for name in ("number", "host", "processes", "devices", "began", "ended")
            },
            "resumed_from": part.start.first,
            "last_step": part.start.step,
            "wall_seconds": part.wall,
            "seconds": part.seconds,
        }
        for part in found.parts
    ]
    return {
        "goodput": found.goodput,
        "wall_seconds": found.wall,
        "seconds": found.seconds,
        "shares": found.shares,
        "starts": starts,
    }


def show(found: "Account") -> None:
    """Prints the account: what the time was spent on, and each start."""
    from rich.console import Console
    from rich.table import Table

    from transformer.training.goodput import WORDS

    print(found.line().partition(";")[0])
    spent = Table()
    for name in ("time", "seconds", "share"):
        spent.add_column(name, justify="left" if name == "time" else "right")
    for name, word in WORDS.items():
        spent.add_row(word, f"{found.seconds[name]:,.1f}", f"{found.shares[name]:.1%}")
    spent.add_row("in all", f"{found.wall:,.1f}", "100.0%", style="bold")

    starts = Table(title="seconds of each start", title_justify="left")
    for name in ("start", "began", "devices", "updates"):
        starts.add_column(name)
    for name in ("down before", "steps", "redone", "other", "in all"):
        starts.add_column(name, justify="right")
    starts.add_column("end")
    for part in found.parts:
        starts.add_row(*_cells(part, is_last=part is found.parts[-1]))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(spent)
    console.print(starts)


def draw(figure: Any, found: "Account") -> None:
    """Draws a bar for each start along the wall time; within a bar, a category's seconds lie together."""
    from transformer.training.goodput import WORDS

    parts = found.parts
    figure.set_figheight(1.6 + 0.3 * min(len(parts), MOST_BARS))
    axes = figure.add_subplot()
    unit, seconds = (
        ("hours", 3600) if found.wall > 3 * 3600 else ("minutes", 60) if found.wall > 180 else ("seconds", 1)
    )
    order, offset = ("down", "start", "restore", "compile", "data", "save", "evaluation", "step", "redone", "exit"), 0.0
    for part in parts:
        for name in order:
            width = part.seconds[name] / seconds
            axes.barh(str(part.start.number), width, left=offset, color=COLOURS[name], height=0.8)
            offset += width
    for name in order:  # once for the legend, also what took no time in the first start
        if found.seconds[name]:
            axes.barh(
                str(parts[0].start.number), 0, color=COLOURS[name], label=f"{WORDS[name]} {found.shares[name]:.1%}"
            )
    axes.invert_yaxis()
    axes.set_xlim(0, max(offset, 1e-9))
    axes.set_xlabel(f"wall time, {unit}")
    axes.set_ylabel("start")
    axes.set_title(found.line().partition(";")[0], loc="left", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _cells(part: "Part", *, is_last: bool) -> list[str]:
    start, seconds = part.start, part.seconds
    began = datetime.datetime.fromtimestamp(start.began).strftime("%Y-%m-%d %H:%M:%S")
    devices = f"{start.devices}" if start.processes == 1 else f"{start.devices} in {start.processes} processes"
    updates = "none" if start.first is None else f"{start.first:,} to {start.step:,}"
    other = part.wall - sum(seconds[name] for name in ("down", "step", "redone"))
    amounts = [seconds["down"], seconds["step"], seconds["redone"], other, part.wall]
    end = "ended" if start.ended else "going on, or killed" if is_last else "killed"
    return [str(start.number), began, devices, updates, *(f"{each:,.1f}" for each in amounts), end]


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
