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
"""Refits of each law but the first, where several are fitted: Chinchilla's alone are solved together, in a second."""


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
    """Take these rows alone: COLUMN=VALUE, several; of one column, any of its values."""
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
    """Optimal pairs in place of runs: a CSV file of budgets, their best sizes and these sizes' standard deviations."""
    pair_columns: tuple[str, ...] = ()
    """Of --pairs: the columns of C, N* and the standard deviation; none: by their usual names (C, N, sd, ...)."""
    log_deviation: bool = False
    """Of --pairs: the standard deviation is of log N*, and not of N*."""
    json: str | None = None
    """Write the laws here, for `predict`; of a study by default STUDY/law.json."""


_OF_COLUMNS = "params", "tokens", "flops", "loss", "unique_tokens", "where"
_OF_PAIRS = "pair_columns", "log_deviation"
_OF_LAWS = "fix", "objective", "isoflop_window", "drop_highest"
_IDLE = {
    "a study": (*_OF_COLUMNS, *_OF_PAIRS),
    "a table of runs": _OF_PAIRS,
    "a law of a setting": (*_OF_LAWS, *_OF_PAIRS, "law", "params", "tokens", "flops", "unique_tokens"),
    "a fit of optimal pairs": (*_OF_LAWS, "law", *_OF_COLUMNS[:-1]),
}
"""Flags that say nothing of what is fitted: to ignore one would be to answer another question."""


def fit(asked: FitCommand) -> None:
    """Prints the fitted laws; writes them."""
    # Read as NumPy is imported. Over matrices of seven columns threads only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    asked, kind = _checked(asked)
    if kind == "a law of a setting":
        fit_setting(asked)
    elif kind == "a fit of optimal pairs":
        fit_pairs(asked)
    else:
        fit_laws(asked)


def _checked(asked: FitCommand) -> tuple[FitCommand, str]:
    """Returns what is asked, a table's file in its place, and what is to be fitted.

    Raises:
      UserError: there is nothing to fit, or more than one thing, or a flag that does not concern it.
    """
    sources = [source for source in (asked.study, asked.table, asked.pairs) if source is not None]
    if len(sources) != 1:
        raise UserError(
            "fit takes a table of runs (a CSV file), the folder of a study, or --pairs FILE; "
            f"{len(sources) or 'none'} given"
        )
    if asked.study is not None and not Path(asked.study).expanduser().is_dir():
        if not Path(asked.study).expanduser().exists():
            raise UserError(f"{asked.study}: no such file or folder: give a table of runs, or plan a study first")
        asked = dataclasses.replace(asked, study=None, table=asked.study)
    kind = "a study" if asked.study else "a table of runs" if asked.table else "a fit of optimal pairs"
    if asked.setting is not None or asked.by:
        if asked.table is None or asked.setting is None or not asked.by:
            raise UserError("a law of a setting takes a table of sweeps: --table FILE --setting learning_rate --by N D")
        kind = "a law of a setting"
    defaults = {field.name: field.default for field in dataclasses.fields(FitCommand)}
    if idle := [name for name in _IDLE[kind] if getattr(asked, name) != defaults[name]]:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UserError(f"{flags}: {kind} has no use for that; leave it out")
    if asked.bootstrap < 0:
        raise UserError(f"--bootstrap {asked.bootstrap}: it is a number of refits")
    if asked.json is not None:
        check_file(asked.json, "--json")
    return asked, kind


def fit_laws(asked: FitCommand) -> None:
    """Prints a law of the loss, or all that can be fitted; writes them."""
    from transformer.scaling.laws import law_file, penalty, show, words
    from transformer.scaling.laws.how import How, parse_fixed

    how = How(penalty.named(asked.objective), parse_fixed(asked.fix), asked.isoflop_window)
    table, source = _of_study(asked) if asked.study else _of_table(asked)
    out = asked.json or (str(Path(asked.study).expanduser() / law_file.NAME) if asked.study else None)
    columns = ", ".join(f"{role} {name}" for role, name in table.columns.items() if name and role != name)
    heading = f"{source.path}: {words.count(len(table), 'run')}, {show.ranges(source)}"
    lines = [heading + (f"; columns: {columns}" if columns else ""), *show.warnings(table.warned)]
    if asked.law is None:
        fitted = _side_by_side(table, asked, how, lines)
    else:
        fitted = [_fit_law(table, asked.law, asked.bootstrap, asked.seed, how)]
        print("\n".join([*lines, *show.describe(fitted[0])]))
    if asked.study:
        from transformer.scaling.studies import held_out, study

        print("\n".join(held_out.describe(fitted, study.read(asked.study), asked.study)))
    if out is not None:
        law_file.write(out, fitted, source)
        print(f"\nwritten: {out}; python tools/scaling.py predict {out} --flops 1e21")


def _side_by_side(table: "RunTable", asked: FitCommand, how: "How", heading: list[str]) -> "list[Fitted]":
    """Returns all laws that can be fitted, printed as they come, then compared; why others cannot is said too.

    Raises:
      UserError: none can; it says why of each.
    """
    from transformer.scaling.laws import methods, show

    fitted, reasons = [], []
    names = list(methods.SIDE_BY_SIDE)
    for name in names:
        try:
            count = min(asked.bootstrap, BESIDE) if fitted else asked.bootstrap
            fitted.append(_fit_law(table, name, count, asked.seed, how))
        except UserError as error:
            reasons.append(f"{name}: {str(error).removeprefix(name).lstrip(': ')}")
            if name == "kaplan":  # what both cannot say, one may
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


def fit_pairs(asked: FitCommand) -> None:
    """Prints the power law through published optima."""
    from transformer.scaling.laws import law_file, pairs, show, words

    path = str(asked.pairs)
    given = pairs.read(path, asked.pair_columns, asked.log_deviation, asked.where)
    fitted = pairs.fit(given, asked.bootstrap, asked.seed)
    columns: dict[str, str | None] = dict(zip(("flops", "params", "deviation"), given.columns, strict=True))
    source = law_file.source_of(given.table(), path, columns, 0)
    heading = f"{path}: {words.count(len(given.flops), 'pair')}, {show.ranges(source)}"
    print("\n".join([heading, *show.warnings(given.warned), *show.describe(fitted)]))
    if asked.json is not None:
        law_file.write(asked.json, [fitted], source)
        print(f"\nwritten: {asked.json}; python tools/scaling.py predict {asked.json} --flops 1e21")


def fit_setting(asked: FitCommand) -> None:
    """Prints the power law of a setting's best value."""
    from transformer.scaling.laws import law_file, power_law, show, words
    from transformer.scaling.laws.reading import read_sweeps

    assert asked.table is not None
    assert asked.setting is not None
    setting, loss, at = read_sweeps(asked.table, asked.setting, asked.by, asked.loss, asked.where)
    found = power_law.fit(setting, loss, at, f"values of {asked.setting}")
    print(f"{asked.table}: {words.count(len(loss), 'run')}, {words.count(len(found.sweeps), 'sweep')}")
    print("\n".join([*show.of_setting(found, asked.setting), *show.warnings(found.warnings)]))
    if asked.json is not None:
        record = {"setting": asked.setting, **dataclasses.asdict(found.law), "standard_errors": found.errors}
        record |= {"error": found.error, "warnings": [warned._asdict() for warned in found.warnings]}
        write_file(asked.json, json.dumps(law_file.plain(record), allow_nan=False) + "\n")
        print(f"written: {asked.json}")


def _of_table(asked: FitCommand) -> "tuple[RunTable, TableRecord]":
    """Returns the rows of a file to fit, and where they are from."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import Columns, drop_highest, read

    columns = Columns(asked.params, asked.tokens, asked.loss, asked.flops, asked.unique_tokens)
    path = str(asked.table)
    table = drop_highest(read(path, columns, asked.where), asked.drop_highest)
    return table, law_file.source_of(table, path, table.columns, asked.drop_highest)


def _of_study(asked: FitCommand) -> "tuple[RunTable, TableRecord]":
    """Returns the runs of a study to fit, and where they are from; writes them to runs.csv."""
    from transformer.scaling.laws import law_file
    from transformer.scaling.laws.reading import drop_highest
    from transformer.scaling.studies import study as studies

    folder = str(asked.study)
    study = studies.read(folder)
    studies.write_rows(study, folder)
    table = drop_highest(studies.table(study, folder), asked.drop_highest)
    return table, law_file.source_of(table, folder, {"params": f"N, {study.size}"}, asked.drop_highest)
