"""Does the width change how far updates move a model? python tools/coordinate_check.py --preset gpt-python

At each width, with muP and without it: how large activations are on one batch, before the first update and after each.
Under muP none of it goes with the width: docs/mup.md.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from transformer import command, drawing
from transformer.errors import UserError

if TYPE_CHECKING:
    from transformer.mup.coordinates import Coordinates
    from transformer.mup.parametrization import MupConfig

Measured = dict[int, "Coordinates"]
"""Width -> its coordinates."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure activations over widths, with muP and without; print a table and draw a figure."""

    preset: str = "gpt-python"
    """The experiment whose model is made wider and narrower; its corpus is read."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Model widths; the first is muP's base."""
    steps: int = 4
    """Updates."""
    learning_rate: float = 0.01
    """The rate of every update."""
    optimizer: Literal["adamw", "lion", "muon"] = "adamw"
    """Which optimizer."""
    layers: int = 2
    """Blocks, of the deeper side where there are two."""
    head_width: int = 16
    """Width of the attention heads, at every width: their number grows."""
    batch_size: int = 4
    """Sequences an update."""
    seq_len: int | None = None
    """Tokens a sequence; None: the preset's, but 64 at most."""
    seeds: int = 1
    """Models drawn anew, over which the sizes are averaged."""
    out: str = "coordinates.png"
    """The figure: .png, .svg or .pdf."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/coordinate_check.py")
    if len(flags.widths) < 2 or min(flags.steps, flags.seeds, flags.layers) < 1:
        raise UserError("give two --widths or more, and --steps, --seeds and --layers of at least 1")
    figure = drawing.new_figure(10, 6, flags.out)
    command.start_jax()
    from transformer.mup.parametrization import MupConfig

    first, *others = flags.widths
    standard = measure(flags, flags.widths, MupConfig())
    with_mup = {first: standard[first]} | measure(flags, others, MupConfig(first))  # which changes nothing at its base
    rows = figure.subplots(2, 3, sharex=True, sharey="col")
    for row, title, measured in zip(rows, ("muP", "standard"), (with_mup, standard), strict=True):
        print_table(title, measured)
        draw(row, title, measured)
    rows[0, 0].legend(fontsize="small")
    for axes in rows[1]:
        axes.set_xlabel("model width")
    drawing.save_figure(figure, flags.out)
    print(flags.out)


@command.flags_named(Command)
def measure(flags: Command, widths: Sequence[int], base: "MupConfig") -> Measured:
    """Returns the coordinates at each width, averaged over the seeds."""
    import configs
    from transformer.layers.execution import Execution
    from transformer.mup.coordinates import coordinates
    from transformer.mup.widths import at_width, shrunk
    from transformer.training.session import Session

    preset = dataclasses.replace(configs.get(flags.preset), execution=Execution())
    experiment = shrunk(
        preset,
        flags.widths[0],
        head_width=flags.head_width,
        layers=flags.layers,
        optimizer={"name": flags.optimizer, "learning_rate": flags.learning_rate},
        train={field: getattr(flags, field) for field in ("steps", "batch_size", "seq_len")},
    )
    with Session(experiment).batches() as batches:
        read = list(itertools.islice(batches, flags.steps))
    measured = {}
    for width in widths:
        wide = at_width(experiment, width, base)
        by_seed = []
        for seed in range(flags.seeds):
            seeded = dataclasses.replace(wide, train=dataclasses.replace(wide.train, seed=seed))
            by_seed.append(coordinates(Session(seeded), read))
        measured[width] = {name: np.mean([sizes[name] for sizes in by_seed], axis=0) for name in by_seed[0]}
    return measured


def print_table(title: str, measured: Measured) -> None:
    """Prints each quantity after the last update, over the widths: its mean size, its mean change, and their slopes."""
    from transformer.mup.coordinates import slope

    names = list(next(iter(measured.values())))
    longest = max(map(len, names))
    print(
        f"\n{title + ', mean |x|':{longest}}" + "".join(f"{width:>10}" for width in measured) + "     slope  of change"
    )
    for name in names:
        sizes, changes = (
            {width: float(coordinates[name][-1, kind]) for width, coordinates in measured.items()} for kind in (0, 1)
        )
        cells = "".join(f"{size:>10.3g}" for size in sizes.values())
        print(f"{name:{longest}}{cells}{slope(sizes):>+10.2f}{slope(changes):>+11.2f}")
    print()


def draw(row, title: str, measured: Measured) -> None:
    """Draws size over width, a line an update, of each kind of quantity; blocks are averaged (geometrically)."""
    from transformer.mup.coordinates import LOGITS, SCORES, STREAM

    titles = {STREAM: "residual stream", SCORES: "attention scores", LOGITS: "logits"}
    names, widths = list(next(iter(measured.values()))), list(measured)
    for axes, (kind, of) in zip(row, titles.items(), strict=True):
        sizes = np.array([[measured[width][name][:, 0] for name in names if name.startswith(kind)] for width in widths])
        lines = np.exp(np.log(sizes).mean(axis=1)).T
        for step, line in enumerate(lines):
            shade = drawing.blue(step, len(lines))
            label = "at initialisation" if step == 0 else f"after {step} update{'s' if step > 1 else ''}"
            axes.plot(widths, line, color=shade, marker="o", markersize=4, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_title(f"{of}, {title}")
        axes.grid(alpha=0.3)
    row[0].set_ylabel("mean absolute value")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
