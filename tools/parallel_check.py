"""Does a mesh change the numbers? python tools/parallel_check.py PRESET [--devices 8] [--shrink] [--GROUP.FIELD VALUE]

One update of the experiment, in float32, under all meshes that its sizes allow, against one device: docs/parallelism.md
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import configs
from transformer import command
from transformer.errors import UserError
from transformer.training.experiment import Experiment

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from transformer.debugging.parallel_check import Verdict

DIFFERENT = 1
"""The exit code where a mesh changes the numbers; bad input is 2."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Compute an update of a preset under meshes, all axes, pairs and some triples, and compare it with one device's.

    Nothing is trained or written. The devices are made up, on this machine's CPU. PRESET is the first argument
    (python train.py --list names them).
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What is computed. Its --mesh.* are left aside; numbers are float32, and the learning rate its peak."""
    devices: int = 8
    """Devices, made up, that the meshes are of."""
    shrink: bool = False
    """Scale the model down to a few layers, heads and words, keeping its structure, and make up short
    text, small images or tones for it."""
    updates: int = 1
    """Updates: of each the loss is compared, of the first the gradients and what it changes."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The flags that are needed before all others: JAX is told of them before it does anything."""

    devices: int = Command.devices
    shrink: bool = Command.shrink


def main(args: list[str]) -> None:
    """Runs the command line; exits with `DIFFERENT` where a mesh changes the numbers."""
    preset, rest = configs.split(args)

    def default(first: Devices) -> Command:
        if first.devices < 2:
            raise UserError(f"--devices {first.devices}: give at least 2")
        start(first.devices, small=first.shrink)  # before a preset counts its parameters, which wakes JAX
        return Command(experiment=configs.get(preset or configs.DEFAULT))

    prog = "tools/parallel_check.py [PRESET]"
    flags: Command = command.parse_over(Command, rest, first=Devices, default=default, prog=prog)
    if flags.updates < 1:
        raise UserError(f"--updates {flags.updates}: give at least 1")
    with tempfile.TemporaryDirectory() as folder, command.flags_named(Command):
        verdicts = list(check(flags, Path(folder)))
    table(verdicts)
    if not any(verdict.difference for verdict in verdicts):
        raise UserError(f"no mesh of {flags.devices} devices divides this experiment: --shrink, or change its sizes")
    if report(verdicts, flags.devices):
        sys.exit(DIFFERENT)


def start(devices: int, *, small: bool) -> None:
    """Starts JAX on this machine's CPU with so many devices, whatever else it has.

    What is small is compiled without LLVM's dear passes: compiling is most of the work then.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", small)
    command.start_jax()


def check(flags: Command, folder: Path) -> Iterator["Verdict"]:
    """Yields the verdict on each mesh; a bar on standard error tells how many are done."""
    from tqdm import tqdm

    from transformer.debugging import parallel_check
    from transformer.debugging.shrunk_experiment import shrunk_experiment
    from transformer.training.session import Session

    experiment = flags.experiment
    if flags.shrink:
        experiment = shrunk_experiment(experiment, folder, devices=flags.devices)
    else:
        check_memory(experiment, flags.devices)
    experiment = parallel_check.comparable(experiment)
    rows: Any = Session(experiment).training_rows
    batches = [rows[number] for number in range(flags.updates)]
    meshes = list(parallel_check.meshes(experiment, flags.devices))
    model, train = experiment.model, experiment.train
    size = " x ".join(f"{length:,}" for length in model.input_size or [train.seq_len])
    print(f"{experiment.name}: {model.num_params():,} parameters, {train.batch_size} rows of {size}, float32")
    with tqdm(total=1 + sum(not mesh.refusal for mesh in meshes), unit="mesh", dynamic_ncols=True, leave=False) as bar:
        bar.set_description("one device")
        reference = parallel_check.Reference(experiment, batches)
        bar.update()
        for mesh in meshes:
            bar.set_description(mesh.name)
            yield parallel_check.checked(reference, mesh)
            bar.update(not mesh.refusal)


def check_memory(experiment: Experiment, devices: int) -> None:
    """Raises UserError where the copies of the training state would not fit this machine's memory."""
    # Weights, two moments and gradients on each device, of data parallelism; as much of the one device's twice over.
    needed = 4 * experiment.model.num_params() * 4 * (devices + 3)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"{experiment.model.num_params():,} parameters on {devices} devices take about {needed / 2**30:,.0f} GiB "
            f"and this machine has {memory / 2**30:,.0f}: give --shrink, or sizes by --model.*"
        )


def table(verdicts: Sequence["Verdict"]) -> None:
    """Prints each mesh's largest differences, as shares of a tensor's size."""
    from rich.console import Console
    from rich.table import Table

    from transformer.debugging.parallel_check import PARTS

    output = Table(title="largest difference from one device, as a share of a tensor's size", title_justify="left")
    output.add_column("mesh")
    for part in PARTS:
        output.add_column(part, justify="right")
    output.add_column("verdict")
    for verdict in verdicts:
        if verdict.difference is None:
            continue
        cells = (f"{verdict.difference.worst[part]:.1e}" for part in PARTS)
        output.add_row(verdict.name, *cells, "[red]differs[/]" if verdict.differs else "same")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(output)


def report(verdicts: Sequence["Verdict"], devices: int) -> bool:
    """Prints what was not checked, and where numbers differ; returns whether any do."""
    from transformer.debugging.parallel_check import TOLERANCE, blamed

    for verdict in verdicts:
        if verdict.refusal:
            print(f"not checked  {' x '.join(sorted(verdict.axes))}: {verdict.refusal}")
    checked = [verdict for verdict in verdicts if verdict.difference]
    differing = [verdict for verdict in checked if verdict.differs]
    if not differing:
        print(f"{len(checked)} meshes of up to {devices} devices give the numbers of one, to {TOLERANCE:g}")
        return False
    print(
        f"{len(differing)} of {len(checked)} meshes change the numbers by more than {TOLERANCE:g}; at the root of it:"
    )
    for verdict in blamed(checked):
        assert verdict.difference is not None
        assert verdict.difference.first is not None
        part, path, size = verdict.difference.first
        print(f"  {verdict.name}: the first to differ is {path} ({part}), by {size:.2g} of its size")
    return True


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
