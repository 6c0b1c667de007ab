"""The law file: fitted laws as JSON, with all that a prediction and a sceptic need, and the digest of their data.

format, version     "scaling-law", 1
law                 the first law's name; then, beside it in the file, that law's fields:
  E, A, ...           its numbers, and `a` of N* ~ C^a where it has one; null where the runs did not say
  objective, rows     the minimised value, over how many runs; `minimised` says in words what it is
  goodness            r_squared and rms_error of log loss
  fixed               the numbers that were given and not fitted: they have no error and no interval
  standard_errors, intervals      standard deviation and 95 % percentiles of each number over the refits
  bootstrap           how many refits were tried, how many failed
  samples             the refits' numbers, so that a prediction has an interval without the data
  residuals           log loss less the law's, of each run
  warnings            codes and lines
  findings            convergence, condition, minima, influence, outliers, drift, lack of fit (the parametric law)
table               its path, digest, columns, rows dropped, ranges, and how params and FLOPs were counted
beside              the other laws, each with the same fields
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.paths import write_file
from transformer.scaling.laws import bootstrap as bootstraps
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.law import Fit, Warned
from transformer.scaling.laws.methods import method
from transformer.scaling.laws.table import RunTable

NAME = "law.json"
"""Name of the law file in a study's folder."""
FORMAT, VERSION = "scaling-law", 1


class Goodness(NamedTuple):
    """How well a law describes the runs it was fitted to; NaN where it says no loss of a run."""

    r_squared: float
    """1 less the mean square of the residuals of log loss over its variance."""
    rms_error: float
    """Root mean square of the residuals of log loss: the relative error of a run."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A law with its uncertainty."""

    fit: Fit
    bootstrap: Bootstrap
    residuals: np.ndarray
    """[R] log loss less the law's; empty where it says no loss."""
    findings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Convergence, minima, influence, outliers, drift and lack of fit, as plain values."""
    goodness: Goodness = Goodness(math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class TableRecord:
    """The table that laws were fitted to."""

    path: str
    digest: str
    convention: str
    """How FLOPs were counted."""
    columns: Mapping[str, str | None]
    """Role -> name of its column; N is counted as the column's owner counted it."""
    dropped: int
    """Number of rows, those of the highest losses, that were left out."""
    ranges: Mapping[str, tuple[float, float]]
    """The smallest and the largest params, tokens and FLOPs."""


def source_of(table: RunTable, path: str, columns: Mapping[str, str | None], dropped: int) -> TableRecord:
    """Returns the record of a table, as it was fitted."""
    values = {"params": table.params, "tokens": table.tokens, "flops": table.flops}
    ranges = {name: (float(column.min()), float(column.max())) for name, column in values.items()}
    return TableRecord(path, table.digest(), table.convention, columns, dropped, ranges)


def write(path: str | Path, fitted: Sequence[Fitted], source: TableRecord) -> None:
    """Writes the laws, the first on top."""
    first, *others = (_to_record(each) for each in fitted)
    record = {"format": FORMAT, "version": VERSION, **first, "table": dataclasses.asdict(source), "beside": others}
    write_file(path, json.dumps(plain(record), allow_nan=False) + "\n")


def read(path: str | Path, law: str | None = None) -> tuple[Fitted, TableRecord]:
    """Returns a law of a file, by default the first, and its table's record.

    Raises:
      UserError: no such file, no law file, one of another version, or the law is not in it.
    """
    records, source = _load(path)
    name = next(iter(records)) if law is None else law
    if name not in records:
        raise UserError(f"{path} has no law {name!r}; it has: {', '.join(records)}")
    return _from_record(records[name]), source


def read_all(path: str | Path) -> tuple[list[Fitted], TableRecord]:
    """Returns all laws of a file, in its order, and their table's record; raises UserError as `read`."""
    records, source = _load(path)
    return [_from_record(record) for record in records.values()], source


def _load(path: str | Path) -> tuple[dict[str, Any], TableRecord]:
    """Returns the laws' records by name, and their table's."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; `tools/scaling.py fit ... --json {path.name}` writes one")
    try:
        record = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no law file: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{path} is no law file: `tools/scaling.py fit ... --json {path.name}` writes one")
    if record["version"] != VERSION:
        raise UserError(f"{path} is a law file of version {record['version']}; this program reads {VERSION}: fit again")
    table = record["table"]
    ranges = {key: (low, high) for key, (low, high) in table["ranges"].items()}
    return {each["law"]: each for each in (record, *record["beside"])}, TableRecord(**{**table, "ranges": ranges})


def _to_record(fitted: Fitted) -> dict[str, Any]:
    fit, refits = fitted.fit, fitted.bootstrap
    fields = [field.name for field in dataclasses.fields(fit.law)]
    return {
        "law": fit.law.name,
        **fit.law.parameters(),
        "objective": fit.objective,
        "minimised": fit.minimised,
        "fixed": list(fit.fixed),
        "rows": fit.rows,
        "goodness": fitted.goodness._asdict(),
        "standard_errors": refits.standard_errors(),
        "intervals": refits.intervals(),
        "interval_kind": "95 % percentiles of refits to runs drawn with replacement",
        "bootstrap": {"count": len(refits.laws) + refits.failed, "failed": refits.failed},
        "warnings": [warning._asdict() for warning in fit.warnings],
        "findings": fitted.findings,
        "residuals": [_short(value) for value in fitted.residuals],
        "samples": {name: [_short(getattr(law, name)) for law in refits.laws] for name in fields},
    }


def _from_record(record: Mapping[str, Any]) -> Fitted:
    law = method(record["law"]).law
    fields = [field.name for field in dataclasses.fields(law)]
    fit = Fit(
        law(**{name: _number(record[name]) for name in fields}),
        _number(record["objective"]),
        record["rows"],
        tuple(Warned(**warning) for warning in record["warnings"]),
        record.get("minimised", ""),
        tuple(record.get("fixed", ())),
    )
    samples = record["samples"]
    vectors = {name: [_number(value) for value in samples[name]] for name in fields}
    refits = bootstraps.of_vectors(law, vectors, record["bootstrap"]["failed"])
    # Files of before `goodness` was kept lack it.
    goodness = Goodness(*(_number(record.get("goodness", {}).get(name)) for name in Goodness._fields))
    return Fitted(fit, refits, np.array(record["residuals"], np.float64), record["findings"], goodness)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _short(value: float) -> float:
    """Returns a number rounded to nine digits, so that a thousand refits make a small file."""
    return float(f"{value:.9g}")


def plain(value: Any) -> Any:
    """Returns a value for strict JSON, in which NaN and infinities are null."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
