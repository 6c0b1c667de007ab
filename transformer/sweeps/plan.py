"""Plan: the cells of a sweep, one for each combination of the values that fields of an experiment take.

SWEEP/sweep.json         the varied fields, and the cells with their values
SWEEP/experiments/, runs/, logs/    as `cells` has them
SWEEP/failures/NAME      why a run failed, in one line, until it is tried again
SWEEP/runs.csv           a row for each cell
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.errors import UserError
from transformer.paths import check_folder
from transformer.sweeps.cells import cell_named, experiment_path, outcome, read_plan, write_experiments
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment

VERSION = 1
_LONGEST = 32
"""Characters of a value in a run's name; a longer one is cut, and told apart by its digest."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Name of its folder, made of its values."""
    values: dict[str, Any]
    """Varied field, dotted -> its value here."""
    steps: int
    """Updates."""

    @property
    def own_steps(self) -> int:
        """Number of updates that it makes itself: all."""
        return self.steps

    @property
    def trunk(self) -> None:
        """None: it starts by itself."""

    @property
    def branch(self) -> None:
        """None, likewise."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The cells, and what they differ in."""

    preset: str
    fields: tuple[str, ...]
    """Varied fields, dotted, in the order in which they were given."""
    cells: tuple[Cell, ...]
    """Cells in the order in which they are run: the last field's values follow each other."""
    version: int = VERSION

    def __getitem__(self, name: str) -> Cell:
        return cell_named(self.cells, name, "the sweep")


def plan(preset: str, fields: Sequence[str], combinations: Sequence[tuple[Mapping[str, Any], Experiment]]) -> Sweep:
    """Returns a sweep.

    Args:
      preset: the preset that all runs share.
      fields: varied fields, dotted.
      combinations: the fields' values, and the experiment that has them.

    Raises:
      UserError: two combinations are the same.
    """
    cells = [Cell(name_of(values), dict(values), experiment.train.steps) for values, experiment in combinations]
    for name, number in Counter(cell.name for cell in cells).items():
        if number > 1:
            raise UserError(f"--vary: {name} is given {number} times: give each value once")
    return Sweep(preset, tuple(fields), tuple(cells))


def name_of(values: Mapping[str, Any]) -> str:
    """Returns a run's name, such as learning_rate=0.001,seed=0: a field's last word, or all where two end alike."""
    ends = Counter(field.rpartition(".")[2] for field in values)
    words = []
    for field, value in values.items():
        end = field.rpartition(".")[2]
        words.append(f"{end if ends[end] == 1 else field}={_word(value)}")
    return ",".join(words)


def _word(value: Any) -> str:
    """Returns a value as a part of a file's name; what it cannot hold is left out, and told by a digest."""
    text = str(value)
    shown = "-".join(map(str, value)) if isinstance(value, list) else text
    word = re.sub(r"[^\w.+-]+", "-", shown, flags=re.ASCII)
    if word == text and len(word) <= _LONGEST:  # never a list, which a word could look like
        return word
    return f"{word[-_LONGEST:]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def joined(sweep: Sweep, folder: epath.PathLike, planned: Mapping[str, Experiment]) -> Sweep:
    """Returns the sweep that a folder holds with the cells that are added to it; writes nothing.

    Args:
      sweep: the sweep that is asked for, all of whose cells may be there already.
      folder: a new folder, or a sweep's.
      planned: the experiment of each of its cells, by name.

    Raises:
      UserError: the folder holds another sweep, or something else.
    """
    place = epath.Path(folder)
    check_folder(folder)
    if (place / "sweep.json").exists():
        recorded = read(folder)
        _check_same(recorded, sweep, folder, planned)
        names = [cell.name for cell in recorded.cells]
        new = [cell for cell in sweep.cells if cell.name not in names]
        return dataclasses.replace(recorded, cells=(*recorded.cells, *new))
    # A kill may have come before the record was written.
    if place.exists() and any(path.name != "experiments" for path in place.iterdir()):
        raise UserError(f"{folder} is not empty and holds no sweep: give a new folder")
    return sweep


def write(sweep: Sweep, folder: epath.PathLike, planned: Mapping[str, Experiment]) -> None:
    """Writes a sweep, as `joined` returned it, and the experiments of the cells that the folder does not hold yet."""
    place = epath.Path(folder)
    known = [cell.name for cell in read(folder).cells] if (place / "sweep.json").exists() else []
    if new := [cell for cell in sweep.cells if cell.name not in known]:
        write_experiments(folder, new, planned)
        write_atomically(place / "sweep.json", to_json(dataclasses.asdict(sweep)))


def _check_same(recorded: Sweep, sweep: Sweep, folder: epath.PathLike, planned: Mapping[str, Experiment]) -> None:
    """Raises UserError where a folder's runs would not be comparable with those that are added, or asked for again."""
    if recorded.fields != sweep.fields:
        raise UserError(
            f"{folder} holds another sweep, of {', '.join(recorded.fields)}, not of {', '.join(sweep.fields)}: give a "
            "new folder"
        )
    # An added cell has the values of its own fields; in all others it is to be as the first.
    first = recorded.cells[0]
    for cell in sweep.cells:
        other = cell if any(cell.name == one.name for one in recorded.cells) else first
        before = experiments.read(experiment_path(folder, other))
        changed = experiments.differences(before, experiments.absolute(planned[cell.name]))
        fields = [field for field in changed if other is cell or not _is_in(field, sweep.fields)]
        if fields:
            old, new = changed[fields[0]]
            raise UserError(
                f"{folder} holds another sweep: {fields[0]} was {old!r}, now {new!r}. Give a new folder, or go on with "
                f"the recorded one: python tools/sweep.py {folder}"
            )


def _is_in(field: str, fields: Sequence[str]) -> bool:
    return any(field == one or field.startswith(f"{one}.") for one in fields)


def read(folder: epath.PathLike) -> Sweep:
    """Returns a folder's sweep; raises UserError where there is none, one of another version, or a damaged one."""
    path, hint = epath.Path(folder) / "sweep.json", "give --vary FIELD VALUE VALUE to begin a sweep"
    sweep = read_plan(path, Sweep, version=VERSION, noun="a sweep", hint=hint)
    for cell in sweep.cells:
        if set(cell.values) != set(sweep.fields):
            fields, values = ", ".join(sweep.fields), ", ".join(cell.values) or "nothing"
            raise UserError(f"{path}: not a sweep: it is of {fields}, and its run {cell.name} has values of {values}")
    return sweep


def failure_path(folder: epath.PathLike, cell: Cell) -> epath.Path:
    """Returns the path of the file that says why a cell's run failed."""
    return epath.Path(folder) / "failures" / cell.name


def note_failure(folder: epath.PathLike, cell: Cell, reason: str) -> None:
    """Writes down why a cell's run failed."""
    path = failure_path(folder, cell)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, f"{reason}\n".encode())


def failure(folder: epath.PathLike, cell: Cell) -> str:
    """Returns why a cell's run failed; empty where it did not, or is to be tried again."""
    path = failure_path(folder, cell)
    return path.read_text().strip() if path.exists() and not outcome(folder, cell).ended else ""
