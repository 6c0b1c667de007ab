"""Scaling studies: plan runs, make them, fit laws, predict: tools/scaling.py plan | run | fit | predict |
report | flops.

`fit` and `predict` also take anybody's table.
"""

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from transformer import command
from transformer.errors import UserError
from transformer.scaling.commands.fit import FitCommand, fit
from transformer.scaling.commands.predict import Predict, predict


@dataclasses.dataclass(frozen=True)
class Run:
    """Make a study's runs; the same command again goes on where it stopped."""

    study: tyro.conf.Positional[str]
    """The folder of a planned study."""
    jobs: int | None = None
    """Runs at a time, by default 1 (with --slurm: as many as it gives); on a CPU, each gets its part of the cores."""
    slurm: bool = False
    """Submit the runs to Slurm, as arrays, and leave."""
    only: tuple[str, ...] = ()
    """Make these runs alone, by their names."""
    energy_country: str | None = None
    """Measure the energy with codecarbon; the country's three letters, such as FRA, tell how much CO2 it makes."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a study's page, STUDY/report.html, with its figures, and these as STUDY/report/*.png."""

    study: tyro.conf.Positional[str]
    """The folder of a study."""
    watts: float | None = None
    """What one device draws; None: what a table says of its kind."""
    cores: int | None = None
    """Cores of each run, where it was on a CPU; None: all of this machine's."""
    carbon: float = 481.0
    """Grams of CO2-equivalent a kWh (481: the world's mean in 2023, Ember)."""


@dataclasses.dataclass(frozen=True)
class Flops:
    """Count a preset's parameters and FLOPs by kind, and its FLOPs by every convention."""

    preset: str
    """Its name: python train.py --list names them."""
    length: int | None = None
    """Tokens of an example, or of its source; None: the preset's --train.seq-len."""
    target_length: int | None = None
    """Tokens of the decoder's sequence, where there is an encoder; None: what the preset's objective makes of it."""


Others = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[FitCommand, tyro.conf.subcommand("fit")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Flops, tyro.conf.subcommand("flops")]
)


def main(args: list[str]) -> None:
    """Runs the command line."""
    if args[:1] == ["plan"]:
        plan(args[1:])
        return
    if not args or args[0] in ("-h", "--help"):
        print("plan      Plan a study: which runs to make, what they cost, what they will tell.")
    flags = command.parse(Others, args, prog="tools/scaling.py")  # type: ignore[arg-type]
    match flags:
        case Run():
            run(flags)
        case FitCommand():
            fit(flags)
        case Predict():
            predict(flags)
        case Report():
            from transformer.scaling.reports.report import report

            print(report(flags.study, watts=flags.watts, cores=flags.cores, carbon=flags.carbon))
        case Flops():
            flops(flags)


def plan(args: list[str]) -> None:
    """Prints and writes a study."""
    from tqdm import tqdm

    import configs
    from transformer.checkpoint.files import check_new
    from transformer.scaling.studies import plan as plans
    from transformer.scaling.studies import plan_view, probe
    from transformer.scaling.studies import study as studies
    from transformer.scaling.studies.plan_flags import Plan, Preset
    from transformer.sweeps import processes

    def default(chosen: Preset) -> Plan:
        request = plans.Request(budgets=(3e11, 1e12, 3e12))
        return Plan(study="", request=request, experiment=configs.get(chosen.preset))

    flags = command.parse_over(Plan, args, first=Preset, default=default, prog="tools/scaling.py plan")
    folder = Path(flags.study).expanduser()
    if not flags.study:
        raise UserError("no folder is named: give a new folder for the study")
    check_new(folder)
    planned = plans.plan(flags.experiment, flags.request, flags.shape)
    share = processes.shares(flags.jobs, cpu=command.cpu_alone())[0]
    if flags.probe and flags.chips is None and share is not None:
        os.sched_setaffinity(0, share)  # before JAX has threads: a probe computes on what a run will have
    command.start_jax()
    seconds, notes = {}, [f"note: {note}" for note in planned.notes]
    if flags.chips is not None:
        seconds = probe.planned_seconds_per_step(planned.study.cells, planned.experiments, flags.chips)
        notes.append(f"note: the minutes are the planner's, for runs on {flags.chips} each (docs/planning.md)")
    elif flags.probe:
        from transformer.data.text.dataset import TextDataset
        from transformer.training.session import Session

        dataset = Session(next(iter(planned.experiments.values()))).dataset  # which is that of all
        if isinstance(dataset, TextDataset) and (epochs := probe.epochs(planned.study.cells, dataset)) > 1:
            notes.append(f"note: the longest run reads its corpus {epochs:.1f} times: beyond 4, tokens are worth less")
        with tqdm(total=len({cell.params for cell in planned.study.cells}), desc="probe", leave=False) as bar:
            seconds = probe.seconds_per_step(planned.study.cells, planned.experiments, dataset, bar.update)
    with tqdm(total=plan_view.SIMULATED, desc="simulate", leave=False) as bar:
        told = plan_view.tells(planned, bar.update)
    print("\n".join([*plan_view.table(planned, seconds, flags.jobs), *told, *notes]))
    studies.write(planned.study, folder, planned.experiments)
    jobs = f" --jobs {flags.jobs}" if flags.jobs > 1 else ""
    print(f"\nwritten: {folder}; python tools/scaling.py run {folder}{jobs}")


def run(flags: Run) -> None:
    """Makes a study's runs, in sight."""
    from transformer.scaling.reports import energy
    from transformer.scaling.studies import study as studies
    from transformer.scaling.studies import sweep
    from transformer.sweeps import processes
    from transformer.sweeps.live import live

    study = studies.read(flags.study)
    if flags.slurm:
        from transformer.scaling.studies import slurm

        folder = Path(flags.study).expanduser().resolve()
        command_line = [sys.executable, str(Path(__file__).resolve()), "run", str(folder)]
        waves = slurm.waves(study, folder, command_line)
        template = Path(__file__).resolve().parent / "launch" / "slurm.sbatch"
        for wave, number in zip(waves, slurm.submit(waves, template, flags.jobs), strict=True):
            print(f"job {number}: {wave.script}")
        return
    if flags.only:
        study = dataclasses.replace(study, cells=tuple(study[name] for name in flags.only))
    shares = processes.shares(1 if flags.jobs is None else flags.jobs, cpu=command.cpu_alone())
    country = flags.energy_country
    with energy.measuring(flags.study, country) if country else contextlib.nullcontext(), live(flags.study) as show:
        results = sweep.sweep(study, flags.study, processes.program(), shares=shares, show=show)
    failed = [result for result in results if result.state != "ended"]
    if failed:
        words = "; ".join(f"{result.cell.name}: {result.reason}" for result in failed)
        raise UserError(f"{len(failed)} of {len(results)} runs failed, the same command tries them again: {words}")
    ended = "1 run has" if len(results) == 1 else f"{len(results)} runs have"
    print(f"{ended} ended: python tools/scaling.py fit {flags.study}")


def flops(flags: Flops) -> None:
    """Prints the account of a preset's model."""
    import configs
    from transformer.scaling.commands import account

    preset = configs.get(flags.preset)
    length = preset.lengths.input if flags.length is None else flags.length
    targets = preset.lengths.target if flags.target_length is None else flags.target_length
    if length < 1 or targets < 0:
        raise UserError(f"--length {length}, --target-length {targets}: an example has at least one token")
    if targets and not preset.lengths.target:
        raise UserError(f"--target-length {targets}: {flags.preset} has one sequence, give --length alone")
    print("\n".join(account.describe(preset.model, length, targets)))


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
