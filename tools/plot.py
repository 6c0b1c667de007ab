"""Draw the losses of runs: python tools/plot.py RUN [RUN ...] --out losses.png (pip install -e '.[plot]')."""

import dataclasses
import sys

import tyro
from etils import epath

from transformer import command, drawing
from transformer.errors import UserError
from transformer.training.metrics import read_rows

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008: all eyes tell them


@dataclasses.dataclass(frozen=True)
class Command:
    """Draw the loss of runs over their steps: of training a thin line, of validation dots."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders."""
    out: str = "losses.png"
    """The picture: .png, .svg or .pdf."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/plot.py")
    if not flags.runs:
        raise UserError("no run is named: python tools/plot.py RUN [RUN ...]")
    curves = {run: read(epath.Path(run)) for run in flags.runs}
    figure = drawing.new_figure(7, 4, flags.out)
    axes = figure.add_subplot()
    for number, (run, (trained, evaluated)) in enumerate(curves.items()):
        colour, name = COLOURS[number % len(COLOURS)], epath.Path(run).name
        axes.plot(*zip(*trained, strict=True), color=colour, linewidth=0.8, alpha=0.6, label=f"{name}, training")
        if evaluated:
            axes.plot(*zip(*evaluated, strict=True), color=colour, marker="o", label=f"{name}, validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a target")
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.save_figure(figure, flags.out)
    print(flags.out)


def read(run: epath.Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Returns (step, loss) of training and of validation, as `metrics.jsonl` has them: without smoothing."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{path}: no such file: is it a run folder?")
    rows = read_rows(path)
    trained = [(row["step"], row["nll"]) for row in rows if "nll" in row]
    if not trained:
        raise UserError(f"{path} has no row of training yet")
    return trained, [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
