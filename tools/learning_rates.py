"""Does the best learning rate stay put across widths? python tools/learning_rates.py --preset gpt-python

Short runs at each width and learning rate, with muP and without it; each rate's loss on the validation text, the best
rate of each width, and by how many powers of two it moves where the width doubles: docs/mup.md.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transformer import command, drawing
from transformer.errors import UserError
from transformer.paths import write_file

if TYPE_CHECKING:
    from transformer.mup.parametrization import MupConfig
    from transformer.training.experiment import Experiment

ORANGE = "#d55e00"

Losses = dict[int, dict[float, float]]
"""Width -> learning rate -> loss."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Train at several widths and learning rates, with muP and without; print the best rates and draw a figure."""

    preset: str = "gpt-python"
    """The experiment whose model is made wider and narrower; its corpus is read."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Model widths."""
    base_width: int | None = None
    """muP's base; None: the widest. Narrower ones are trained as well, to find its learning rate."""
    exponents: tuple[int, int] = (-12, -6)
    """The lowest and the highest learning rate, as powers of two; all powers between them are tried."""
    steps: int = 120
    """Updates of each run."""
    optimizer: Literal["adamw", "lion", "muon"] = "adamw"
    """Which optimizer."""
    layers: int = 2
    """Blocks, of the deeper side where there are two."""
    head_width: int = 16
    """Width of the attention heads, at every width."""
    batch_size: int = 8
    """Sequences an update."""
    seq_len: int | None = None
    """Tokens a sequence; None: the preset's, but 64 at most."""
    byte_tokens: bool = True
    """Whether text is read as bytes, not as the preset's pieces: a small vocabulary leaves the time to the blocks."""
    eval_batches: int = 16
    """Batches of the validation text."""
    out: str = "learning-rates.png"
    """The figure: .png, .svg or .pdf. The losses go beside it, as .json."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/learning_rates.py")
    low, high = flags.exponents
    if len(flags.widths) < 2 or high - low < 2:
        raise UserError("give two --widths or more, and --exponents at least two apart")
    figure = drawing.new_figure(10, 4.2, flags.out)
    command.start_jax()
    from transformer.mup.parametrization import MupConfig

    base = max(flags.widths) if flags.base_width is None else flags.base_width
    standard = sweep(flags, flags.widths, MupConfig())
    others = [width for width in flags.widths if width != base]  # muP changes nothing at its base
    scaled = sweep(flags, others, MupConfig(base))
    with_mup = {width: (standard if width == base else scaled)[width] for width in flags.widths}
    every = {"muP": with_mup, "standard": standard}
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (title, losses) in zip(panels, every.items(), strict=True):
        draw(axes, f"{title}: {tell(title, losses)}", losses)
    panels[0].set_ylabel("validation loss, nats a target")
    panels[0].legend(title="width")
    drawing.save_figure(figure, flags.out)
    record = Path(flags.out).with_suffix(".json")
    write_file(record, json.dumps({"command": dataclasses.asdict(flags), "losses": every}, indent=1) + "\n")
    print(f"{flags.out}, {record}")


@command.flags_named(Command)
def sweep(flags: Command, widths: Sequence[int], base: "MupConfig") -> Losses:
    """Returns the losses at each width and rate; says each as it comes."""
    from transformer.models.resizing import scaled
    from transformer.mup import learning_rates as rates
    from transformer.training.session import Session

    experiment = quick(flags)
    session = Session(experiment)
    with session.batches() as batches:
        training = list(itertools.islice(batches, flags.steps))
    with session.validation() as batches:
        validation = list(batches)
    tried = [2.0**exponent for exponent in range(flags.exponents[0], flags.exponents[1] + 1)]
    losses: Losses = {}
    for width in widths:
        wide = dataclasses.replace(experiment, model=scaled(experiment.model, width), mup=base)
        losses[width] = rates.losses(Session(wide), tried, training, validation)
        print(f"{width:>6}", *(f"{loss:6.3f}" for loss in losses[width].values()), flush=True)
    return losses


def quick(flags: Command) -> "Experiment":
    """Returns the preset's experiment with a small model and short runs."""
    import configs
    from transformer.mup.widths import shrunk

    experiment = shrunk(
        configs.get(flags.preset),
        flags.widths[0],
        head_width=flags.head_width,
        layers=flags.layers,
        optimizer={"name": flags.optimizer, "warmup_steps": flags.steps // 10},
        train={field: getattr(flags, field) for field in ("steps", "batch_size", "seq_len", "eval_batches")},
    )
    if flags.byte_tokens and experiment.model.vocab_size is not None:  # it reads text, or writes it
        words = dataclasses.replace(experiment.model, vocab_size=384)
        data = dataclasses.replace(experiment.data, tokenizer="bytes")
        experiment = dataclasses.replace(experiment, model=words, data=data)
    return experiment


def tell(title: str, losses: Losses) -> str:
    """Prints the best rate of each width; returns how far it moves where the width doubles."""
    from transformer.mup import learning_rates as rates

    bests = {width: rates.best(by_rate) for width, by_rate in losses.items()}
    for width, rate in bests.items():
        shown = "is at the edge of those tried" if rate is None else f"{rate:.2e}"
        print(f"{title}, width {width}: best learning rate {shown}")
    known = {width: rate for width, rate in bests.items() if rate is not None}
    if len(known) < 2:
        return "best rates at the edge"
    shift = f"best rate x 2^{rates.shift(known):+.2f} a doubling"
    print(f"{title}: {shift}")
    return shift


def draw(axes, title: str, losses: Losses) -> None:
    """Draws loss over learning rate, a line a width, and a mark at each line's best."""
    from transformer.mup import learning_rates as rates

    for index, (width, by_rate) in enumerate(losses.items()):
        shade = drawing.blue(index, len(losses))
        axes.plot(list(by_rate), list(by_rate.values()), color=shade, marker="o", markersize=4, label=str(width))
        if (best := rates.best(by_rate)) is not None:
            axes.plot([best], [min(by_rate.values())], color=ORANGE, marker="v", markersize=8, linestyle="none")
    axes.set_xscale("log", base=2)
    axes.set_title(title)
    axes.set_xlabel("learning rate")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
