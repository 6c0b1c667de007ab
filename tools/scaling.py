"""Scaling studies: plan runs, make them, fit laws, predict: tools/scaling.py plan | run | fit | predict |
report | flops.

`fit` and `predict` also take anybody's table.
"""

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from transformer import command
from transformer.errors import UserError
from transformer.paths import check_file, write_file

if TYPE_CHECKING:  # SciPy and JAX take seconds to import, after the flags are known to be good
    from transformer.scaling.laws.law_file import Source
    from transformer.scaling.laws.table import Table

BESIDE = 40
"""Refits of each law but the first, where several are fitted: Chinchilla's alone are solved together, in a second."""


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
class Fit:
    """Fit laws, with intervals, to a study's runs or to a table: --table runs.csv --params N --tokens D --loss loss."""

    study: tyro.conf.Positional[str | None] = None
    """The folder of a study, whose runs have ended."""
    table: str | None = None
    """A CSV file with a header line and a row for each run."""
    params: str = "params"
    """The column of N, a run's parameters."""
    tokens: str | None = None
    """The column of D, the tokens a run read; None: `tokens`, or D = C / (6 N) where --flops is given."""
    flops: str | None = None
    """The column of C, a run's training FLOPs; None: C = 6 N D."""
    loss: str = "loss"
    """The column of the loss, nats."""
    unique_tokens: str | None = None
    """The column of the tokens that the corpus has, where they are read more than once."""
    drop_highest: int = 0
    """Leave out the rows of so many highest losses."""
    law: str | None = None
    """chinchilla, kaplan, kaplan-n, kaplan-d, isoflop, envelope, overtrain or repeat; None: all that can be fitted."""
    setting: str | None = None
    """A power law of the best setting in place of a law of the loss: the column of what was swept, such as the learning
    rate or the batch."""
    by: tuple[str, ...] = ()
    """The columns that the best --setting depends on, such as N D; rows where they are equal are one sweep."""
    bootstrap: int = 1000
    """Refits to runs drawn with replacement, for the intervals; of laws beside the first one, at most 40. 0: none."""
    seed: int = 0
    """Of the draws."""
    fix: tuple[str, ...] = ()
    """Parameters that are known and not fitted, such as E=1.69 alpha=0.34."""
    objective: str = "huber"
    """huber, or squares: the sum of what, over the runs, of the error of log loss."""
    isoflop_window: float = 4.0
    """An isoflop parabola sees the sizes within this factor of its lowest point; inf: all."""
    pairs: str | None = None
    """Optimal pairs in place of runs: a CSV file of budgets, best sizes and their standard deviations."""
    pair_columns: tuple[str, ...] = ("C", "N", "sd")
    """Of --pairs: the columns of C, N* and the standard deviation."""
    log_deviation: bool = False
    """Of --pairs: the standard deviation is of log N*, and not of N*."""
    json: str | None = None
    """Write the laws here, for `predict`; of a study by default STUDY/law.json."""


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict the loss of a model, or the best use of a budget, from a fitted law."""

    law_file: tyro.conf.Positional[str]
    """What `fit --json` wrote, or a study's folder."""
    params: float | None = None
    """N of the model; with --tokens."""
    tokens: float | None = None
    """D of its training."""
    flops: float | None = None
    """C of a budget, 6 N D."""
    unique_tokens: float | None = None
    """Tokens that the corpus has, which a longer training reads more than once; a law that knows repeats is needed."""
    law: str | None = None
    """Another law of the file than its first."""


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
    | Annotated[Fit, tyro.conf.subcommand("fit")]
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
    asked = command.parse(Others, args, prog="tools/scaling.py")  # type: ignore[arg-type]
    match asked:
        case Run():
            run(asked)
        case Fit():
            fit(asked)
        case Predict():
            predict(asked)
        case Report():
            from transformer.scaling.reports.report import report

            print(report(asked.study, watts=asked.watts, cores=asked.cores, carbon=asked.carbon))
        case Flops():
            flops(asked)


def plan(args: list[str]) -> None:
    """Prints and writes a study."""
    from tqdm import tqdm

    import configs
    from transformer.checkpoint.files import check_new
    from transformer.scaling.studies import plan as plans
    from transformer.scaling.studies import plan_view, probe, sweep
    from transformer.scaling.studies import study as studies
    from transformer.scaling.studies.plan_flags import Plan, Preset

    named, _ = tyro.cli(Preset, args=[arg for arg in args if arg not in ("-h", "--help")], return_unknown_args=True)
    request = plans.Request(budgets=(3e11, 1e12, 3e12))
    default = Plan(study="", request=request, experiment=configs.get(named.preset))
    asked = command.parse(Plan, args, prog="tools/scaling.py plan", default=default)
    folder = Path(asked.study).expanduser()
    if not asked.study:
        raise UserError("no folder is named: give a new folder for the study")
    check_new(folder)
    planned = plans.plan(asked.experiment, asked.request, asked.shape)
    share = sweep.shares(asked.jobs, cpu=command.cpu_alone())[0]
    if asked.probe and share is not None:
        os.sched_setaffinity(0, share)  # before JAX has threads: a probe computes on what a run will have
    command.start_jax()
    seconds, notes = {}, [f"note: {note}" for note in planned.notes]
    if asked.probe:
        from transformer.training.loop import prepare_corpus

        corpus = prepare_corpus(next(iter(planned.experiments.values())))  # which is that of all
        if (epochs := probe.epochs(planned.study.cells, corpus)) > 1:
            notes.append(f"note: the longest run reads its corpus {epochs:.1f} times: beyond 4, tokens are worth less")
        with tqdm(total=len({cell.params for cell in planned.study.cells}), desc="probe", leave=False) as bar:
            seconds = probe.seconds_per_step(planned.study.cells, planned.experiments, corpus, bar.update)
    with tqdm(total=plan_view.SIMULATED, desc="simulate", leave=False) as bar:
        told = plan_view.tells(planned, bar.update)
    print("\n".join([*plan_view.table(planned, seconds, asked.jobs), *told, *notes]))
    studies.write(planned.study, folder, planned.experiments)
    jobs = f" --jobs {asked.jobs}" if asked.jobs > 1 else ""
    print(f"\nwritten: {folder}; python tools/scaling.py run {folder}{jobs}")


def run(asked: Run) -> None:
    """Makes a study's runs, in sight."""
    from transformer.scaling.reports import energy
    from transformer.scaling.studies import study as studies
    from transformer.scaling.studies import sweep
    from transformer.scaling.studies.live import live

    study = studies.read(asked.study)
    if asked.slurm:
        from transformer.scaling.studies import slurm

        folder = Path(asked.study).expanduser().resolve()
        again = [sys.executable, str(Path(__file__).resolve()), "run", str(folder)]
        paths = slurm.scripts(study, folder, again, asked.jobs)
        for path, number in zip(paths, slurm.submit(paths), strict=True):
            print(f"job {number}: {path}")
        return
    if asked.only:
        study = dataclasses.replace(study, cells=tuple(study[name] for name in asked.only))
    shares = sweep.shares(1 if asked.jobs is None else asked.jobs, cpu=command.cpu_alone())
    country = asked.energy_country
    with energy.measuring(asked.study, country) if country else contextlib.nullcontext(), live(asked.study) as show:
        came = sweep.sweep(study, asked.study, sweep.program(), shares=shares, show=show)
    failed = [one for one in came if one.state != "ended"]
    if failed:
        words = "; ".join(f"{one.cell.name}: {one.reason}" for one in failed)
        raise UserError(f"{len(failed)} of {len(came)} runs failed, the same command tries them again: {words}")
    ended = "1 run has" if len(came) == 1 else f"{len(came)} runs have"
    print(f"{ended} ended: python tools/scaling.py fit {asked.study}")


def fit(asked: Fit) -> None:
    """Prints the fitted laws; writes them."""
    from tqdm import tqdm

    from transformer.scaling.laws import fitting, law_file, methods, objective, show
    from transformer.scaling.laws.how import How, parse_fixed

    how = How(objective.named(asked.objective), parse_fixed(asked.fix), asked.isoflop_window)
    if asked.json is not None:
        check_file(asked.json, "--json")
    if asked.setting is not None or asked.by:
        fit_setting(asked)
        return
    if asked.pairs is not None:
        fit_pairs(asked)
        return
    if asked.bootstrap < 0:
        raise UserError(f"--bootstrap {asked.bootstrap}: it is a number of refits")
    if (asked.study is None) == (asked.table is None):
        raise UserError("fit takes the folder of a study, or --table FILE")
    table, source = _of_study(asked) if asked.study else _of_table(asked)
    out = asked.json or (str(Path(asked.study) / law_file.NAME) if asked.study else None)
    heading = f"{source.path}: {len(table)} runs, {show.ranges(source)}"
    if asked.law is not None:
        with tqdm(total=asked.bootstrap, desc=f"{asked.law} refits", leave=False, disable=None) as bar:
            fitted = [fitting.fit(table, asked.law, asked.bootstrap, asked.seed, how, bar.update)]
        print("\n".join([heading, *show.describe(fitted[0])]))
    else:
        fitted, reasons = [], []
        for name in methods.SIDE_BY_SIDE:
            try:
                count = min(asked.bootstrap, BESIDE) if fitted else asked.bootstrap
                with tqdm(total=count, desc=f"{name} refits", leave=False, disable=None) as bar:
                    fitted.append(fitting.fit(table, name, count, asked.seed, how, bar.update))
            except UserError as error:
                reasons.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
                continue
            print("\n".join([*([heading] if len(fitted) == 1 else []), *show.describe(fitted[-1])]), flush=True)
        if not fitted:
            raise UserError("no law can be fitted to this table; " + "; ".join(reasons))
        print("\n".join(["", *show.compare(fitted, 10 * float(table.flops.max()))]))
        if reasons:
            print("\n".join(["", "not fitted:", *(f"  {reason}" for reason in reasons)]))
    if asked.study:
        from transformer.scaling.studies import held_out, study

        print("\n".join(held_out.describe(fitted, study.read(asked.study), asked.study)))
    if out is not None:
        law_file.write(out, fitted, source)
        print(f"\nwritten: {out}; python tools/scaling.py predict {out} --flops 1e21")


def fit_pairs(asked: Fit) -> None:
    """Prints the power law through published optima."""
    from transformer.scaling.laws import law_file, pairs, show

    path = str(asked.pairs)
    given = pairs.read(path, asked.pair_columns, asked.log_deviation)
    fitted = pairs.fit(given, asked.bootstrap, asked.seed)
    columns: dict[str, str | None] = dict(zip(("flops", "params", "deviation"), asked.pair_columns, strict=True))
    source = law_file.source_of(given.table(), path, columns, 0)
    print("\n".join([f"{path}: {len(given.flops)} pairs, {show.ranges(source)}", *show.describe(fitted)]))
    if asked.json is not None:
        law_file.write(asked.json, [fitted], source)
        print(f"\nwritten: {asked.json}; python tools/scaling.py predict {asked.json} --flops 1e21")


def fit_setting(asked: Fit) -> None:
    """Prints the power law of a setting's best value."""
    from transformer.scaling.laws import law_file, power_law, show
    from transformer.scaling.laws.reading import read_sweeps

    if asked.table is None or asked.setting is None or not asked.by:
        raise UserError("a law of a setting takes a table of sweeps: --table FILE --setting learning_rate --by N D")
    setting, loss, at = read_sweeps(asked.table, asked.setting, asked.by, asked.loss)
    found = power_law.fit(setting, loss, at, f"values of {asked.setting}")
    print(f"{asked.table}: {len(loss)} runs, {len(found.sweeps)} sweeps")
    print("\n".join([*show.of_setting(found, asked.setting), *show.warnings(found.warnings)]))
    if asked.json is not None:
        record = {"setting": asked.setting, **dataclasses.asdict(found.law), "standard_errors": found.errors}
        record |= {"error": found.error, "warnings": [warned._asdict() for warned in found.warnings]}
        write_file(asked.json, json.dumps(law_file.plain(record), allow_nan=False) + "\n")
        print(f"written: {asked.json}")


def _of_table(asked: Fit) -> "tuple[Table, Source]":
    """Returns the rows of a file to fit, and where they are from."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import Columns, drop_highest, read

    columns = Columns(asked.params, asked.tokens, asked.loss, asked.flops, asked.unique_tokens)
    path = str(asked.table)
    table = drop_highest(read(path, columns), asked.drop_highest)
    return table, law_file.source_of(table, path, dataclasses.asdict(columns), asked.drop_highest)


def _of_study(asked: Fit) -> "tuple[Table, Source]":
    """Returns the runs of a study to fit, and where they are from; writes them to runs.csv."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import drop_highest
    from transformer.scaling.studies import study as studies

    folder = str(asked.study)
    study = studies.read(folder)
    studies.write_rows(study, folder)
    table = drop_highest(studies.table(study, folder), asked.drop_highest)
    return table, law_file.source_of(table, folder, {"params": f"N, {study.size}"}, asked.drop_highest)


def predict(asked: Predict) -> None:
    """Prints a prediction with its intervals."""
    from transformer.scaling.laws import law_file, show
    from transformer.scaling.laws.predict import extrapolation, on_corpus

    given = {"params": asked.params, "tokens": asked.tokens, "flops": asked.flops}
    named = {name for name, value in given.items() if value is not None}
    if named not in ({"params", "tokens"}, {"flops"}):
        raise UserError("predict takes --params and --tokens, for the loss of a model, or --flops, for a budget")
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in (*values.items(), ("unique-tokens", asked.unique_tokens)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value}: it must be positive and finite")
    fitted, source = law_file.read(_file(asked.law_file), asked.law)
    if asked.unique_tokens is not None:
        fitted = on_corpus(fitted, asked.unique_tokens)
    if "flops" in values:
        lines = show.of_budget(fitted, values["flops"])
    else:
        lines = show.of_model(fitted, values["params"], values["tokens"])
        values["flops"] = 6 * values["params"] * values["tokens"]
    print("\n".join(lines))
    print("\n".join(show.warnings([*extrapolation(source, **values), *fitted.fit.warnings])))


def flops(asked: Flops) -> None:
    """Prints the account of a preset's model."""
    import configs
    from transformer.scaling.counts import account

    preset = configs.get(asked.preset)
    length = preset.train.seq_len if asked.length is None else asked.length
    targets = preset.objective.target_length(length) if asked.target_length is None else asked.target_length
    if length < 1 or targets < 0:
        raise UserError(f"--length {length}, --target-length {targets}: an example has at least one token")
    if targets and preset.model.kind != "encoder_decoder":
        raise UserError(f"--target-length {targets}: {asked.preset} has one sequence, give --length alone")
    print("\n".join(account.describe(preset.model, length, targets)))


def _file(path: str) -> str:
    """A study's folder holds its law file."""
    from transformer.scaling.laws import law_file

    return str(Path(path) / law_file.NAME) if Path(path).is_dir() else path


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
