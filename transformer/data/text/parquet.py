"""Parquet files: columns of texts, read a batch of rows at a time, and where the file can be cut.

A file is cut between its row groups. Their places are counted in bytes of all columns, uncompressed, as if the groups
lay one after the other.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.errors import UserError

_ROWS = 256  # read at a time
_BUFFER_BYTES = 1 << 20  # of a column read at a time; without it a whole row group would be


class Group(NamedTuple):
    start: int
    """Where its bytes begin."""
    row: int
    """The number of its first row, from 0."""


class Layout(NamedTuple):
    groups: list[Group]
    """The row groups that have rows."""
    size: int
    """Where the last one ends."""
    rows: int

    def cuts(self, part_bytes: int) -> list[Group]:
        """Returns the groups that begin parts of about so many bytes, the first one among them."""
        first_groups = [Group(0, 0)]
        for group, end in itertools.pairwise([*self.groups, Group(self.size, self.rows)]):
            if group.start > first_groups[-1].start and end.start - first_groups[-1].start > part_bytes:
                first_groups.append(group)
        return first_groups


def layout(path: Path) -> Layout:
    """Returns how a Parquet file is divided, from its footer."""
    with _Opened(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        sizes = [max(1, group.total_byte_size) if group.num_rows else 0 for group in groups]
        starts = itertools.accumulate(sizes, initial=0)
        rows = itertools.accumulate((group.num_rows for group in groups), initial=0)
        filled = [
            Group(*place)
            for place, group in zip(zip(starts, rows, strict=True), groups, strict=False)
            if group.num_rows
        ]
        return Layout(filled, sum(sizes), file.metadata.num_rows)


def texts(
    path: Path, columns: Sequence[str], start: int, stop: int, flag: str
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number of each row of the groups that begin in [start, stop), and its texts; null is an empty text.

    Args:
      flag: of the command line, which names the columns.

    Raises:
      UserError: the file is damaged, or a column is missing or holds no texts.
    """
    chosen = layout(path)
    with _Opened(path) as file:
        _check(file, path, columns, flag)
        numbers = [i for i in range(file.metadata.num_row_groups) if file.metadata.row_group(i).num_rows]
        for number, group in zip(numbers, chosen.groups, strict=True):
            if not start <= group.start < stop:
                continue
            row = group.row
            for batch in file.iter_batches(_ROWS, row_groups=[number], columns=list(dict.fromkeys(columns))):
                sides = [_strings(_column(batch, column), path, row) for column in columns]
                for values in zip(*sides, strict=True):
                    yield row, values
                    row += 1


def _column(batch: Any, name: str) -> Any:
    """Returns a column, or a field of one (`translation.en`), which is null where the column is."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    while name not in columns:
        outer, _, name = name.partition(".")
        fields = [field.name for field in columns[outer].type]
        columns = dict(zip(fields, columns[outer].flatten(), strict=True))
    return columns[name]


def _strings(column: Any, path: Path, row: int) -> list[str]:
    strings = []
    for place, value in enumerate(column):
        try:
            strings.append(value.as_py() or "")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: row {row + place + 1} is not UTF-8: {error.reason} at byte {error.start}."
            ) from None
    return strings


def _check(file: Any, path: Path, columns: Sequence[str], flag: str) -> None:
    import pyarrow

    types = pyarrow.types
    kinds = dict(_kinds(file.schema_arrow))
    for column in columns:
        if column not in kinds:
            names = ", ".join(kinds) or "none"
            raise UserError(f"{path}: no column {column!r}; its columns are: {names}. Name one with {flag}.")
        kind = kinds[column]
        content = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(content) or types.is_large_string(content) or types.is_string_view(content)):
            raise UserError(f"{path}: column {column!r} is of {kind}, not of strings. Set {flag}.")


def _kinds(fields: Any, outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the names and types of columns, and of the fields of those that hold some (`translation.en`)."""
    import pyarrow

    for field in fields:
        if pyarrow.types.is_struct(field.type):
            yield from _kinds(field.type, f"{outer}{field.name}.")
        else:
            yield f"{outer}{field.name}", field.type


class _Opened:
    """A Parquet file that is open for a block; what goes wrong with it there is one line."""

    def __init__(self, path: Path):
        self._path = path
        self._file: Any = None

    def __enter__(self) -> Any:
        from pyarrow import parquet  # loads in a tenth of a second, and only where it is used

        try:
            self._file = parquet.ParquetFile(self._path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except Exception as error:
            raise self._explain(error) from None
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._file.close()
        if error is not None and isinstance(error, Exception):
            explained = self._explain(error)
            if explained is not error:
                raise explained from None

    def _explain(self, error: Exception) -> Exception:
        import pyarrow

        if isinstance(error, PermissionError):
            return UserError(f"{self._path} cannot be read: permission denied.")
        if isinstance(error, pyarrow.ArrowException | OSError):
            reason = (str(error).splitlines() or ["damaged"])[0].rstrip(".")
            return UserError(f"{self._path} is not a whole Parquet file ({reason}). Copy it again.")
        return error
