"""`tools/scaling.py fit`: laws fitted to a study or to a table, printed side by side, and written."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from transformer.errors import UserError
from transformer.paths import check_file, write_file

if TYPE_CHECKING:  # SciPy and JAX take seconds to import, after the flags are known to be good
    from transformer.scaling.laws.how import How
    from transformer.scaling.laws.law_file import Fitted, TableRecord
    from transformer.scaling.laws.table import RunTable

BESIDE = 40
"""Refits of each law but the first, where several are fitted."""


@dataclasses.dataclass(frozen=True)
class FitCommand:
    """Fit laws, with intervals, to a study's runs or to a table: --table runs.csv --params N --tokens D --loss loss."""

    study: tyro.conf.Positional[str | None] = None
    """A table's file, or the folder of a study whose runs have ended."""
    table: str | None = None
    """A CSV file with a header line and a row for each run. Usual names of columns (N, params, D, tokens, C, flops,
    val_loss, ...) are known."""
    params: str | None = None
    """The column of N, a run's parameters; where there is none, N = C / (6 D)."""
    tokens: str | None = None
    """The column of D, the tokens a run read; where there is none, or only --flops is named, D = C / (6 N)."""
    flops: str | None = None
    """The column of C, a run's training FLOPs; where there is none, or it is 6ND, C = 6 N D."""
    loss: str | None = None
    """The column of the loss, nats."""
    unique_tokens: str | None = None
    """The column of the tokens that the corpus has, where they are read more than once."""
    where: tuple[str, ...] = ()
    """Take these rows alone: COLUMN=VALUE, several; several values of one column add up."""
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
    """Refits to runs drawn with replacement, for the intervals; at most 40 for each law beside the first. 0: none."""
    seed: int = 0
    """Seed of the draws."""
    fix: tuple[str, ...] = ()
    """Parameters that are known and not fitted, such as E=1.69 alpha=0.34."""
    objective: str = "huber"
    """Penalty of the errors of log loss whose sum over runs is minimised: huber or squares."""
    isoflop_window: float = 4.0
    """Factor about an isoflop parabola's lowest point within which sizes count; inf: all."""
    pairs: str | None = None
    """Optimal pairs in place of runs: a CSV file of budgets, their best sizes and these sizes' standard deviations."""
    pair_columns: tuple[str, ...] = ()
    """Columns of --pairs: C, N* and the standard deviation; none: by their usual names (C, N, sd, ...)."""
    log_deviation: bool = False
    """Take the standard deviations of --pairs as those of log N*, and not of N*."""
    json: str | None = None
    """Write the laws here, for `predict`; for a study, STUDY/law.json by default."""


_OF_COLUMNS = "params", "tokens", "flops", "loss", "unique_tokens", "where"
_OF_PAIRS = "pair_columns", "log_deviation"
_OF_LAWS = "fix", "objective", "isoflop_window", "drop_highest"
_IDLE = {
    "a study": (*_OF_COLUMNS, *_OF_PAIRS),
    "a table of runs": _OF_PAIRS,
    "a law of a setting": (*_OF_LAWS, *_OF_PAIRS, "law", "params", "tokens", "flops", "unique_tokens"),
    "a fit of optimal pairs": (*_OF_LAWS, "law", *_OF_COLUMNS[:-1]),
}
"""Flags that do not apply to a kind of fit: they are refused, since ignoring one would answer another question."""


def fit(flags: FitCommand) -> None:
    """Prints and writes the fitted laws."""
    # Read as NumPy is imported. Over matrices of seven columns threads only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flags, kind = _checked(flags)
    if kind == "a law of a setting":
        fit_setting(flags)
    elif kind == "a fit of optimal pairs":
        fit_pairs(flags)
    else:
        fit_laws(flags)


def _checked(flags: FitCommand) -> tuple[FitCommand, str]:
    """Returns the flags, with a table's file under `table`, and the kind of fit.

    Raises:
      UserError: there is nothing to fit, more than one thing, or a flag that does not apply.
    """
    sources = [source for source in (flags.study, flags.table, flags.pairs) if source is not None]
    if len(sources) != 1:
        raise UserError(
            "fit takes a table of runs (a CSV file), the folder of a study, or --pairs FILE; "
            f"{len(sources) or 'none'} given"
        )
    if flags.study is not None and not Path(flags.study).expanduser().is_dir():
        if not Path(flags.study).expanduser().exists():
            raise UserError(f"{flags.study}: no such file or folder: give a table of runs, or plan a study first")
        flags = dataclasses.replace(flags, study=None, table=flags.study)
    kind = "a study" if flags.study else "a table of runs" if flags.table else "a fit of optimal pairs"
    if flags.setting is not None or flags.by:
        if flags.table is None or flags.setting is None or not flags.by:
            raise UserError("a law of a setting takes a table of sweeps: --table FILE --setting learning_rate --by N D")
        kind = "a law of a setting"
    defaults = {field.name: field.default for field in dataclasses.fields(FitCommand)}
    if idle := [name for name in _IDLE[kind] if getattr(flags, name) != defaults[name]]:
        idle_flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UserError(f"{idle_flags}: {kind} has no use for that; leave it out")
    if flags.bootstrap < 0:
        raise UserError(f"--bootstrap {flags.bootstrap}: it is a number of refits")
    if flags.json is not None:
        check_file(flags.json, "--json")
    return flags, kind


def fit_laws(flags: FitCommand) -> None:
    """Prints and writes one law of the loss, or all that can be fitted."""
    from transformer.scaling.laws import law_file, penalty, show, words
    from transformer.scaling.laws.how import How, parse_fixed

    how = How(penalty.named(flags.objective), parse_fixed(flags.fix), flags.isoflop_window)
    table, source = _of_study(flags) if flags.study else _of_table(flags)
    out = flags.json or (str(Path(flags.study).expanduser() / law_file.NAME) if flags.study else None)
    columns = ", ".join(f"{role} {name}" for role, name in table.columns.items() if name and role != name)
    heading = f"{source.path}: {words.count(len(table), 'run')}, {show.ranges(source)}"
    lines = [heading + (f"; columns: {columns}" if columns else ""), *show.warnings(table.warned)]
    if flags.law is None:
        fitted = _side_by_side(table, flags, how, lines)
    else:
        fitted = [_fit_law(table, flags.law, flags.bootstrap, flags.seed, how)]
        print("\n".join([*lines, *show.describe(fitted[0])]))
    if flags.study:
        from transformer.scaling.studies import held_out, study

        print("\n".join(held_out.describe(fitted, study.read(flags.study), flags.study)))
    if out is not None:
        law_file.write(out, fitted, source)
        print(f"\nwritten: {out}; python tools/scaling.py predict {out} --flops 1e21")


def _side_by_side(table: "RunTable", flags: FitCommand, how: "How", heading: list[str]) -> "list[Fitted]":
    """Returns all laws that can be fitted; prints each as it is fitted, a comparison, and why others cannot be.

    Raises:
      UserError: none can; it gives the reason for each.
    """
    from transformer.scaling.laws import methods, show

    fitted, reasons = [], []
    names = list(methods.SIDE_BY_SIDE)
    for name in names:
        try:
            count = min(flags.bootstrap, BESIDE) if fitted else flags.bootstrap
            fitted.append(_fit_law(table, name, count, flags.seed, how))
        except UserError as error:
            reasons.append(f"{name}: {str(error).removeprefix(name).lstrip(': ')}")
            if name == "kaplan":  # a law of one variable may fit where the joint one cannot
                names += [other for other in ("kaplan-n", "kaplan-d") if f"--law {other} " in str(error)]
            continue
        print("\n".join([*(heading if len(fitted) == 1 else []), *show.describe(fitted[-1])]), flush=True)
    if not fitted:
        raise UserError("no law can be fitted to this table; " + "; ".join(reasons))
    print("\n".join(["", *show.compare(fitted, 10 * float(table.flops.max()))]))
    if reasons:
        print("\n".join(["", "not fitted:", *(f"  {reason}" for reason in reasons)]))
    return fitted


def _fit_law(table: "RunTable", law: str, count: int, seed: int, how: "How") -> "Fitted":
    from tqdm import tqdm

    from transformer.scaling.laws import fitting

    with tqdm(total=count, desc=f"{law} refits", leave=False, disable=None) as bar:
        return fitting.fit(table, law, count, seed, how, bar.update)


def fit_pairs(flags: FitCommand) -> None:
    """Prints the power law through published optima."""
    from transformer.scaling.laws import law_file, pairs, show, words

    path = str(flags.pairs)
    given = pairs.read(path, flags.pair_columns, flags.log_deviation, flags.where)
    fitted = pairs.fit(given, flags.bootstrap, flags.seed)
    columns: dict[str, str | None] = dict(zip(("flops", "params", "deviation"), given.columns, strict=True))
    source = law_file.source_of(given.table(), path, columns, 0)
    heading = f"{path}: {words.count(len(given.flops), 'pair')}, {show.ranges(source)}"
    print("\n".join([heading, *show.warnings(given.warned), *show.describe(fitted)]))
    if flags.json is not None:
        law_file.write(flags.json, [fitted], source)
        print(f"\nwritten: {flags.json}; python tools/scaling.py predict {flags.json} --flops 1e21")


def fit_setting(flags: FitCommand) -> None:
    """Prints the power law of a setting's best value."""
    from transformer.scaling.laws import law_file, power_law, show, words
    from transformer.scaling.laws.reading import read_sweeps

    assert flags.table is not None
    assert flags.setting is not None
    setting, loss, at = read_sweeps(flags.table, flags.setting, flags.by, flags.loss, flags.where)
    fit = power_law.fit(setting, loss, at, f"values of {flags.setting}")
    print(f"{flags.table}: {words.count(len(loss), 'run')}, {words.count(len(fit.sweeps), 'sweep')}")
    print("\n".join([*show.of_setting(fit, flags.setting), *show.warnings(fit.warnings)]))
    if flags.json is not None:
        record = {"setting": flags.setting, **dataclasses.asdict(fit.law), "standard_errors": fit.errors}
        record |= {"error": fit.error, "warnings": [warned._asdict() for warned in fit.warnings]}
        write_file(flags.json, json.dumps(law_file.plain(record), allow_nan=False) + "\n")
        print(f"written: {flags.json}")


def _of_table(flags: FitCommand) -> "tuple[RunTable, TableRecord]":
    """Returns the rows of a file to fit, and the record of their table."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import Columns, drop_highest, read

    columns = Columns(flags.params, flags.tokens, flags.loss, flags.flops, flags.unique_tokens)
    path = str(flags.table)
    table = drop_highest(read(path, columns, flags.where), flags.drop_highest)
    return table, law_file.source_of(table, path, table.columns, flags.drop_highest)


def _of_study(flags: FitCommand) -> "tuple[RunTable, TableRecord]":
    """Returns the runs of a study to fit, and the record of their table; writes them to runs.csv."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import drop_highest
    from transformer.scaling.studies import study as studies

    folder = str(flags.study)
    study = studies.read(folder)
    studies.write_rows(study, folder)
    table = drop_highest(studies.table(study, folder), flags.drop_highest)
    return table, law_file.source_of(table, folder, {"params": f"N, {study.size}"}, flags.drop_highest)
