"""Run an experiment with every combination of some fields' values: python tools/sweep.py SWEEP --preset gpt-python
--vary optimizer.learning-rate 1e-3 3e-3 --vary train.seed 0 1 2 [--jobs N | --slurm] [--GROUP.FIELD VALUE ...]."""

import dataclasses
import itertools
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

import configs
from transformer import command, drawing
from transformer.errors import UserError
from transformer.paths import expanded
from transformer.sweeps import plan as plans
from transformer.sweeps import processes
from transformer.sweeps.plan import Sweep
from transformer.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Command:
    """Run an experiment with every combination of some fields' values; the same command again goes on.

    Runs that have ended are left alone, interrupted ones go on. SWEEP alone goes on with all that is recorded there;
    more values of the same fields add runs. Any field of the experiment is a flag, as in train.py.
    """

    sweep: tyro.conf.Positional[str]
    """The folder of the sweep: a new one, or the same sweep's."""
    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What all runs share."""
    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """A field and its values, as train.py's flag without the dashes: optimizer.learning-rate 1e-3 3e-3. May be given
    several times: all combinations are run. A value of several words is quoted."""
    preset: str = configs.DEFAULT
    """The experiment that the flags override."""
    jobs: int | None = None
    """Runs at a time, by default 1 (with --slurm: as many as it gives); on a CPU, each gets its part of the cores."""
    slurm: bool = False
    """Submit the runs to Slurm, as an array, and leave."""
    retry: bool = False
    """Try runs again that failed before."""
    only: tuple[str, ...] = ()
    """Make these runs alone, by their names."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """The flag that is read before all others, since it decides their defaults."""

    preset: str = configs.DEFAULT


@dataclasses.dataclass(frozen=True)
class Fields:
    """An experiment's fields alone: what can be varied."""

    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


class RunsFailed(UserError):
    """Some runs of a sweep failed; the others have ended."""

    exit_code = 1


def main(args: list[str]) -> None:
    """Runs the command line."""

    def default(first: Preset) -> Command:
        return Command(sweep="", experiment=configs.get(first.preset), preset=first.preset)

    flags = command.parse_over(Command, args, first=Preset, default=default, prog="tools/sweep.py")
    if not flags.sweep:
        raise UserError("no folder is named: give a new one for the sweep, or a sweep's")
    folder = expanded(flags.sweep).absolute()
    shares = processes.shares(1 if flags.jobs is None else flags.jobs, cpu=command.cpu_alone() and not flags.slurm)
    whole, chosen = planned(flags, folder, args)
    if flags.retry:
        for cell in chosen.cells:
            plans.failure_path(folder, cell).unlink(missing_ok=True)
    if flags.slurm:
        submit(flags, folder, chosen)
    else:
        run(flags, folder, whole, chosen, shares)


def planned(flags: Command, folder: Path, args: list[str]) -> tuple[Sweep, Sweep]:
    """Returns the sweep that the folder now holds, and the part of it that the command asks for."""
    if not flags.vary:
        whole = chosen = plans.read(folder)
        if flags.experiment != configs.get(flags.preset):
            raise UserError("the experiment's flags are given without --vary: give the whole command again, or none")
        experiments = {}
    else:
        fields, combinations = product(flags, args)
        chosen = plans.plan(flags.preset, fields, combinations)
        experiments = {cell.name: experiment for cell, (_, experiment) in zip(chosen.cells, combinations, strict=True)}
        whole = plans.joined(chosen, folder, experiments)
    if flags.only:
        chosen = dataclasses.replace(chosen, cells=tuple(whole[name] for name in flags.only))
    plans.write(whole, folder, experiments)
    return whole, chosen


def product(flags: Command, args: list[str]) -> tuple[list[str], list[tuple[dict[str, Any], Experiment]]]:
    """Returns the varied fields, and each combination of their values with its experiment.

    Raises:
      UserError: a field is unknown, given twice or without values, or a value is wrong; the line says which.
    """
    for words in flags.vary:
        if len(words) < 2:
            raise UserError(f"--vary {' '.join(words)}: give a field and its values: optimizer.learning-rate 1e-3 3e-3")
    names = [words[0] for words in flags.vary]
    fields = [name.replace("-", "_") for name in names]
    given = [arg[2:].partition("=")[0].replace("-", "_") for arg in args if arg.startswith("--")]
    for name, field in zip(names, fields, strict=True):
        if fields.count(field) > 1 or field in given:
            raise UserError(f"--vary {name}: the field is given twice: give it once, with all its values")
    return fields, [
        combination(flags.experiment, names, texts) for texts in itertools.product(*(words[1:] for words in flags.vary))
    ]


def combination(base: Experiment, names: list[str], texts: tuple[str, ...]) -> tuple[dict[str, Any], Experiment]:
    """Returns the values of the named fields, as they are read, and the experiment that has them."""
    args = [word for name, text in zip(names, texts, strict=True) for word in (f"--{name}", *words_of(text))]
    try:
        experiment = command.parse(Fields, args, prog="tools/sweep.py", default=Fields(base)).experiment
    except UserError as error:
        given = ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
        raise UserError(f"--vary {given}: {error}") from error
    values = {}
    for name in names:
        value = experiment
        for part in name.replace("-", "_").split("."):
            value = getattr(value, part)
        values[name.replace("-", "_")] = list(value) if isinstance(value, tuple) else value
    return values, experiment


def words_of(text: str) -> list[str]:
    """Returns a value as train.py's command line would have it: of several words, where it is quoted."""
    return shlex.split(text) if " " in text else [text]


def submit(flags: Command, folder: Path, chosen: Sweep) -> None:
    """Submits the runs that have neither ended nor failed."""
    from transformer.scaling.studies import slurm

    waiting = tuple(cell for cell in chosen.cells if not plans.failure(folder, cell))
    line = [sys.executable, str(Path(__file__).resolve()), str(folder)]
    waves = slurm.waves(dataclasses.replace(chosen, cells=waiting), folder, line)
    template = Path(__file__).resolve().parent / "launch" / "slurm.sbatch"
    for wave, number in zip(waves, slurm.submit(waves, template, flags.jobs), strict=True):
        print(f"job {number}: {wave.script}")
    if not waves:
        print(f"nothing is left to run: python tools/sweep.py {folder}")


def run(flags: Command, folder: Path, whole: Sweep, chosen: Sweep, shares: list[set[int] | None]) -> None:
    """Makes the runs, in sight; then writes and shows what came of them."""
    from transformer.sweeps.live import live
    from transformer.sweeps.runner import run_cells

    reasons = {cell.name: plans.failure(folder, cell) for cell in chosen.cells}
    ready = [cell for cell in chosen.cells if not reasons[cell.name]]
    try:
        with live(flags.sweep) as show:
            results = run_cells(
                ready,
                folder,
                processes.program(),
                resume=f"python tools/sweep.py {folder}",
                shares=shares,
                show=show,
                failed=lambda run: plans.note_failure(folder, run.cell, run.reason),
            )
    finally:
        report(folder, whole, picture=not flags.only)
    reasons |= {result.cell.name: result.reason for result in results}
    if failed := {name: reason for name, reason in reasons.items() if reason}:
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RunsFailed(f"{len(failed)} of {len(chosen.cells)} runs failed, --retry tries them again: {words}")


def report(folder: Path, sweep: Sweep, *, picture: bool) -> None:
    """Writes runs.csv, prints the table and draws the picture, of all runs that are recorded."""
    from rich.console import Console

    from transformer.sweeps import show
    from transformer.sweeps.rows import rows, write_csv

    figures = rows(sweep, folder)
    written = [str(write_csv(figures, sweep.fields, folder))]
    console = Console()
    if not console.is_terminal:  # a file is as wide as its lines
        console.width = 1000
    console.print(show.table(figures, sweep.fields))
    if picture and show.best(figures) is not None:
        place = str(folder / "runs.png")
        try:
            figure = drawing.new_figure(7, 4.5, place)
        except UserError as error:
            print(f"no picture: {error}", file=sys.stderr)
        else:
            show.draw(figure.add_subplot(), figures, sweep.fields)
            drawing.save_figure(figure, place)
            written.append(place)
    print(", ".join(written))


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
